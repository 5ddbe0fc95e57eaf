"""Worker processes, which the supervisor starts, commands, and replaces when they die.

Commands to one worker are carried out in the order in which they were sent. A worker that refuses an edit that the
others have carried out, or does not answer, is killed; its replacement gets the whole table.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, DeferredLock, maybeDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.protocols import amp
from twisted.python.failure import Failure

from ktcpvs.control.client_errors import NoAnswer
from ktcpvs.control.client_protocol import QuietAMP
from ktcpvs.control.edit_commands import CommandCall
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.twisted_client import Switch
from ktcpvs.errors import Refusal
from ktcpvs.model.address import Address, parse_address
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.live_trace import TraceBatch, TraceQuery
from ktcpvs.runtime.starter import NoStarter
from ktcpvs.system.log import EventLog
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.version import __version__
from ktcpvs.workers.commands import LINK_DESCRIPTOR, Ping, WantServer

RETRY_DELAY = 0.2
"""Seconds until a worker that died is replaced; doubled each time that it dies before it was ready."""

MAX_RETRY_DELAY = 10.0
"""Seconds: the longest such delay."""

ANSWER_TIMEOUT = 30.0
"""Seconds that a worker may take to answer a command, or to start."""

REPEAT_TIME = 10.0
"""Seconds within which the log has a line of several workers about a service once, if they say the same."""

MAX_LAST_LINES = 1000
"""The most lines of workers that are remembered for that; beyond it, all are forgotten."""

PING_INTERVAL = 1.0
"""Seconds between two pings of a worker; a fifth of the setting worker_timeout, where that is less."""

OUTPUT_TIMEOUT = 0.1
"""Seconds from a worker's end until its output is read no more."""

MAX_LINE_BYTES = 4096
"""The part of an unfinished line of output that is kept until its end comes."""

PLAIN = "info"
"""The priority of a line that a worker has not logged, but a plugin has printed."""

_LOGGED = re.compile(r"\[[^\s#\[\]]+#(debug|info|warn|error|critical)\] ")
"""The beginning of a line that a worker has logged, with its priority."""

START_NOTHING = NoStarter().want


class WorkerProcess(ProcessProtocol):
    """One worker. number: from 1. is_ready: it has the table. pid: None while it does not run."""

    def __init__(self, workers: WorkerProcesses, number: int) -> None:
        self.number = number
        self.is_ready = False
        self.link: amp.AMP | None = None
        self.pid: int | None = None
        self._workers = workers
        self._failed_starts = 0  # since it was ready last
        self._is_killed = False  # by `kill`, since it was started
        self._has_answered = False
        self._is_pinged = False  # the answer has not come
        self._silence = 0.0  # seconds without an answer
        self._starting = PeriodicJob(workers.reactor, self.start, self._start_failed, MAX_RETRY_DELAY)
        self._output = b""
        self._priority = PLAIN  # of its last line
        self._views: DeferredLock = DeferredLock()

    @property
    def index(self) -> int:
        """Its index among the processes that count in shared memory, from 0."""
        return self.number - 1

    def start(self) -> None:
        """Start a new process; if that fails, try again later. Do nothing while the workers end."""
        if self._workers.is_ending:
            return
        try:
            self._spawn()
        except OSError as error:
            self._has_ended(f"cannot start: {error.strerror}")
            return
        self._workers.started(self)

    def start_in(self, seconds: float) -> None:
        """Call `start` later."""
        self._starting.start(seconds)

    def _start_failed(self, why: Failure) -> None:
        self._workers.log.failure("worker {n} cannot be started", why, n=self.number)

    def _spawn(self) -> None:
        self._is_killed = self._has_answered = self._is_pinged = False
        reactor = self._workers.reactor
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, its:
            ours.setblocking(False)
            self.link = _Link(self._workers.want)
            reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, _LinkFactory(self.link))
            program = [sys.executable, "-P", "-m", "ktcpvs.workers", self._workers.reactor_name, __version__]
            descriptors = {0: "w", 1: "r", 2: "r", LINK_DESCRIPTOR: its.fileno()}
            process = reactor.spawnProcess(self, program[0], program, env=_environment(), childFDs=descriptors)
            self.pid = process.pid

    def call(self, command: Any, **arguments: Any) -> Deferred[Any]:
        """Send a command, without the arguments that are None. Fires with the answer; fails when none comes in time."""
        assert self.link is not None
        given = {name: value for name, value in arguments.items() if value is not None}
        reactor = self._workers.reactor
        answer = maybeDeferred(self.link.callRemote, command, **given).addTimeout(ANSWER_TIMEOUT, reactor)
        return answer.addCallback(self._answered, self.pid)

    def _answered(self, answer: Any, pid: int | None) -> Any:
        if self.pid == pid:
            self._has_answered = True
        return answer

    def ping(self, seconds: float, timeout: float) -> None:
        """Ping the worker, and kill it when it has been silent for too long.

        Only time in which the supervisor itself has run counts, so that after a pause of the whole machine each worker
        can answer first. A worker that starts is not pinged yet; it has ANSWER_TIMEOUT.

        seconds: since the last call. timeout: the longest silence allowed, in seconds.
        """
        link, pid = self.link, self.pid
        if link is None or pid is None or not self._has_answered:
            return
        if not self._is_pinged:
            self._is_pinged, self._silence = True, 0.0
            maybeDeferred(link.callRemote, Ping).addBoth(self._ping_answered, pid)
            return
        self._silence += seconds
        if self._silence + seconds >= timeout:
            self.kill(f"it has not responded for {timeout:.0f} s")

    def _ping_answered(self, answer: Any, pid: int) -> None:
        """The worker has answered, or its link has broken."""
        if self.pid == pid:
            self._is_pinged = False

    def read_view(self, view: str, ident: str | None) -> Deferred[Any]:
        """Read the named view of this worker.

        Fires with None when the worker has just ended or does not know the service yet. A worker that does not answer
        is killed.
        """
        return self._ask(lambda switch: switch.read(view, ident))

    def close_connection(self, wanted: str) -> Deferred[Any]:
        """Close the connection with this ID of this worker. Fires with its description; None: there is none."""
        return self._ask(lambda switch: switch.close_connection(wanted))

    def rebalance(self, ident: str, percent: int, resets: bool) -> Deferred[Any]:
        """Let this worker move its part of a service's connections. Fires with what moves; None: it does not know the
        service, or has just ended."""
        return self._ask(lambda switch: switch.rebalance(ident, percent, resets))

    def explain(self, seconds: float, ident: str, request: AssumedRequest) -> Deferred[dict[str, Any] | None]:
        """Explain a request as this worker sees it. seconds: that its scheduler may take beyond ANSWER_TIMEOUT.
        Fires with the explanation; {}: the worker refuses; None: it has just ended."""

        async def explained(switch: Switch) -> dict[str, Any]:
            try:
                return await switch.explain_request(ident, request)
            except Refusal:
                return {}

        return self._views.run(self._ask_beside, explained, ANSWER_TIMEOUT + seconds)

    def begin_trace(self, query: TraceQuery) -> Deferred[int | None]:
        """Begin a live trace in this worker. Fires with its number there; None: the worker refuses, or is gone."""
        return self._ask(lambda switch: switch.begin_trace(query))

    def read_trace(self, number: int) -> Deferred[TraceBatch | None]:
        """Read a live trace of this worker. Fires with a batch; None: the worker is gone."""
        return self._ask_beside(lambda switch: switch.read_trace(number))

    def end_trace(self, number: int) -> Deferred[None]:
        """End a live trace of this worker."""
        return self._ask_beside(lambda switch: switch.end_trace(number))

    def _ask(self, question: Callable[[Switch], Coroutine[Any, Any, Any]]) -> Deferred[Any]:
        """Fires with the answer; None if it is a refusal, or the worker has just ended. Questions wait for each other:
        the pages of two views would get mixed up."""
        return self._views.run(self._ask_beside, question)

    def _ask_beside(
        self, question: Callable[[Switch], Coroutine[Any, Any, Any]], timeout: float = ANSWER_TIMEOUT
    ) -> Deferred[Any]:
        """As `_ask`, for a question that waits for no others. timeout: seconds until the worker is killed."""
        link, pid = self.link, self.pid
        assert link is not None
        switch = Switch(link, ControlAddress(path=f"worker {self.number}"))

        def failed(failure: Failure) -> None:
            if failure.check(NoAnswer, Refusal) is None and self.pid == pid:
                self.kill(f"no answer: {failure.getErrorMessage() or failure.type}")

        answer = Deferred.fromCoroutine(question(switch))
        return answer.addTimeout(timeout, self._workers.reactor).addErrback(failed)

    def mark_ready(self) -> None:
        """The worker has the table."""
        self.is_ready = True
        self._failed_starts = 0

    def kill(self, why: str) -> None:
        """Kill the process, which will be replaced. why: for the log."""
        if self._is_killed:
            return
        self._is_killed = True
        self.is_ready = self._has_answered = False
        self._workers.log.warn("worker {n} is killed: {why}", n=self.number, why=why)
        self.signal("KILL")

    def close_link(self) -> None:
        """Close the link; the worker then drains and ends."""
        if self.link is not None and self.link.transport is not None:
            self.link.transport.loseConnection()

    def signal(self, name: str) -> None:
        """Send a signal, if it runs."""
        if self.transport is not None and self.pid is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess(name)

    # Its output and its end.

    def outReceived(self, data: bytes) -> None:
        self.errReceived(data)

    def errReceived(self, data: bytes) -> None:
        *lines, self._output = (self._output + data).split(b"\n")
        self._output = self._output[-MAX_LINE_BYTES:]
        for line in lines:
            self._log_line(line)

    def _log_line(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").removeprefix("- ")
        if found := _LOGGED.match(text):
            self._priority, text = found[1], text[found.end() :]
        elif not text.startswith("\t"):  # else it goes on with the line before, as a traceback does
            self._priority = PLAIN
        if not self._workers.repeats(self.number, text):
            self._workers.log.repeat(self._priority, "worker {n}: {line}", n=self.number, line=text)

    def processExited(self, reason: Failure) -> None:
        """Do not wait for programs that the worker has started and that keep its output open."""
        process = self.transport
        if process is not None:
            self._workers.reactor.callLater(OUTPUT_TIMEOUT, process.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        if self._output:
            self._log_line(self._output)
        self._output = b""
        self._has_ended(reason.getErrorMessage())

    def _has_ended(self, why: str) -> None:
        self.is_ready = False
        self.pid = None
        self.transport = None
        self.close_link()
        delay = min(RETRY_DELAY * (1 << min(self._failed_starts, 10)), MAX_RETRY_DELAY)
        self._failed_starts += 1
        self._workers.ended(self, why, delay)


def wait_at_most(reactor: Any, awaited: Deferred[Any], seconds: float) -> Deferred[None]:
    """Fires when `awaited` does, or after `seconds`. The result of `awaited` stays with it."""
    done: Deferred[None] = Deferred()
    call = reactor.callLater(seconds, done.callback, None)

    def came(result: Any) -> Any:
        if call.active():
            call.cancel()
            done.callback(None)
        return result

    awaited.addBoth(came)
    return done


def _environment() -> dict[str, str]:
    """Return the environment of a worker, which must import the same modules as the supervisor."""
    return {**os.environ, "PYTHONPATH": ":".join(path or os.getcwd() for path in sys.path)}


class _Link(QuietAMP):
    """The supervisor's end of the connection to a worker."""

    def __init__(self, want: Callable[[Address], Deferred[None]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._want = want

    @WantServer.responder
    def want_server(self, address: str) -> Deferred[dict[str, Any]]:
        wanted = self._want(parse_address(address))
        return wanted.addCallbacks(lambda _: {"why": ""}, lambda failure: {"why": failure.getErrorMessage()})


class _LinkFactory(Factory):
    noisy = False

    def __init__(self, link: amp.AMP) -> None:
        self._link = link

    def buildProtocol(self, addr: Any) -> Any:
        return self._link


class WorkerProcesses:
    """All workers of a switch. all: including those that do not run. is_ending: workers are no longer replaced.
    restarts: how often a worker that had ended was replaced."""

    def __init__(
        self,
        reactor: Any,
        log: EventLog,
        size: int,
        started: Callable[[WorkerProcess], object],
        ended: Callable[[WorkerProcess], object],
        timeout: Callable[[], int] = lambda: 0,
        want: Callable[[Address], Deferred[None]] = START_NOTHING,
    ) -> None:
        """size: the number of workers. started: called with a worker that has started and can be sent its first
        commands. ended: called with one that has ended. timeout: the setting worker_timeout.
        want: starts a server on demand."""
        self.reactor = reactor
        self.log = log
        self.started = started
        self.all = [WorkerProcess(self, number) for number in range(1, size + 1)]
        self.is_ending = False
        self.restarts = 0
        self._last_restart = 0.0  # by the reactor's clock
        self._ended = ended
        self._timeout = timeout
        self.want = want
        self._last_lines: dict[str, tuple[int, float]] = {}  # text -> the worker that has logged it, and when
        self._pings = PeriodicJob(reactor, self._ping, self._ping_failed, PING_INTERVAL)

    @property
    def reactor_name(self) -> str:
        """The workers' reactor: the same as the supervisor's."""
        return "uvloop" if getattr(self.reactor, "uv", None) is not None else "default"

    def repeats(self, number: int, text: str) -> bool:
        """Whether another worker has just logged the same about a service: all of them notice what a server does."""
        if not text.startswith("service "):
            return False
        now = self.reactor.seconds()
        first, at = self._last_lines.get(text, (number, 0.0))
        if first != number and now - at < REPEAT_TIME:
            return True
        if len(self._last_lines) >= MAX_LAST_LINES:
            self._last_lines.clear()
        self._last_lines[text] = number, now
        return False

    def start(self) -> None:
        """Start all workers. Call this in the main thread, while the reactor runs."""
        for worker in self.all:
            worker.start_in(0)
        self._pings.start(PING_INTERVAL)

    def _ping(self) -> float:
        """Ping all workers. Returns the seconds until the next time."""
        timeout = self._timeout()
        interval = min(PING_INTERVAL, timeout / 5) if timeout else PING_INTERVAL
        for worker in self.running() if timeout else ():
            worker.ping(interval, timeout)
        return interval

    def _ping_failed(self, why: Failure) -> None:
        self.log.failure("workers cannot be pinged", why)

    def ready(self) -> list[WorkerProcess]:
        """Those that have the table."""
        return [worker for worker in self.all if worker.is_ready]

    @property
    def seconds_since_restart(self) -> float | None:
        """Seconds since a worker has last ended and was replaced; None: none has."""
        return self.reactor.seconds() - self._last_restart if self.restarts else None

    def running(self) -> list[WorkerProcess]:
        """Those that have a process."""
        return [worker for worker in self.all if worker.pid is not None]

    def broadcast(
        self, commands: Sequence[CommandCall], prepare: Callable[[WorkerProcess], list[Deferred[Any]]]
    ) -> Deferred[Any]:
        """Send these commands to all workers that are ready. Fires when each has answered, or is killed.

        prepare: called for each worker before; sends it what only this worker gets, and returns the pending answers.
        """
        sent = []
        for worker in self.ready():
            try:
                answers = [*prepare(worker), *(worker.call(command, **arguments) for command, arguments in commands)]
            except Exception:
                self.log.failure("worker {n} cannot be sent an edit", n=worker.number)
                worker.kill("it cannot be sent an edit")
            else:
                sent.append(self.all_answered(worker, answers))
        return DeferredList(sent, consumeErrors=True)

    def all_answered(self, worker: WorkerProcess, answers: Sequence[Deferred[Any]]) -> Deferred[bool]:
        """Fires with True when the worker has given all these answers. If one fails, kills it and fires with False."""
        pid = worker.pid

        def failed(failure: Failure) -> bool:
            if worker.pid is not None and worker.pid == pid and not self.is_ending:  # else it has ended, or drains
                why: Any = failure.value
                worker.kill(why.subFailure.getErrorMessage())
            return False

        everything: Deferred[Any] = DeferredList(list(answers), fireOnOneErrback=True, consumeErrors=True)
        return everything.addCallbacks(lambda _: True, failed)

    def signal_all(self, name: str) -> None:
        """Send a signal to all workers."""
        for worker in self.all:
            worker.signal(name)

    def ended(self, worker: WorkerProcess, why: str, delay: float) -> None:
        """A worker has ended: replace it after `delay` seconds, unless all workers end. why: for the log."""
        if not self.is_ending:
            self.restarts += 1
            self._last_restart = self.reactor.seconds()
            worker.start_in(delay)
            self.log.warn("worker {n} has ended ({why}) and is replaced", n=worker.number, why=why)
        self._ended(worker)

    def drain(self) -> None:
        """Let all workers drain and end, without replacing them."""
        self.is_ending = True
        self._pings.stop()
        for worker in self.running():
            worker.close_link()
