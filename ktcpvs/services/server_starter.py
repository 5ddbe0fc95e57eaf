"""Servers that start with the first request and stop when they are idle (`server = ADDRESS start PROGRAM`).

The programs are in one folder, which only the machine's administrator can name (--start-folder): whoever may change the
table, over a network or on another node of a cluster, can start these programs and no other commands.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from ktcpvs.errors import BadValue
from ktcpvs.model.address import Address, Inet
from ktcpvs.model.health import IDLE, STARTING
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.system import log as levels
from ktcpvs.system.files import untrusted_path
from ktcpvs.system.network_errors import network_reason
from ktcpvs.system.program import Program
from ktcpvs.system.program_guard import ProgramGuard

RUNNING, STOPPING = "running", "stopping"

PROBE_INTERVAL = 0.1
"""Seconds between two attempts to connect to a server that is being started."""

FIRST_PAUSE, MAX_PAUSE = 0.5, 60.0
"""Seconds until a program that has ended by itself is started again: the first time, and the longest."""

STABLE_TIME = 60.0
"""Seconds for which a program must have run, so that the pause is the first one again."""


KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TZ", "USER")
"""The variables of the daemon's environment that programs get."""


class Started(Protocol):
    """A server on demand, as the table has it. settings: of its service. probe: fires when the server accepts
    connections and its check passes, and fails otherwise. active: the number of its connections now. changed: called
    when it begins to run, or does so no more."""

    @property
    def program(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    def probe(self) -> Deferred[object]: ...

    def active(self) -> int: ...

    def changed(self) -> None: ...


def unfit_program(path: Path) -> str | None:
    """Return why the program at `path` must not be started, or cannot be; None: it may be."""
    try:
        why = untrusted_path(str(path))
        if why is None and not (path.is_file() and os.access(path, os.X_OK)):
            why = f"{path} is not a program that may be executed"
    except OSError as error:
        why = f"{path}: {error.strerror}"
    return why


class ServerStarter:
    """Starts and stops servers. Provides Starter."""

    def __init__(self, context: Context, folder: Path) -> None:
        """folder: of the programs."""
        self._context = context
        self._folder = folder
        self._guard = ProgramGuard()
        self._servers: dict[Address, _Server] = {}
        self._is_stopping = False
        self._is_handed_over = False

    def check(self, program: str) -> None:
        """Raise BadValue unless the folder has that program, and nobody else can change it."""
        why = unfit_program(self._folder / program)
        if why is not None:
            raise BadValue(f"start {program}: {why}")

    def begin(self) -> None:
        """The reactor runs: stop idle servers from now on."""
        self._context.wheel.repeat(0, self._tick)

    def follow(self, wanted: Iterable[tuple[Address, Started]]) -> None:
        """These servers may be started from now on. Others stop once they have no connections."""
        found = dict(wanted)
        for address, started in found.items():
            known = self._servers.get(address)
            if known is None:
                self._servers[address] = _Server(self._context, self._folder, self._guard, address, started)
            else:
                known.started, known.is_leaving = started, False
        for address, server in self._servers.items():
            server.is_leaving = address not in found

    def want(self, address: Address) -> Deferred[None]:
        server = self._servers.get(address)
        if server is None or self._is_stopping:
            return fail(ConnectError(string="it is not started any more"))
        return server.want()

    def state(self, address: Address) -> str | None:
        server = self._servers.get(address)
        return None if server is None or server.state == RUNNING else IDLE if server.state == IDLE else STARTING

    def is_running(self, address: Address) -> bool:
        """Whether it is up to the checks whether that server is used."""
        server = self._servers.get(address)
        return server is None or server.state == RUNNING

    def hand_over(self) -> None:
        """Another daemon uses the servers too: stop none of them before the end."""
        self._is_handed_over = True

    def stop(self) -> Deferred[None]:
        """Stop all of them. Fires when they have ended."""
        self._is_stopping = True
        ended: Deferred[None] = Deferred()
        left = [server for server in self._servers.values() if server.is_alive]

        def one_has_ended() -> None:
            if not any(server.is_alive for server in left) and not ended.called:
                self._guard.close()
                ended.callback(None)

        for server in self._servers.values():
            server.when_ended = one_has_ended
            server.end("the switch stops")
        one_has_ended()
        return ended

    def _tick(self) -> bool:
        for address, server in list(self._servers.items()):
            if not self._is_handed_over:
                server.check_idle()
            if server.is_leaving and not server.is_alive and server.state in (IDLE, RUNNING):
                del self._servers[address]
        return True


class _Server:
    """One server. state: IDLE, STARTING, RUNNING or STOPPING. is_alive: its program runs here. is_leaving: it is in the
    table no more. when_ended: called when the program has ended."""

    def __init__(self, context: Context, folder: Path, guard: ProgramGuard, address: Address, started: Started) -> None:
        self.address = address
        self.started = started
        self.state = IDLE
        self.is_leaving = False
        self.when_ended: Callable[[], object] = lambda: None
        self._context = context
        self._reactor = context.reactor
        self._folder = folder
        self._guard = guard
        self._program: Program | None = None
        self._waiting: list[Deferred[None]] = []
        self._probing: Deferred[object] | None = None
        self._call: Any = None  # the next attempt to connect, or the end of patience
        self._failures = 0  # starts in a row that have not led to a server that runs for STABLE_TIME
        self._deadline = 0.0  # of this start
        self._began = 0.0  # when the program was started
        self._used = 0.0  # when it was last known to be in use
        self._not_before = 0.0  # when the program may be started again
        self._is_found = False  # it runs, and was not started here
        self._reason = ""  # why the last start has failed

    def __repr__(self) -> str:
        return f"<server on demand {self.address}: {self.state}>"

    @property
    def is_alive(self) -> bool:
        return self._program is not None

    def want(self) -> Deferred[None]:
        """See Starter."""
        now = self._reactor.seconds()
        self._used = now
        if self.state == RUNNING and self.is_alive:
            return succeed(None)
        if self.state == IDLE and now < self._not_before:
            return fail(ConnectError(string=f"{self._reason}; it is started again in {self._pause_left(now)} s"))
        answer: Deferred[None] = Deferred(self._not_wanted)
        self._waiting.append(answer)
        if self.state in (IDLE, RUNNING):
            self._begin()
        return answer

    def _pause_left(self, now: float) -> int:
        return math.ceil(self._not_before - now)

    def _not_wanted(self, answer: Deferred[None]) -> None:
        if answer in self._waiting:
            self._waiting.remove(answer)

    def _begin(self) -> None:
        """See whether the server runs already: the daemon that this one has taken over from may have started it."""
        self.state = STARTING
        self._reason = ""
        self._deadline = self._reactor.seconds() + self.started.settings.start_timeout
        self._probe()

    def _probe(self) -> None:
        self._call = None
        self._probing = self.started.probe()
        self._probing.addCallbacks(self._answered, self._not_answered)

    def _answered(self, _: object) -> None:
        self._probing = None
        if self.state != STARTING:
            return
        if self.is_alive or not self._is_found:
            self._log("runs" if self.is_alive else "runs already, and is used as it is")
        self._is_found = not self.is_alive
        self.state = RUNNING
        self._used = self._reactor.seconds()
        self._reason = ""
        self.started.changed()
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.callback(None)

    def _not_answered(self, why: Failure) -> None:
        self._probing = None
        now = self._reactor.seconds()
        if self.state != STARTING:
            return
        if now >= self._deadline:
            what = self._reason or f"it is not ready: {network_reason(why)}"
            self._give_up(f"{what}, {self.started.settings.start_timeout} s after the start")
            return
        if not self.is_alive and now >= self._not_before and not self._run():
            self._give_up(self._reason)
            return
        self._call = self._reactor.callLater(PROBE_INTERVAL, self._probe)

    def _run(self) -> bool:
        """Start the program. Return whether that is possible."""
        path = self._folder / self.started.program
        if (why := unfit_program(path)) is not None:  # someone has changed it since it was named
            self._reason = f"{path} is not started: {why}"
            return False
        try:
            self._program = Program(self._reactor, [str(path)], self._environment(), self._log, self._ended)
        except OSError as error:
            self._reason = f"{path} cannot be started: {error.strerror}"
            return False
        self._began, self._is_found = self._reactor.seconds(), False
        try:
            self._guard.add(self._program.pid, self._context.settings.stop_timeout)
        except OSError as error:
            self._log(f"would outlive a daemon that is killed: {error.strerror}")
        self._log(f"is started: {path}, process {self._program.pid}")
        return True

    def _environment(self) -> dict[str, str]:
        """The variables of the program: few of the daemon's, and the server's address."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        address = self.address
        where = {"KTCPVS_SERVER": str(address)}
        if isinstance(address, Inet):
            where |= {"KTCPVS_HOST": address.host, "KTCPVS_PORT": str(address.port)}
        return {"PATH": os.defpath, **kept, **where}

    def _log(self, text: str) -> None:
        self._context.log.event(levels.ANNOUNCE, "server {address}: {text}", address=self.address, text=text)

    def _ended(self, how: str) -> None:
        """The program has ended."""
        was = self.state
        if self._program is not None:
            with suppress(OSError):
                self._guard.remove(self._program.pid)
        self._program = None
        self._cancel()
        now = self._reactor.seconds()
        self._log(f"has ended: {how}")
        if was == STARTING:
            self._failures += 1
            self._reason = f"{self.started.program} has ended: {how}"
            self._not_before = now + self._pause()
            self._call = self._reactor.callLater(PROBE_INTERVAL, self._probe) if self._probing is None else None
        else:
            if was == RUNNING:
                self._failures = 0 if now - self._began >= STABLE_TIME else self._failures + 1
                self._reason = f"{self.started.program} has ended: {how}"
                self._not_before = now + self._pause() if self._failures else now
            self.state = IDLE
            self.started.changed()
            if self._waiting:
                self._begin()
        self.when_ended()

    def _pause(self) -> float:
        return min(FIRST_PAUSE * (1 << min(self._failures - 1, 16)), MAX_PAUSE)

    def _give_up(self, why: str) -> None:
        self._reason = why
        self._failures += not self._failures
        self._not_before = self._reactor.seconds() + self._pause()
        self._log(f"cannot be started: {why}")
        waiting, self._waiting = self._waiting, []
        if self.is_alive:
            self.stop()
        else:
            self.state = IDLE
        for answer in waiting:
            answer.errback(Failure(ConnectError(string=f"it cannot be started: {why}")))

    def check_idle(self) -> None:
        """Stop the server when it has had no connection for some time."""
        now, seconds = self._reactor.seconds(), self.started.settings.stop_after
        if self.started.active():
            self._used = now
        elif self.state == RUNNING and self.is_alive and (self.is_leaving or (seconds and now - self._used >= seconds)):
            why = "it is in the table no more" if self.is_leaving else f"idle for {seconds} s"
            self._log(f"is stopped: {why}")
            self.stop()

    def end(self, why: str) -> None:
        """Stop the program for good, or start it no more. why: for those who still wait for it."""
        waiting, self._waiting = self._waiting, []
        if self.is_alive:
            self.stop()
        else:
            self._cancel()
            self.state = IDLE
        for answer in waiting:
            answer.errback(Failure(ConnectError(string=why)))

    def stop(self) -> None:
        """Stop the program: by SIGTERM, and by SIGKILL when it takes too long."""
        if self._program is None:
            return
        if self.state != STOPPING:
            self.state = STOPPING
            self.started.changed()
            self._cancel()
            self._program.signal(signal.SIGTERM)
            self._call = self._reactor.callLater(self._context.settings.stop_timeout, self._kill)

    def _kill(self) -> None:
        self._call = None
        if self._program is not None:
            self._log("is killed: it has not ended after SIGTERM")
            self._program.signal(signal.SIGKILL)

    def _cancel(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
