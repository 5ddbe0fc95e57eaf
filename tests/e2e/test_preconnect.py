"""Connections to servers that a real daemon opens ahead of clients."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, dial, echo, free_port, read_exactly, speak_first, wait_for

from .harness import Daemon

pytestmark = pytest.mark.e2e


def kept(daemon: Daemon) -> int:
    return int(daemon.stats("s")["servers"][0]["stats"]["kept"])


def reused(daemon: Daemon) -> int:
    return int(daemon.stats("s")["servers"][0]["stats"]["reused"])


def established_ports() -> set[int]:
    """Return the local ports of established connections (proc_net_tcp in the kernel's documentation: state 01). On a
    busy machine, a FIN arrives a moment after it was sent."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "01"}


@pytest.mark.parametrize("scheduler", ["wlc", "http"])
def test_a_client_gets_a_connection_that_was_open_before(daemon: Daemon, scheduler: str) -> None:
    server = SocketServer(echo)
    port = free_port()
    rules = ((".*", server.address),) if scheduler == "http" else ()
    daemon.service("s", port, server.address, rules=rules, scheduler=scheduler, preconnect=2)
    wait_for(lambda: kept(daemon) == 2)
    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    with dial((LOOPBACK, port)) as client:
        client.sendall(request)
        assert read_exactly(client, len(request)) == request
        assert reused(daemon) == 1
        wait_for(lambda: kept(daemon) == 2)
        wait_for(lambda: server.accepted == 3)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    daemon.wait_until_empty()
    server.stop()


def test_a_greeting_waits_for_the_client(daemon: Daemon) -> None:
    greeting = b"220 mail.example ready\r\n"
    server = SocketServer(speak_first(greeting))
    port = free_port()
    daemon.service("s", port, server.address, preconnect=1)
    wait_for(lambda: kept(daemon) == 1)
    for number in range(3):
        with dial((LOOPBACK, port)) as client:
            assert read_exactly(client, len(greeting)) == greeting
            client.sendall(b"QUIT")
            assert read_exactly(client, 4) == b"QUIT"
        wait_for(lambda: kept(daemon) == 1)
        assert reused(daemon) == number + 1
    daemon.wait_until_empty()
    server.stop()


def test_no_client_gets_a_connection_that_its_server_has_ended(daemon: Daemon) -> None:
    """The server ends the connections that have come so far at once, right before the client comes."""
    ends = threading.Event()
    waiting: list[socket.socket] = []

    def serve(sock: socket.socket) -> None:
        if ends.is_set():
            echo(sock)
        else:
            waiting.append(sock)
            ends.wait(10)

    server = SocketServer(serve)
    port = free_port()
    daemon.service("s", port, server.address, preconnect=3)
    wait_for(lambda: kept(daemon) == 3 and len(waiting) >= 3)
    ports = {sock.getpeername()[1] for sock in waiting}
    ends.set()
    wait_for(lambda: not ports & established_ports(), "the ends to reach the daemon's sockets")
    for _ in range(5):
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"
    daemon.wait_until_empty()
    server.stop()


def test_all_are_closed_when_the_service_stops(daemon: Daemon) -> None:
    server = SocketServer(echo)
    daemon.service("s", free_port(), server.address, preconnect=4)
    wait_for(lambda: kept(daemon) == 4)
    daemon.call("stop", "s")
    wait_for(lambda: server.accepted == 4 and server.living == 0)
    server.stop()
