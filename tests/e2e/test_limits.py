"""maxclients, max_backlog and open files: clients over a limit wait, and waiting costs no CPU time."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, dial, echo, free_port, read_exactly, wait_for

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]


def ask(client: socket.socket) -> None:
    client.sendall(b"?")


def is_served(client: socket.socket) -> bool:
    """True when a server echoes one more byte of what this client has sent."""
    return read_exactly(client, 1) == b"?"


def waits(client: socket.socket) -> bool:
    """True when nothing comes for a moment."""
    return not select.select([client], [], [], 0.3)[0]


def test_clients_over_maxclients_wait(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address, maxclients=3)

    def another() -> socket.socket:
        client = stack.enter_context(dial((LOOPBACK, port)))
        ask(client)
        return client

    def all_served(*numbers: int) -> bool:
        for number in numbers:
            ask(clients[number])
        return all(is_served(clients[number]) for number in numbers)

    clients = [another() for _ in range(5)]
    assert all(is_served(client) for client in clients[:3])
    assert all(waits(client) for client in clients[3:])
    assert daemon.active("s") == 3
    assert server.accepted == 3

    clients[1].close()
    assert is_served(clients[3])
    assert waits(clients[4])
    daemon.call("edit_service", "s", maxclients=4)
    assert is_served(clients[4])
    assert all_served(0, 2, 3, 4)

    daemon.call("edit_service", "s", maxclients=1)  # clients that are served stay
    assert all_served(0, 2, 3, 4)
    late = another()
    for number in (0, 2, 3):
        clients[number].close()
    assert waits(late)
    clients[4].close()
    assert is_served(late)
    daemon.call("edit_service", "s", maxclients=0)
    assert all(is_served(another()) for _ in range(10))


def test_max_backlog_may_change_while_the_service_runs(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    server, port = serve(echo), free_port()
    daemon.set(max_backlog=1)
    daemon.service("s", port, server.address, maxclients=1)
    first = stack.enter_context(dial((LOOPBACK, port)))
    ask(first)
    assert is_served(first)

    def connects(timeout: float) -> bool:
        """True when the kernel takes one more client into the backlog."""
        client = stack.enter_context(socket.socket())
        client.settimeout(timeout)
        try:
            client.connect((LOOPBACK, port))
        except TimeoutError:
            return False
        return True

    wait_for(lambda: not connects(0.3), "the backlog to be full", timeout=20)
    daemon.set(max_backlog=100)
    assert all(connects(TIMEOUT) for _ in range(20))


LIMIT = 128
CLIENTS = 300


@pytest.mark.parametrize("reactor", ["uvloop", "epoll"])
def test_when_descriptors_run_out_clients_wait(
    make_daemon: Callable[..., Daemon], serve: Serve, stack: contextlib.ExitStack
) -> None:
    daemon = make_daemon(descriptors=LIMIT)
    daemon.start()
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)
    clients = [stack.enter_context(dial((LOOPBACK, port), timeout=20)) for _ in range(CLIENTS)]
    for client in clients:
        client.sendall(b"?")
    wait_for(lambda: server.accepted == daemon.active("s") >= 20)
    assert server.accepted < LIMIT / 2

    before = daemon.cpu()
    time.sleep(2)
    assert daemon.cpu() - before < 0.3, "a busy loop while there are no descriptors"
    most = server.accepted
    assert daemon.adm("--list").stdout.startswith("TCP Virtual Server")
    assert daemon.active("s") == most

    for client in clients:  # in the order of their connections: each that leaves makes room for one
        assert read_exactly(client, 1) == b"?"
        client.close()
    assert server.accepted == CLIENTS
    daemon.wait_until_empty()


def test_services_share_the_descriptors(
    make_daemon: Callable[..., Daemon], serve: Serve, stack: contextlib.ExitStack
) -> None:
    """A service that has used all of them frees them for the others."""
    daemon = make_daemon(descriptors=LIMIT)
    daemon.start()
    server, one, other = serve(echo), free_port(), free_port()
    daemon.service("one", one, server.address)
    daemon.service("other", other, server.address)
    greedy = [stack.enter_context(dial((LOOPBACK, one))) for _ in range(LIMIT)]
    wait_for(lambda: daemon.active("one") >= 20)
    late = stack.enter_context(dial((LOOPBACK, other)))
    ask(late)
    assert waits(late)
    for client in greedy:
        client.close()
    assert read_exactly(late, 1) == b"?"
    for client in greedy:
        client.close()


def test_listeners_count_as_descriptors(
    make_daemon: Callable[..., Daemon], serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """Many services leave fewer descriptors for connections: clients still wait and are not refused."""
    daemon = make_daemon(descriptors=LIMIT)
    daemon.start()
    server = serve(echo)
    blocks = (
        f"Virtual s{number} {{ listen = unix:{tmp_path}/{number} scheduler = wlc server = {server.address} }}\n"
        for number in range(LIMIT // 2 - 10)
    )
    daemon.call("load", "".join(blocks))
    daemon.call("start")
    clients = [stack.enter_context(dial(f"{tmp_path}/{number % 10}")) for number in range(LIMIT)]
    for client in clients:
        client.sendall(b"?")
    wait_for(lambda: server.accepted > 0)
    assert daemon.adm("--list").returncode == 0
    while clients:
        answered, _, _ = select.select(clients, [], [], 10)
        assert answered, f"{len(clients)} clients are not served"
        for client in answered:  # each that leaves makes room for another
            assert read_exactly(client, 1) == b"?"
            client.close()
            clients.remove(client)
    daemon.wait_until_empty()


def test_failed_connects_leak_no_descriptors(daemon: Daemon) -> None:
    port = free_port()
    daemon.service("s", port, f"{LOOPBACK}:{free_port()}")
    before = daemon.descriptors()
    for _ in range(100):
        with dial((LOOPBACK, port)) as client:
            assert client.recv(1) == b""
    daemon.wait_until_empty()
    assert daemon.descriptors() <= before
    stats = daemon.stats("s")["stats"]
    del stats["relay"]
    assert stats == {
        "active": 0,
        "total": 100,
        "refused": 100,
        "refusals": {"503": 100},
        "redirected": {},
        "broken_responses": 0,
        "requests": 0,
        "responses": {},
        "queued": 0,
        "paused_listeners": 0,
        "waiting_streams": 0,
        "denied": 0,
        "limited": 0,
        "handshakes": {},
        "preambles": {},
        "rules": {},
        "choose_overruns": 0,
        "scheduler_failures": 0,
        "scheduler_failing": 0,
        "handshake_pauses": 0,
        "http2_glitches": 0,
        "http2_floods": 0,
        "rebalancing": 0,
        "bytes_in": 0,
        "bytes_out": 0,
    }
