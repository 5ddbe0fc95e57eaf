"""TCP keep-alive: on the sockets of clients, which inherit it from their listener, and on those to servers."""

from __future__ import annotations

import contextlib
import socket

import pytest
from memory import A, World, get

from ktcpvs.system.sockets import KEEPALIVE_PROBES

PROBE_OPTIONS = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
ON = (1, 60, 60 // KEEPALIVE_PROBES, KEEPALIVE_PROBES)


def probes(sock: socket.socket) -> tuple[int, ...]:
    """Return whether keep-alive is on, and its times and probes."""
    is_on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return (is_on, *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in PROBE_OPTIONS))


def accepted(world: World) -> tuple[int, ...]:
    """Return the options of a client's socket, as the listener accepts it."""
    (listener,) = world.live.listeners.values()
    client = socket.create_connection(listener.socket.getsockname()[:2])
    with contextlib.closing(client):
        sock, _ = listener.socket.accept()
        with contextlib.closing(sock):
            return probes(sock)


@pytest.mark.parametrize("scheduler", ["wlc", "phttp"])
def test_both_sides(scheduler: str) -> None:
    world = World(f"scheduler = {scheduler}", f"server = {A}", "tcp_keepalive = 60")
    assert accepted(world) == ON
    client = world.client()
    if scheduler == "phttp":
        client.says(get())
    server = world.accepts(A)
    wanted = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    ]
    assert [option for option in server.line.options if option in wanted] == wanted
    world.reset_all()
    world.close()


def test_an_edit_switches_it_on_and_off() -> None:
    world = World("scheduler = wlc", f"server = {A}")
    assert accepted(world)[0] == 0
    world.load("scheduler = wlc", f"server = {A}", "tcp_keepalive = 60")
    assert accepted(world) == ON
    world.load("scheduler = wlc", f"server = {A}")
    assert accepted(world)[0] == 0
    world.close()


def test_a_unix_socket_has_none(tmp_path: object) -> None:
    world = World("scheduler = wlc", f'server = "unix:{tmp_path}/none"', "tcp_keepalive = 60")
    assert world.live.listeners
    world.close()
