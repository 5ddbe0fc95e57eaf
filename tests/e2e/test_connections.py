"""--connections with filters and orders, and --kill, in one process and with workers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from servers import LOOPBACK, dial, echo, free_port, wait_for

from .harness import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together]


def is_closed(client: object) -> bool:
    try:
        return client.recv(1) == b""  # type: ignore[attr-defined]
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("workers", [0, 2], ids=["one-process", "workers"])
def test_list_filter_and_kill(daemon: Daemon, serve: Callable[..., object], stack: contextlib.ExitStack) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)  # type: ignore[attr-defined]
    clients = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(3)]
    for client in clients:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    listed = daemon.json("--connections")
    assert len({one["id"] for one in listed}) == 3
    assert [one["id"] for one in daemon.json("--connections")] == [one["id"] for one in listed]

    host, local = clients[1].getsockname()[:2]
    (one,) = daemon.json("--connections", "--filter", f"client={host}:{local}", "--filter", "state=relaying")
    assert daemon.adm("--connections", "--filter", f"client={LOOPBACK}/32", "--count").stdout == "3\n"
    assert daemon.adm("--connections", "--filter", "state=queued", "--count").stdout == "0\n"

    daemon.forget_log()
    done = daemon.adm("--kill", one["id"])
    assert done.stdout == f"closed {one['id']} of service s: {one['client']} -> {one['server']}\n"
    assert is_closed(clients[1])
    wait_for(lambda: len(daemon.json("--connections")) == 2, "the connection to be gone")
    (line,) = [line for line in daemon.log().splitlines() if "has closed connection" in line]
    assert f"user 0 has closed connection {one['id']} of service s: client {one['client']}" in line
    for client in (clients[0], clients[2]):
        client.sendall(b"y")
        assert client.recv(1) == b"y"

    again = daemon.adm("--kill", one["id"], check=False)
    assert again.returncode == 1
    assert again.stderr == (
        f"tcpvsadm: kill: no connection {one['id']}; 'tcpvsadm --connections' lists them with their IDs\n"
    )
