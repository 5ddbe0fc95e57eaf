"""The watch over bare sockets tells those who are ready, on each reactor, and nobody else."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from reactors import ReactorThread, descriptors, settled
from servers import wait_for

from ktcpvs.relay.watch import AT_ONCE, Watch

IN, OUT, HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP


@pytest.fixture(scope="module", params=["uvloop", "epoll"])
def thread(request: pytest.FixtureRequest) -> Iterator[ReactorThread]:
    thread = ReactorThread(request.param)
    yield thread
    thread.stop()


@pytest.fixture
def watch(thread: ReactorThread) -> Iterator[Watch]:
    thread.failures.clear()
    watch = thread.run(Watch, thread.reactor)
    yield watch
    thread.run(watch.close)
    assert thread.failures == []


@pytest.fixture
def pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes two sockets that are connected: one to be watched, and its peer."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[socket.socket, socket.socket]:
            one, other = socket.socketpair()
            one.setblocking(False)
            return stack.enter_context(one), stack.enter_context(other)

        yield make


Pair = Callable[[], tuple[socket.socket, socket.socket]]


def turns(thread: ReactorThread, count: int = 5) -> None:
    """Let the reactor turn so often."""
    for _ in range(count):
        thread.run(lambda: None)


def test_it_tells_what_is_ready_as_long_as_it_is(thread: ReactorThread, watch: Watch, pair: Pair) -> None:
    one, peer = pair()
    told: list[int] = []

    def tell(events: int) -> None:
        told.append(events)
        if len(told) == 3:
            one.recv(10)

    thread.run(watch.add, one.fileno(), IN, tell)
    turns(thread)
    assert told == []
    peer.send(b"x")
    wait_for(lambda: told == [IN, IN, IN])
    turns(thread)
    assert told == [IN, IN, IN]
    assert len(watch) == 1
    thread.run(watch.forget, one.fileno())
    peer.send(b"x")
    turns(thread)
    assert told == [IN, IN, IN]
    assert len(watch) == 0


def test_what_is_wanted_can_change(thread: ReactorThread, watch: Watch, pair: Pair) -> None:
    one, peer = pair()
    told: list[int] = []

    def tell(events: int) -> None:
        told.append(events)
        watch.change(one.fileno(), IN)

    thread.run(watch.add, one.fileno(), OUT, tell)
    wait_for(lambda: told == [OUT])
    turns(thread)
    assert told == [OUT]
    peer.close()
    wait_for(lambda: told[-1] == IN | HUP)
    thread.run(watch.forget, one.fileno())
    thread.run(watch.forget, one.fileno())


def test_who_is_watched_already_or_not_at_all(thread: ReactorThread, watch: Watch, pair: Pair) -> None:
    one, peer = pair()
    told: list[int] = []
    thread.run(watch.add, one.fileno(), IN, told.append)
    with pytest.raises(FileExistsError):
        thread.run(watch.add, one.fileno(), OUT, lambda _: told.append(-1))
    with pytest.raises(FileNotFoundError):
        thread.run(watch.change, peer.fileno(), IN)
    peer.send(b"x")
    wait_for(lambda: told and set(told) == {IN})


class Trouble(Exception):
    """What a handler raises."""


def test_an_exception_is_logged_and_costs_only_its_descriptor(thread: ReactorThread, watch: Watch, pair: Pair) -> None:
    pairs = [pair() for _ in range(4)]
    told: list[int] = []

    def fail(_: int) -> None:
        raise Trouble

    def ready_all() -> None:
        for number, (one, peer) in enumerate(pairs):
            watch.add(one.fileno(), IN, told.append if number % 2 else fail)
            peer.send(b"x")

    thread.run(ready_all)
    wait_for(lambda: len(told) > 10)
    assert [type(failure) for failure in thread.failures] == [Trouble, Trouble]
    assert len(watch) == 2
    thread.failures.clear()


def test_who_was_forgotten_in_the_same_turn_is_not_told(thread: ReactorThread, watch: Watch, pair: Pair) -> None:
    pairs = [pair() for _ in range(10)]
    told: list[int] = []

    def forget_all(_: int) -> None:
        told.append(1)
        for one, _peer in pairs:
            watch.forget(one.fileno())

    def ready_all() -> None:
        for one, peer in pairs:
            watch.add(one.fileno(), IN, forget_all)
            peer.send(b"x")

    thread.run(ready_all)
    wait_for(lambda: told)
    turns(thread)
    assert told == [1]


def test_who_got_the_number_of_another_is_not_told_for_it(thread: ReactorThread, watch: Watch, pair: Pair) -> None:
    pairs = [pair() for _ in range(10)]
    fresh, fresh_peer = pair()
    told: list[str] = []

    def new_told(number: int, _: int) -> None:
        told.append("new")
        watch.forget(number)

    def replace_all(_: int) -> None:
        """Each gets the number of one that is ready, while it is not."""
        told.append("replaced")
        for one, _peer in pairs:
            number = one.fileno()
            watch.forget(number)
            os.dup2(fresh.fileno(), number)
            watch.add(number, IN, partial(new_told, number))

    def ready_all() -> None:
        for one, peer in pairs:
            watch.add(one.fileno(), IN, replace_all)
            peer.send(b"x")

    thread.run(ready_all)
    wait_for(lambda: told)
    turns(thread)
    assert told == ["replaced"]
    fresh_peer.send(b"x")
    wait_for(lambda: told[1:] and set(told[1:]) == {"new"})
    for one, _peer in pairs:
        thread.run(watch.forget, one.fileno())


def test_more_than_one_turn_tells(thread: ReactorThread, watch: Watch, pair: Pair) -> None:
    count = 2 * AT_ONCE + 10
    pairs = [pair() for _ in range(count)]
    told: list[int] = []
    others: list[int] = []
    most_between = 0

    def tell(number: int) -> None:
        nonlocal most_between
        told.append(number)
        watch.forget(pairs[number][0].fileno())
        if len(others) == 0 and len(told) == 1:
            watch.soon(lambda: others.append(len(told)))

    def ready_all() -> None:
        for number, (one, peer) in enumerate(pairs):
            watch.add(one.fileno(), IN, lambda _, number=number: tell(number))
            peer.send(b"x")

    thread.run(ready_all)
    wait_for(lambda: len(told) == count)
    assert sorted(told) == list(range(count))
    assert others == [AT_ONCE]  # others had their turn before the rest


def test_soon_is_a_later_turn(thread: ReactorThread, watch: Watch) -> None:
    called: list[int] = []

    def ask() -> list[int]:
        watch.soon(lambda: called.append(1))
        return [*called]

    assert thread.run(ask) == []
    wait_for(lambda: called == [1])


def test_a_closed_watch_tells_nobody_and_leaves_nothing(thread: ReactorThread, pair: Pair) -> None:
    pairs = [pair() for _ in range(10)]
    turns(thread)
    before = settled(thread)
    watch = thread.run(Watch, thread.reactor)
    told: list[int] = []

    def close(_: int) -> None:
        told.append(1)
        watch.close()

    def ready_all() -> None:
        for one, peer in pairs:
            watch.add(one.fileno(), IN, close)
            peer.send(b"x")

    thread.run(ready_all)
    wait_for(lambda: told)
    turns(thread)
    assert told == [1]
    thread.run(watch.close)
    assert len(watch) == 0
    assert watch.fileno() == -1
    wait_for(lambda: descriptors() == before, "its descriptors to be closed")


@pytest.mark.parametrize("name", ["uvloop", "epoll"])
def test_a_reactor_that_stops_closes_it(name: str) -> None:
    thread = ReactorThread(name)
    watch = thread.run(Watch, thread.reactor)
    thread.stop()
    assert watch.fileno() == -1
    assert thread.failures == []
