"""The workers as the supervisor has them: started, told everything, and replaced when they die.

What a worker is told stands in a line: nothing overtakes. A worker that refuses or does not answer what all others do
is ended, and its successor gets the table as a whole.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, DeferredLock, maybeDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.protocols import amp
from twisted.python.failure import Failure

from ktcpvs.control.client import NoAnswer, QuietAMP, Switch
from ktcpvs.control.edit_commands import CommandCall
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.errors import Refusal
from ktcpvs.system import log as levels
from ktcpvs.system.log import EventLog
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.workers.commands import Ping
from ktcpvs.workers.worker import LINK

AGAIN = 0.2
"""Seconds until a worker that died is replaced."""

AGAIN_MOST = 10.0
"""The same for workers that die again and again."""

ANSWER_TIMEOUT = 30.0
"""Seconds that a worker may take to answer a command, or to start."""

PING_INTERVAL = 1.0
"""Seconds between two pings of a worker; a fifth of the setting worker_timeout, where that is less."""

LAST_WORDS = 0.1
"""Seconds from a worker's end until its output is read no more."""

LINE = 4096
"""Bytes of the longest line of its output that are kept until it is whole."""


class Worker(ProcessProtocol):
    """One worker. number: from 1. ready: it has the table. pid: None while it does not run."""

    def __init__(self, crew: WorkerProcesses, number: int) -> None:
        self.crew = crew
        self.number = number
        self.ready = False
        self.link: amp.AMP | None = None
        self.pid: int | None = None
        self._failed = 0  # how many times since it was ready last
        self._is_ended = False  # by `end`, since it was started
        self._has_answered = False
        self._is_pinged = False  # the answer has not come
        self._silence = 0.0  # seconds for which it has not
        self._starting = PeriodicJob(crew.reactor, self.start, self._start_failed, AGAIN_MOST)
        self._said = b""
        self._looks: DeferredLock = DeferredLock()

    @property
    def column(self) -> int:
        """Where it counts in the shared table."""
        return self.number - 1

    def start(self) -> None:
        """A new process; where the system has none to give, another try later. Nothing where all workers end."""
        if self.crew.is_ending:
            return
        try:
            self._spawn()
        except OSError as error:
            self._is_gone(f"cannot start: {error.strerror}")
            return
        self.crew.begun(self)

    def start_in(self, seconds: float) -> None:
        """The same, later."""
        self._starting.start(seconds)

    def _start_failed(self, why: Failure) -> None:
        self.crew.log.failure("worker {n} cannot be started", why, n=self.number)

    def _spawn(self) -> None:
        self._is_ended = self._has_answered = self._is_pinged = False
        reactor = self.crew.reactor
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, its:
            ours.setblocking(False)
            self.link = QuietAMP()  # type: ignore[no-untyped-call]
            reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, _OneLink(self.link))
            program = [sys.executable, "-P", "-m", "ktcpvs.workers", self.crew.reactor_name]
            descriptors = {0: "w", 1: "r", 2: "r", LINK: its.fileno()}
            process = reactor.spawnProcess(self, program[0], program, env=_environment(), childFDs=descriptors)
            self.pid = process.pid

    def ask(self, command: Any, **arguments: Any) -> Deferred[Any]:
        """Say something; fires with the answer, fails when there is none in time."""
        assert self.link is not None
        given = {name: value for name, value in arguments.items() if value is not None}
        answer = maybeDeferred(self.link.callRemote, command, **given).addTimeout(ANSWER_TIMEOUT, self.crew.reactor)
        return answer.addCallback(self._answered, self.pid)

    def _answered(self, answer: Any, pid: int | None) -> Any:
        if self.pid == pid:
            self._has_answered = True
        return answer

    def ping(self, seconds: float, timeout: float) -> None:
        """Ask whether it is there. seconds: since the last time; timeout: for so long it may be silent.

        Only the time in which this process has waited counts: after a pause of the whole machine each worker can answer
        first. A worker that starts has not been asked yet, and has ANSWER_TIMEOUT.
        """
        link, pid = self.link, self.pid
        if link is None or pid is None or not self._has_answered:
            return
        if not self._is_pinged:
            self._is_pinged, self._silence = True, 0.0
            maybeDeferred(link.callRemote, Ping).addBoth(self._responded, pid)
            return
        self._silence += seconds
        if self._silence + seconds >= timeout:
            self.end(f"it has not responded for {timeout:.0f} s")

    def _responded(self, answer: Any, pid: int) -> None:
        """It is there, or its link has broken."""
        if self.pid == pid:
            self._is_pinged = False

    def look(self, view: str, ident: str | None) -> Deferred[Any]:
        """What it sees, by a look of `control.client`; None: it has just ended, or does not know the service yet."""
        link, pid = self.link, self.pid
        assert link is not None
        switch = Switch(link, ControlAddress(path=f"worker {self.number}"))

        def ask() -> Deferred[Any]:
            answer = Deferred.fromCoroutine(getattr(switch, view)(ident))
            return answer.addTimeout(ANSWER_TIMEOUT, self.crew.reactor)

        def no_answer(failure: Failure) -> None:
            if failure.check(NoAnswer, Refusal) is None and self.pid == pid:
                self.end(f"no answer: {failure.getErrorMessage() or failure.type}")

        return self._looks.run(ask).addErrback(no_answer)  # the pages of two looks would mix

    def serves(self) -> None:
        """It has the table."""
        self.ready = True
        self._failed = 0

    def end(self, why: str) -> None:
        """It is of no use any more; its end will be noticed."""
        if self._is_ended:
            return
        self._is_ended = True
        self.ready = self._has_answered = False
        self.crew.log.warn("worker {n} is ended: {why}", n=self.number, why=why)
        self.signal("KILL")

    def let_go(self) -> None:
        """End the link: the worker drains and ends."""
        if self.link is not None and self.link.transport is not None:
            self.link.transport.loseConnection()

    def signal(self, name: str) -> None:
        """Send a signal, if it runs."""
        if self.transport is not None and self.pid is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess(name)

    # What it says and how it ends.

    def outReceived(self, data: bytes) -> None:
        self.errReceived(data)

    def errReceived(self, data: bytes) -> None:
        *lines, self._said = (self._said + data).split(b"\n")
        self._said = self._said[-LINE:]
        for line in lines:
            self._tell(line)

    def _tell(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").removeprefix("- ")
        self.crew.log.event(levels.ANNOUNCE, "worker {n}: {line}", n=self.number, line=text)

    def processExited(self, reason: Failure) -> None:
        """What it started may live on and hold its output open; that is not waited for."""
        process = self.transport
        if process is not None:
            self.crew.reactor.callLater(LAST_WORDS, process.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        if self._said:
            self._tell(self._said)
        self._said = b""
        self._is_gone(reason.getErrorMessage())

    def _is_gone(self, why: str) -> None:
        self.ready = False
        self.pid = None
        self.transport = None
        self.let_go()
        again = min(AGAIN * (1 << min(self._failed, 10)), AGAIN_MOST)
        self._failed += 1
        self.crew.ended(self, why, again)


def first_of(reactor: Any, awaited: Deferred[Any], seconds: float) -> Deferred[None]:
    """Fires when `awaited` does, with which nothing happens, or when the time is over."""
    over: Deferred[None] = Deferred()
    call = reactor.callLater(seconds, over.callback, None)

    def came(result: Any) -> Any:
        if call.active():
            call.cancel()
            over.callback(None)
        return result

    awaited.addBoth(came)
    return over


def _environment() -> dict[str, str]:
    """A worker imports what the supervisor imports."""
    return {**os.environ, "PYTHONPATH": ":".join(path or os.getcwd() for path in sys.path)}


class _OneLink(Factory):
    noisy = False

    def __init__(self, link: amp.AMP) -> None:
        self._link = link

    def buildProtocol(self, addr: Any) -> Any:
        return self._link


class WorkerProcesses:
    """workers: all of them, dead ones included. is_ending: none is replaced any more."""

    def __init__(
        self,
        reactor: Any,
        log: EventLog,
        size: int,
        begun: Callable[[Worker], object],
        gone: Callable[[Worker], object],
        timeout: Callable[[], int] = lambda: 0,
    ) -> None:
        """begun: called with a worker whose link is there, to be told everything. gone: with one that has ended.
        timeout: the setting worker_timeout."""
        self.reactor = reactor
        self.log = log
        self.begun = begun
        self.workers = [Worker(self, number) for number in range(1, size + 1)]
        self._gone = gone
        self._timeout = timeout
        self._pings = PeriodicJob(reactor, self._ping, self._pings_failed, PING_INTERVAL)
        self.is_ending = False

    @property
    def reactor_name(self) -> str:
        """What the workers run on: the same as the supervisor."""
        return "uvloop" if getattr(self.reactor, "uv", None) is not None else "default"

    def start(self) -> None:
        """All of them. Wants the main thread of a reactor that runs."""
        for worker in self.workers:
            worker.start_in(0)
        self._pings.start(PING_INTERVAL)

    def _ping(self) -> float:
        """Ping all workers; the seconds until the next time."""
        timeout = self._timeout()
        interval = min(PING_INTERVAL, timeout / 5) if timeout else PING_INTERVAL
        for worker in self.running() if timeout else ():
            worker.ping(interval, timeout)
        return interval

    def _pings_failed(self, why: Failure) -> None:
        self.log.failure("workers cannot be pinged", why)

    def ready(self) -> list[Worker]:
        """Those that have the table."""
        return [worker for worker in self.workers if worker.ready]

    def tell(self, asked: Sequence[CommandCall], before: Callable[[Worker], list[Deferred[Any]]]) -> Deferred[Any]:
        """Say these commands to all who are ready; fires when all have answered, and those that did not are ended.

        before: says something to one worker alone, and gives its answers to come.
        """
        told = []
        for worker in self.ready():
            try:
                answers = [*before(worker), *(worker.ask(command, **arguments) for command, arguments in asked)]
            except Exception:
                self.log.failure("worker {n} cannot be told of an edit", n=worker.number)
                worker.end("it cannot be told of an edit")
            else:
                told.append(self.answered(worker, answers))
        return DeferredList(told, consumeErrors=True)

    def answered(self, worker: Worker, answers: Sequence[Deferred[Any]]) -> Deferred[bool]:
        """Fires with True when the worker has answered all of them, with False when not; then it is ended."""
        pid = worker.pid

        def no_answer(failure: Failure) -> bool:
            if worker.pid is not None and worker.pid == pid and not self.is_ending:  # else it is gone, or drains
                why: Any = failure.value
                worker.end(why.subFailure.getErrorMessage())
            return False

        everything: Deferred[Any] = DeferredList(list(answers), fireOnOneErrback=True, consumeErrors=True)
        return everything.addCallbacks(lambda _: True, no_answer)

    def signal(self, name: str) -> None:
        """Send a signal to all."""
        for worker in self.workers:
            worker.signal(name)

    def ended(self, worker: Worker, why: str, again: float) -> None:
        """A worker has ended."""
        if not self.is_ending:
            worker.start_in(again)
            self.log.warn("worker {n} has ended ({why}) and is replaced", n=worker.number, why=why)
        self._gone(worker)

    def running(self) -> list[Worker]:
        """Those that have a process."""
        return [worker for worker in self.workers if worker.pid is not None]

    def end(self) -> None:
        """No worker is replaced any more; each drains and ends."""
        self.is_ending = True
        self._pings.stop()
        for worker in self.running():
            worker.let_go()
