"""Limits per client address, with clients of several loopback addresses. Workers count together."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, SocketServer, echo, free_port, read_exactly, wait_for

from .harness import TIMEOUT, Daemon, served

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]
MANY = 16


@pytest.fixture(params=[0, 2], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_connections_over_client_connections_are_reset(
    daemon: Daemon, workers: int, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)
    daemon.adm("-E", "-i", "s", "client_connections=6")
    clients = [served(port, "127.0.0.2", stack) for _ in range(MANY)]
    assert [client is not None for client in clients] == [True] * 6 + [False] * (MANY - 6)
    assert served(port, "127.0.0.3", stack)
    assert daemon.stats("s")["stats"]["limited"] == MANY - 6
    assert f"  rejected: limited {MANY - 6}\n" in daemon.adm("--stats").stdout
    daemon.wait_for_log("service s: clients rejected by client limits, for example 127.0.0.2")
    assert "    client_connections = 6\n" in daemon.adm("--save").stdout
    notes = daemon.call("explain", "s", client="127.0.0.2")["notes"]
    assert "client has 6 of 6 connections: the next one is reset" in notes

    clients[2].close()
    wait_for(lambda: served(port, "127.0.0.2", stack) is not None, "a place of one that left")
    assert not served(port, "127.0.0.2", stack)
    if workers:  # the counts of a dead worker are gone
        (victim,) = {one["worker"] for one in daemon.connections() if one["client"].startswith("127.0.0.3:")}
        left = [one for one in daemon.connections() if one["worker"] != victim and "127.0.0.2:" in one["client"]]
        pid = sorted(daemon.workers())[victim - 1]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(now := daemon.workers()) == 2 and pid not in now, "a new worker", timeout=TIMEOUT)
        again = [served(port, "127.0.0.2", stack) for _ in range(MANY)]
        assert sum(client is not None for client in again) == 6 - len(left)

    daemon.service("u", f"unix:{tmp_path}/u", server.address, client_connections=1, client_rate="1/h")
    for _ in range(3):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(f"{tmp_path}/u")
        client.sendall(b"?")
        assert read_exactly(client, 1) == b"?"


def test_requests_over_client_rate_get_429(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    lines = [f"listen = {LOOPBACK}:{port}", "scheduler = phttp", "client_rate = 5/h", "client_burst = 7"]
    lines += [f"server = {web[0].address}", f'rule = pattern ".*" use server {web[0].address}']
    daemon.call("load", "Virtual s {\n" + "\n".join(lines) + "\n}\n")
    daemon.call("start")

    def ask(clients: list[http.client.HTTPConnection]) -> list[int]:
        found = []
        for client in clients:
            client.request("GET", "/images/a")
            answer = client.getresponse()
            answer.read()
            found.append(answer.status)
            if answer.status == 429:
                assert 0 < int(answer.headers["Retry-After"]) <= 720
                assert answer.headers["Connection"] is None
        return found

    def clients(source: str) -> list[http.client.HTTPConnection]:
        return [http.client.HTTPConnection(LOOPBACK, port, 10, (source, 0)) for _ in range(6)]

    one, other = clients("127.0.0.2"), clients("127.0.0.3")
    with contextlib.ExitStack() as stack:
        for client in (*one, *other):
            stack.callback(client.close)
        assert ask(one) == [200] * 6
        assert ask(one) == [200] + [429] * 5
        assert ask(other) == [200] * 6
        daemon.call("edit_service", "s", access_log=str(log), access_log_format="json")
        assert ask(one) == [429] * 6
        assert daemon.stats("s")["stats"]["limited"] == 11
        daemon.call("edit_service", "s", client_rate="off")
        assert ask(one) == [200] * 6
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 12)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(record["status"] for record in records) == [200] * 6 + [429] * 6
    (why,) = {record["ending"] for record in records if record["status"] == 429}
    assert why == "429: too many requests from this client address"


def test_unfinished_heads_over_client_head_get_429(
    daemon: Daemon, web: list[Nginx], stack: contextlib.ExitStack
) -> None:
    port = free_port()
    daemon.service("s", port, web[0].address, scheduler="phttp", client_head=3000)
    clients = []
    for _ in range(4):
        clients.append(stack.enter_context(socket.create_connection((LOOPBACK, port), 10, ("127.0.0.2", 0))))
        clients[-1].sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 900)
    readable, _, _ = select.select(clients, [], [], 5)
    (client,) = readable
    assert client.recv(65536).startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert daemon.stats("s")["stats"]["limited"] == 1
