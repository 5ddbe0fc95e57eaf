"""WorkerThread: calls in their order, results in the reactor's thread, and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from ktcpvs.system.thread import WorkerThread


class Reactor:
    """The part of a reactor that takes calls from threads; the test runs them."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], Any]] = SimpleQueue()

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.calls.put(lambda: function(*arguments))

    def run_next(self) -> None:
        self.calls.get(timeout=20)()


def test_calls_are_made_in_their_order_in_one_other_thread() -> None:
    reactor = Reactor()
    thread = WorkerThread(reactor, "worker")
    seen: list[tuple[int, int]] = []
    told: list[int] = []
    for number in range(20):
        thread.call(lambda number=number: seen.append((number, threading.get_ident())) or number).addCallback(
            told.append
        )
    for _ in range(20):
        reactor.run_next()
    assert told == list(range(20)) == [number for number, _ in seen]
    (other,) = {ident for _, ident in seen}
    assert other != threading.get_ident()
    thread.stop()


def test_an_exception_comes_back_and_the_thread_goes_on() -> None:
    reactor = Reactor()
    thread = WorkerThread(reactor, "worker")
    told: list[Any] = []
    thread.call(int, "x").addErrback(lambda failure: told.append(failure.type))
    thread.call(int, "7").addCallback(told.append)
    reactor.run_next()
    reactor.run_next()
    assert told == [ValueError, 7]
    thread.stop()


def test_it_ends_when_what_was_called_is_done_and_starts_again() -> None:
    reactor = Reactor()
    thread = WorkerThread(reactor, "worker")
    thread.stop()
    running: list[threading.Thread] = []
    thread.call(threading.current_thread).addCallback(running.append)
    thread.stop()
    reactor.run_next()
    running[0].join(20)
    assert not running[0].is_alive()
    thread.call(threading.current_thread).addCallback(running.append)
    reactor.run_next()
    assert running[1] is not running[0]
    thread.stop()
