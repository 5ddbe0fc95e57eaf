"""A listener that is replaced by another one on the same port loses no connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from reactors import ReactorThread, descriptors, settled
from servers import LOOPBACK, let_only_syn_in, wait_for

from ktcpvs.model.address import Inet
from ktcpvs.runtime.context import Context
from ktcpvs.services import listener as module
from ktcpvs.services.listener import HANDSHAKE_TIMEOUT, Listener
from ktcpvs.system.handshakes import handshakes
from ktcpvs.system.log import EventLog
from ktcpvs.system.sockets import open_listener


@pytest.fixture(scope="module")
def thread() -> Iterator[ReactorThread]:
    thread = ReactorThread("epoll")
    yield thread
    thread.stop()


class Follower:
    """A listener on one address of the loopback interface, and one on all addresses that follows it."""

    def __init__(self, thread: ReactorThread, stack: contextlib.ExitStack) -> None:
        self.thread = thread
        self.context = thread.run(Context, thread.reactor, EventLog())
        self.taken: dict[str, list[socket.socket]] = {"old": [], "new": []}
        self.fired: list[Any] = []
        sock = open_listener(Inet(LOOPBACK, 0), 50)
        self.port = sock.getsockname()[1]
        self.old = self._listener("old", sock)
        self.new = self._listener("new", open_listener(Inet("0.0.0.0", self.port), 50, [sock]))
        stack.callback(lambda: [taken.close() for kind in self.taken.values() for taken in kind])
        for one in (self.old, self.new):
            stack.callback(thread.run, one.close)

    def _listener(self, name: str, sock: socket.socket) -> Listener:
        accepted = self.taken[name]
        return self.thread.run(
            Listener, self.context, name, sock, lambda: 1, lambda fd, *_: accepted.append(socket.socket(fileno=fd))
        )

    def begins(self) -> socket.socket:
        """Connect a client that sends hello, and whose handshake with the old listener cannot complete."""
        let_only_syn_in(self.old.socket)
        client = self.call(b"hello")
        wait_for(lambda: handshakes(self.old.socket))
        return client

    def retire(self) -> bool:
        """Retire the old listener. Return whether it was closed in the same turn of the reactor."""

        def retire() -> bool:
            self.new.start()
            self.old.start()
            self.old.retire().addCallback(self.fired.append)
            return self.old.closed

        return self.thread.run(retire)

    def call(self, said: bytes = b"") -> socket.socket:
        client = socket.create_connection((LOOPBACK, self.port), timeout=10)
        client.sendall(said)
        return client


@pytest.fixture
def stack(thread: ReactorThread) -> Iterator[contextlib.ExitStack]:
    thread.run(Context, thread.reactor, EventLog())  # creates what is created only once
    before = settled(thread)
    with contextlib.ExitStack() as stack:
        yield stack
    wait_for(lambda: descriptors() == before)


@pytest.fixture
def follower(thread: ReactorThread, stack: contextlib.ExitStack) -> Follower:
    return Follower(thread, stack)


def test_it_is_closed_at_its_first_check_without_handshakes(follower: Follower, stack: contextlib.ExitStack) -> None:
    waiting = stack.enter_context(follower.call())
    assert not follower.retire()  # a SYN that has just arrived would not be listed yet
    wait_for(lambda: follower.fired == [None], timeout=HANDSHAKE_TIMEOUT / 2)
    assert follower.old.closed
    assert len(follower.taken["old"]) == 1
    stack.enter_context(follower.call())
    wait_for(lambda: len(follower.taken["new"]) == 1)
    follower.taken["old"][0].sendall(b"hello")
    assert waiting.recv(5) == b"hello"


def test_a_handshake_that_has_begun_comes_to_its_end(follower: Follower, stack: contextlib.ExitStack) -> None:
    """Its last packet was lost: the client sends data, and retransmits it."""
    client = stack.enter_context(follower.begins())
    follower.retire()
    assert follower.fired == []
    wait_for(lambda: follower.fired)
    assert follower.old.closed
    assert (len(follower.taken["old"]), follower.taken["new"]) == (1, [])
    accepted = follower.taken["old"][0]
    accepted.settimeout(10)
    assert accepted.recv(5) == b"hello"
    accepted.sendall(b"good day")
    assert client.recv(8) == b"good day"


def test_a_client_that_connects_meanwhile_reaches_the_other_listener(
    follower: Follower, stack: contextlib.ExitStack
) -> None:
    stack.enter_context(follower.begins())
    follower.retire()
    stack.enter_context(follower.call())
    assert follower.fired == [None]
    wait_for(lambda: len(follower.taken["new"]) == 1)
    assert len(follower.taken["old"]) == 1


def test_a_client_that_connects_before_another_process_has_closed_the_socket(
    follower: Follower, stack: contextlib.ExitStack
) -> None:
    """As a supervisor has it open until its workers have closed theirs. The client comes again after a second."""
    other = follower.old.socket.dup()
    try:
        follower.retire()
        wait_for(lambda: follower.fired)
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect((LOOPBACK, follower.port))
    finally:
        other.close()
    wait_for(lambda: len(follower.taken["new"]) == 1)
    follower.taken["new"][0].sendall(b"hello")
    client.settimeout(10)
    assert client.recv(5) == b"hello"


def test_a_listener_accepts_at_a_socket_where_another_one_has_retired(
    follower: Follower, stack: contextlib.ExitStack
) -> None:
    """As a service manager keeps sockets for the next start."""
    module.drop_handshakes(follower.new.socket)
    follower.retire()
    wait_for(lambda: follower.fired)
    stack.enter_context(follower.call())
    wait_for(lambda: len(follower.taken["new"]) == 1)


@pytest.mark.parametrize("tells", [True, False])
def test_a_handshake_that_does_not_end_is_not_waited_for_long(
    follower: Follower, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    """The same holds if the system does not list handshakes."""
    if not tells:
        monkeypatch.setattr(module, "handshakes", lambda _: None)
    monkeypatch.setattr(module, "drop_handshakes", lambda *_: None)  # all its packets are lost
    client = stack.enter_context(follower.begins())
    follower.retire()
    assert follower.fired == []
    wait_for(lambda: follower.fired)
    assert follower.taken == {"old": [], "new": []}
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_it_may_be_closed_before(follower: Follower, stack: contextlib.ExitStack) -> None:
    stack.enter_context(follower.begins())
    follower.retire()
    assert follower.fired == []
    follower.thread.run(follower.old.close)
    assert follower.fired == [None]
