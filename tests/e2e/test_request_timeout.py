"""`request_timeout`: a request ends after it, whatever its server does meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from servers import LOOPBACK, SocketServer, dial, free_port, read_all

from .harness import Daemon

pytestmark = pytest.mark.e2e

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Dripping:
    """A server that sends `first`, and then a byte every tenth of a second until the client is gone."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self._over = threading.Event()

    def __call__(self, sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(self._first)
        while not self._over.wait(0.1):
            sock.sendall(b"x")


@pytest.mark.parametrize(
    ("first", "heard"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 504 Gateway Timeout\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
    ],
    ids=["head", "body"],
)
def test_a_server_that_drips(daemon: Daemon, serve: Callable[..., SocketServer], first: bytes, heard: bytes) -> None:
    server, port = serve(Dripping(first)), free_port()
    daemon.service("s", port, server.address, scheduler="phttp", request_timeout=1, eject=0)
    with closing(dial((LOOPBACK, port))) as client:
        client.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        said = b""
        try:
            while data := client.recv(10_000):
                said += data
        except ConnectionResetError:
            assert first.endswith(b"\r\n\r\n"), "only a response that has begun is reset"
    assert said.startswith(heard)
    assert len(said) < 1_000_000
    stats = daemon.stats("s")
    assert stats["servers"][0]["stats"]["failures"] == 0
    assert stats["stats"]["broken_responses"] == (1 if first.endswith(b"\r\n\r\n") else 0)


def test_others_are_left_alone(daemon: Daemon, serve: Callable[..., SocketServer]) -> None:
    def answers(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwell")

    server, port = serve(answers), free_port()
    daemon.service("s", port, server.address, scheduler="phttp", request_timeout=1)
    with closing(dial((LOOPBACK, port))) as client:
        client.sendall(GET)
        assert read_all(client).endswith(b"well")
