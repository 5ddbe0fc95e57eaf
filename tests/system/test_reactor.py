"""The uvloop reactor and its loop: a reset is reported even after waiting data; exceptions that uvloop catches are
logged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from ktcpvs.reactor import PersistentLoop, UVReactor


@pytest.mark.parametrize("waiting", [0, 1, 5])
def test_a_reader_hears_of_a_reset_after_the_data(waiting: int) -> None:
    loop = PersistentLoop()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        peer = socket.create_connection(server.getsockname())
        sock, _ = server.accept()
    sock.setblocking(False)
    seen: list[object] = []

    def read() -> None:
        try:
            seen.append(sock.recv(1))
        except OSError as error:
            seen.append(type(error))
            loop.remove_reader(sock)
            loop.stop()

    peer.sendall(b"x" * waiting)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    loop.add_reader(sock, read)
    limit = loop.call_later(5, loop.stop)
    loop.run_forever()
    limit.cancel()
    loop.close()
    sock.close()
    assert seen == [b"x"] * waiting + [ConnectionResetError]


def test_a_reader_that_is_removed_is_called_no_more() -> None:
    loop = PersistentLoop()
    one, other = socket.socketpair()
    other.send(b"x")
    calls: list[int] = []

    def once() -> None:
        calls.append(1)
        loop.remove_reader(one.fileno())

    loop.add_reader(one, once)
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    loop.close()
    one.close()
    other.close()
    assert calls == [1]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["TCP", "unix"])
def test_a_listening_socket_is_read_again_and_again(family: int, tmp_path: Path) -> None:
    loop = PersistentLoop()
    accepted: list[socket.socket] = []
    with socket.socket(family) as server, contextlib.ExitStack() as stack:
        server.bind(str(tmp_path / "socket") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        server.listen()

        def dial() -> None:
            client = stack.enter_context(socket.socket(family))
            client.connect(server.getsockname())

        def accept() -> None:
            accepted.append(stack.enter_context(server.accept()[0]))
            if len(accepted) == 3:
                loop.remove_reader(server)
                loop.stop()
            else:
                dial()

        loop.add_reader(server, accept)
        dial()
        limit = loop.call_later(5, loop.stop)
        loop.run_forever()
        limit.cancel()
    loop.close()
    assert len(accepted) == 3


def test_what_uvloop_catches_is_logged_once() -> None:
    loop = PersistentLoop()
    reactor = UVReactor(loop)
    assert reactor.uv is loop
    error = ValueError("oh")
    events: list[Any] = []

    def fail() -> None:
        loop.call_soon(loop.stop)
        raise error

    globalLogPublisher.addObserver(events.append)
    try:
        loop.call_soon(fail)
        loop.call_soon(loop.call_exception_handler, {"message": "without an exception"})
        loop.run_forever()
    finally:
        globalLogPublisher.removeObserver(events.append)
        for reader in reactor.removeAll():
            reader.connectionLost(None)
        loop.close()
    assert [event["log_failure"].value for event in events if "log_failure" in event] == [error]
    assert "without an exception" in [event.get("message") for event in events]


def test_the_first_connection_opens_no_other_descriptor() -> None:
    loop = PersistentLoop()
    reactor = UVReactor(loop)
    one, other = socket.socketpair()

    async def carry() -> list[int]:
        counts = [len(os.listdir("/proc/self/fd"))]
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, one)
        counts.append(len(os.listdir("/proc/self/fd")))
        transport.abort()
        await asyncio.sleep(0)
        counts.append(len(os.listdir("/proc/self/fd")))
        return counts

    before, during, after = loop.run_until_complete(carry())
    assert during == before
    assert after == before - 1
    other.close()
    for reader in reactor.removeAll():
        reader.connectionLost(None)
    loop.close()
