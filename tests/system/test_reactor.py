"""The uvloop reactor's loop: a reset is heard of even when data was still waiting."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from ktcpvs.reactor import PersistentLoop


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
