"""Pings of workers: a worker that is silent for too long is killed, one that responds is not."""

from __future__ import annotations

from typing import Any

import pytest
from memory import log_into
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols import amp
from twisted.python.failure import Failure

from ktcpvs.control.client_protocol import QuietAMP
from ktcpvs.workers.commands import Ping
from ktcpvs.workers.worker_processes import WorkerProcess, WorkerProcesses


class Supervised:
    """One worker, which has no process. lines: the log. timeout: the setting worker_timeout."""

    def __init__(self, timeout: int) -> None:
        self.timeout = timeout
        self.lines: list[str] = []
        self.clock = Clock()
        log = log_into(self.lines)
        self.workers = WorkerProcesses(
            self.clock, log, 1, lambda worker: None, lambda worker: None, lambda: self.timeout
        )
        self.workers.start()
        (self.worker,) = self.workers.all
        self.worker._starting.stop()  # nothing is started here
        self.transport = StringTransport()
        self.worker.link = QuietAMP()
        self.worker.link.makeConnection(self.transport)
        self.worker.pid = 4711

    def received(self) -> list[amp.AmpBox]:
        """Return the commands that the worker has received since the last call."""
        boxes = amp.parseString(self.transport.value())
        self.transport.clear()
        return list(boxes)

    def answer_all(self) -> int:
        """Answer all commands; returns their number."""
        boxes = self.received()
        for box in boxes:
            self.worker.link.dataReceived(amp.AmpBox({amp.ANSWER: box[amp.ASK]}).serialize())
        return len(boxes)

    def answer_first_call(self) -> None:
        """The worker responds for the first time."""
        self.worker.call(Ping)
        assert self.answer_all() == 1

    def silent_for(self, seconds: float) -> float:
        """Advance the clock until the worker is killed, or so many seconds have passed; returns the seconds passed."""
        began = self.clock.seconds()
        while not self.lines and self.clock.seconds() < began + seconds:
            self.clock.advance(1 / 128)  # exact in floating point
        return self.clock.seconds() - began


@pytest.mark.parametrize("timeout", [1, 3, 10, 60])
def test_a_silent_worker_is_killed_within_the_timeout(timeout: int) -> None:
    one = Supervised(timeout)
    one.answer_first_call()
    for _ in range(5 * timeout):
        one.clock.advance(1)
        one.answer_all()
    assert one.lines == []
    assert 0.7 * timeout <= one.silent_for(2 * timeout) <= timeout + 0.1
    assert one.lines == [f"worker 1 is killed: it has not responded for {timeout} s"]
    one.clock.advance(5 * timeout)
    assert len(one.lines) == 1, "told once"
    one.workers.drain()
    assert not one.clock.getDelayedCalls()


def test_a_worker_that_starts_is_not_pinged_yet() -> None:
    one = Supervised(3)
    assert one.silent_for(20) >= 20
    assert one.received() == []


def test_a_timeout_of_0_turns_pings_off_and_a_change_holds_at_once() -> None:
    one = Supervised(0)
    one.answer_first_call()
    assert one.silent_for(100) >= 100
    assert one.received() == []
    one.timeout = 2
    assert 1.5 <= one.silent_for(10) <= 3.1


def test_a_pause_of_the_whole_machine_kills_no_worker() -> None:
    one = Supervised(5)
    one.answer_first_call()
    one.clock.advance(1)
    for _ in range(10):
        one.clock.advance(1000)  # the supervisor was not running either
        one.answer_all()
    assert one.lines == []


def test_unanswered_pings_of_a_dead_worker_do_not_count_for_its_replacement() -> None:
    one = Supervised(5)
    one.answer_first_call()
    assert one.silent_for(3) >= 3
    link, pings = one.worker.link, one.received()
    assert pings
    link.connectionLost(Failure(ConnectionDone()))
    one.worker.pid = 4712
    assert one.silent_for(3) >= 3


def test_a_worker_that_cannot_be_sent_an_edit_is_killed() -> None:
    one = Supervised(0)
    one.worker.is_ready = True

    def before(worker: WorkerProcess) -> list[Deferred[Any]]:
        raise RuntimeError("broken")

    told: list[Any] = []
    one.workers.broadcast([(Ping, {})], before).addCallback(told.append)
    assert told == [[]], "nobody is waited for"
    assert one.lines == ["worker 1 cannot be sent an edit", "worker 1 is killed: it cannot be sent an edit"]
    assert one.workers.ready() == []


def test_an_edit_that_waits_for_a_hung_worker_ends_with_its_link() -> None:
    one = Supervised(5)
    one.answer_first_call()
    one.worker.is_ready = True
    told: list[Any] = []
    one.workers.broadcast([(Ping, {})], lambda worker: []).addCallback(told.append)
    assert one.silent_for(10) <= 6
    assert told == []
    one.worker.link.connectionLost(Failure(ConnectionDone()))
    assert told == [[(True, False)]]
