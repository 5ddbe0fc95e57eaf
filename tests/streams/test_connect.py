"""Connecting to servers over real sockets, on uvloop's own transports and on Twisted's."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reactors import ReactorThread, descriptors, settled
from servers import LOOPBACK, free_port, wait_for
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError, TimeoutError

from ktcpvs.model.address import Address, Inet, Unix
from ktcpvs.streams.connect import connect
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.uv_connect import HappyEyeballs


@pytest.fixture(autouse=True)
def nothing_is_left(thread: ReactorThread) -> Iterator[None]:
    thread.failures.clear()
    with contextlib.suppress(ConnectionRefusedError):  # so that Twisted creates what it creates only once
        reach(thread, Inet("localhost", free_port()))
    before = settled(thread)
    yield
    wait_for(lambda: descriptors() == before, "all descriptors to be closed")
    assert thread.failures == []


LOST = 1e-6
"""The rounding error of a difference of two times, in seconds."""


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """The address of a listener whose backlog is full, so that it neither accepts nor refuses connections."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=0))
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()


def reach(thread: ReactorThread, address: Address, timeout: float = 10) -> Stream:
    stream: Stream = thread.run(connect, thread.reactor, address, timeout, Stream())
    assert stream.is_open
    return stream


def leave(thread: ReactorThread, stream: Stream) -> None:
    thread.run(stream.abort)
    wait_for(lambda: not stream.is_open)


def test_a_server_that_is_there(thread: ReactorThread) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        stream = reach(thread, Inet(*server.getsockname()))
        server.accept()[0].close()
        leave(thread, stream)


def test_a_server_that_is_not_there(thread: ReactorThread, tmp_path: Path) -> None:
    with pytest.raises(ConnectionRefusedError):
        reach(thread, Inet(LOOPBACK, free_port()))
    with pytest.raises(ConnectError):
        reach(thread, Unix(str(tmp_path / "nobody")))


def test_a_server_that_does_not_answer(thread: ReactorThread, deaf: tuple[str, int]) -> None:
    began = thread.run(thread.reactor.seconds)  # by the reactor's own clock, which may count whole milliseconds
    with pytest.raises(TimeoutError):
        reach(thread, Inet(*deaf), 0.3)
    assert thread.run(thread.reactor.seconds) - began >= 0.3 - LOST


def test_a_call_that_is_given_up(thread: ReactorThread, deaf: tuple[str, int]) -> None:
    def call_and_cancel() -> Deferred[Any]:
        called = connect(thread.reactor, Inet(*deaf), 30, Stream())
        thread.reactor.callLater(0.1, called.cancel)
        return called

    with pytest.raises((CancelledError, ConnectError)):
        thread.run(call_and_cancel)


def test_a_call_that_is_given_up_at_once(thread: ReactorThread) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:

        def call_and_cancel() -> Deferred[Any]:
            called = connect(thread.reactor, Inet(*server.getsockname()), 30, Stream())
            called.cancel()
            return called

        with pytest.raises((CancelledError, ConnectError)):
            thread.run(call_and_cancel)
        time.sleep(0.05)


def test_a_name(thread: ReactorThread) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        stream = reach(thread, Inet("localhost", server.getsockname()[1]))
        server.accept()[0].close()
        leave(thread, stream)


def test_a_name_that_does_not_exist(thread: ReactorThread) -> None:
    with pytest.raises((DNSLookupError, ValueError)):
        reach(thread, Inet("x" * 64 + ".invalid", 80))  # too long for a name, so that no name server is queried


ours = pytest.mark.parametrize("thread", ["uvloop"], indirect=True)
"""Twisted implements these in its own way."""


@ours
def test_a_unix_socket_whose_backlog_is_full(thread: ReactorThread, tmp_path: Path) -> None:
    """The connection attempt waits for room in the backlog."""
    path = str(tmp_path / "busy")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)

        def call_and_accept() -> Deferred[Any]:
            thread.reactor.callLater(0.2, lambda: server.accept()[0].close())
            return connect(thread.reactor, Unix(path), 10, Stream())

        stream: Stream = thread.run(call_and_accept)
        server.accept()[0].close()
        leave(thread, stream)


def reach_any(thread: ReactorThread, *where: tuple[str, int], timeout: float = 10) -> Stream:
    def call_all() -> Deferred[Stream]:
        answer: Deferred[Stream] = Deferred()
        HappyEyeballs(thread.reactor.uv, timeout, Stream(), answer).try_all([*where])
        return answer

    stream: Stream = thread.run(call_all)
    return stream


@ours
def test_the_first_that_answers(thread: ReactorThread, deaf: tuple[str, int]) -> None:
    refusing = LOOPBACK, free_port()
    with socket.create_server((LOOPBACK, 0)) as server, socket.create_server((LOOPBACK, 0)) as late:
        stream = reach_any(thread, refusing, deaf, server.getsockname(), late.getsockname(), timeout=30)
        server.accept()[0].close()
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.accept()
        leave(thread, stream)


@ours
def test_no_address_of_a_name_answers(thread: ReactorThread, deaf: tuple[str, int]) -> None:
    refusing = LOOPBACK, free_port()
    with pytest.raises(TimeoutError):
        reach_any(thread, refusing, deaf, refusing, timeout=0.5)
    with pytest.raises(ConnectionRefusedError):
        reach_any(thread, deaf, refusing, refusing, timeout=0.1)
