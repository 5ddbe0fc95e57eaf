"""The poller calls back for sockets that are ready, on each reactor, and for no others."""

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

from ktcpvs.relay.poller import MAX_EVENTS, SocketPoller

IN, OUT, HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP


@pytest.fixture
def poller(thread: ReactorThread) -> Iterator[SocketPoller]:
    thread.failures.clear()
    poller = thread.run(SocketPoller, thread.reactor)
    yield poller
    thread.run(poller.close)
    assert thread.failures == []


@pytest.fixture
def pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes two connected sockets: one to poll, and its peer."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[socket.socket, socket.socket]:
            one, other = socket.socketpair()
            one.setblocking(False)
            return stack.enter_context(one), stack.enter_context(other)

        yield make


Pair = Callable[[], tuple[socket.socket, socket.socket]]


def watch_all(
    thread: ReactorThread,
    poller: SocketPoller,
    pairs: list[tuple[socket.socket, socket.socket]],
    tell: Callable[[int, int], object],
) -> None:
    """Watch all these sockets, of which each has something to read. tell: called with a socket's place and events."""

    def watch() -> None:
        for number, (one, peer) in enumerate(pairs):
            poller.register(one.fileno(), IN, partial(tell, number))
            peer.send(b"x")

    thread.run(watch)


def turns(thread: ReactorThread, count: int = 5) -> None:
    """Let the reactor run that many turns."""
    for _ in range(count):
        thread.run(lambda: None)


def test_it_tells_what_is_ready_as_long_as_it_is(thread: ReactorThread, poller: SocketPoller, pair: Pair) -> None:
    one, peer = pair()
    told: list[int] = []

    def tell(events: int) -> None:
        told.append(events)
        if len(told) == 3:
            one.recv(10)

    thread.run(poller.register, one.fileno(), IN, tell)
    turns(thread)
    assert told == []
    peer.send(b"x")
    wait_for(lambda: told == [IN, IN, IN])
    turns(thread)
    assert told == [IN, IN, IN]
    assert len(poller) == 1
    thread.run(poller.unregister, one.fileno())
    peer.send(b"x")
    turns(thread)
    assert told == [IN, IN, IN]
    assert len(poller) == 0


def test_what_is_wanted_can_change(thread: ReactorThread, poller: SocketPoller, pair: Pair) -> None:
    one, peer = pair()
    told: list[int] = []

    def tell(events: int) -> None:
        told.append(events)
        poller.modify(one.fileno(), IN)

    thread.run(poller.register, one.fileno(), OUT, tell)
    wait_for(lambda: told == [OUT])
    turns(thread)
    assert told == [OUT]
    peer.close()
    wait_for(lambda: told[-1] == IN | HUP)
    thread.run(poller.unregister, one.fileno())
    thread.run(poller.unregister, one.fileno())


def test_registering_twice_and_changing_unregistered_descriptors(
    thread: ReactorThread, poller: SocketPoller, pair: Pair
) -> None:
    one, peer = pair()
    told: list[int] = []
    thread.run(poller.register, one.fileno(), IN, told.append)
    with pytest.raises(FileExistsError):
        thread.run(poller.register, one.fileno(), OUT, lambda _: told.append(-1))
    with pytest.raises(FileNotFoundError):
        thread.run(poller.modify, peer.fileno(), IN)
    peer.send(b"x")
    wait_for(lambda: told and set(told) == {IN})


class Trouble(Exception):
    """An exception that a handler raises."""


def test_an_exception_costs_only_its_descriptor(thread: ReactorThread, poller: SocketPoller, pair: Pair) -> None:
    pairs = [pair() for _ in range(4)]
    told: list[int] = []

    def tell(number: int, events: int) -> None:
        if number % 2 == 0:
            raise Trouble
        told.append(events)

    watch_all(thread, poller, pairs, tell)
    wait_for(lambda: len(told) > 10)
    assert [type(failure) for failure in thread.failures] == [Trouble, Trouble]
    assert len(poller) == 2
    thread.failures.clear()


def test_unregistered_in_the_same_turn(thread: ReactorThread, poller: SocketPoller, pair: Pair) -> None:
    pairs = [pair() for _ in range(10)]
    told: list[int] = []

    def forget_all(*_: int) -> None:
        told.append(1)
        for one, _peer in pairs:
            poller.unregister(one.fileno())

    watch_all(thread, poller, pairs, forget_all)
    wait_for(lambda: told)
    turns(thread)
    assert told == [1]


def test_a_number_that_another_descriptor_has_got(thread: ReactorThread, poller: SocketPoller, pair: Pair) -> None:
    pairs = [pair() for _ in range(10)]
    fresh, fresh_peer = pair()
    told: list[str] = []

    def new_told(number: int, _: int) -> None:
        told.append("new")
        poller.unregister(number)

    def replace_all(*_: int) -> None:
        """Each new socket gets the descriptor of one that was ready, but is not ready itself."""
        told.append("replaced")
        for one, _peer in pairs:
            number = one.fileno()
            poller.unregister(number)
            os.dup2(fresh.fileno(), number)
            poller.register(number, IN, partial(new_told, number))

    watch_all(thread, poller, pairs, replace_all)
    wait_for(lambda: told)
    turns(thread)
    assert told == ["replaced"]
    fresh_peer.send(b"x")
    wait_for(lambda: told[1:] and set(told[1:]) == {"new"})
    for one, _peer in pairs:
        thread.run(poller.unregister, one.fileno())


def test_more_than_one_turn_tells(thread: ReactorThread, poller: SocketPoller, pair: Pair) -> None:
    count = 2 * MAX_EVENTS + 10
    pairs = [pair() for _ in range(count)]
    told: list[int] = []
    others: list[int] = []
    most_between = 0

    def tell(number: int, _: int) -> None:
        nonlocal most_between
        told.append(number)
        poller.unregister(pairs[number][0].fileno())
        if len(others) == 0 and len(told) == 1:
            poller.call_soon(lambda: others.append(len(told)))

    watch_all(thread, poller, pairs, tell)
    wait_for(lambda: len(told) == count)
    assert sorted(told) == list(range(count))
    assert others == [MAX_EVENTS]  # other sockets had their turn before the rest


def test_soon_is_a_later_turn(thread: ReactorThread, poller: SocketPoller) -> None:
    called: list[int] = []

    def ask() -> list[int]:
        poller.call_soon(lambda: called.append(1))
        return [*called]

    assert thread.run(ask) == []
    wait_for(lambda: called == [1])


def test_a_closed_poller_calls_nothing_and_leaves_nothing(thread: ReactorThread, pair: Pair) -> None:
    pairs = [pair() for _ in range(10)]
    turns(thread)
    before = settled(thread)
    poller = thread.run(SocketPoller, thread.reactor)
    told: list[int] = []

    def close(*_: int) -> None:
        told.append(1)
        poller.close()

    watch_all(thread, poller, pairs, close)
    wait_for(lambda: told)
    turns(thread)
    assert told == [1]
    thread.run(poller.close)
    assert len(poller) == 0
    assert poller.fileno() == -1
    wait_for(lambda: descriptors() == before, "its descriptors to be closed")


@pytest.mark.parametrize("name", ["uvloop", "epoll"])
def test_a_reactor_that_stops_closes_it(name: str) -> None:
    thread = ReactorThread(name)
    poller = thread.run(SocketPoller, thread.reactor)
    thread.stop()
    assert poller.fileno() == -1
    assert thread.failures == []
