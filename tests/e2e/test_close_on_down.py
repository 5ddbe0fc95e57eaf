"""close_on_down: relayed connections of a server end when its checks have found it down."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Callable

import pytest
from servers import LOOPBACK, SocketServer, dial, echo, echoes, ending, read_head, wait_for

from .harness import Daemon
from .one_service import QUICK, row, start, with_workers

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]


class Role:
    """What a server's check is told, as by Patroni. is_primary: the test changes it."""

    def __init__(self, serve: Serve) -> None:
        self.is_primary = True
        self.address = serve(self._respond).address

    def _respond(self, sock: socket.socket) -> None:
        while read_head(sock):
            status = b"200 OK" if self.is_primary else b"503 Service Unavailable"
            sock.sendall(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)


def is_down(daemon: Daemon) -> bool:
    return bool(row(daemon)["health"]["state"] == "down")


@pytest.mark.parametrize("relay", ["copy", "splice"])
@with_workers
def test_a_relayed_connection_ends(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack, relay: str, workers: int
) -> None:
    role = Role(serve)
    lines = f"server = {serve(echo).address} 1 check {role.address}", "check = http /primary", f"relay = {relay}"
    port = start(daemon, *lines, "close_on_down = on", *QUICK, scheduler="wlc")
    clients = [stack.enter_context(dial((LOOPBACK, port), 30)) for _ in range(4)]
    assert all(echoes(client) for client in clients)
    role.is_primary = False
    for client in clients:
        assert ending(client) in ("end", "reset")
    assert is_down(daemon)
    daemon.wait_until_empty()


def test_without_the_option_it_continues(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    role = Role(serve)
    lines = f"server = {serve(echo).address} 1 check {role.address}", "check = http /primary"
    port = start(daemon, *lines, *QUICK, scheduler="wlc")
    client = stack.enter_context(dial((LOOPBACK, port)))
    assert echoes(client)
    role.is_primary = False
    wait_for(lambda: is_down(daemon))
    assert echoes(client)


def switch_to_echo(sock: socket.socket) -> None:
    """Accept an upgrade, and then echo; respond to other requests, and keep the connection."""
    while head := read_head(sock):
        if b"\r\nUpgrade: echo\r\n" in head:
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            echo(sock)
            return
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def test_an_upgrade_ends_and_a_kept_connection_of_a_client_does_not(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    role = Role(serve)
    lines = f"server = {serve(switch_to_echo).address} 1 check {role.address}", "check = http /up", "close_on_down = on"
    port = start(daemon, *lines, *QUICK)
    upgraded = stack.enter_context(dial((LOOPBACK, port), 30))
    upgraded.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert read_head(upgraded).startswith(b"HTTP/1.1 101 ")
    assert echoes(upgraded)
    client = stack.enter_context(contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=20)))
    client.request("GET", "/")
    response = client.getresponse()
    assert (response.status, response.read()) == (204, b"")
    used = client.sock
    role.is_primary = False
    assert ending(upgraded) in ("end", "reset")
    client.request("GET", "/")
    response = client.getresponse()
    assert (response.status, client.sock) == (503, used)
