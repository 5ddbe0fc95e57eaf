"""Schedulers for connections, as an administrator chooses them with tcpvsadm, with the real daemon and servers."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections import Counter

import pytest
from servers import LOOPBACK, Nginx, free_port

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e


def visit(stack: contextlib.ExitStack, port: int, source: str = LOOPBACK) -> str:
    """Make a connection that stays, and return the name of its server."""
    client = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT, source_address=(source, 0))
    stack.enter_context(contextlib.closing(client))
    client.request("GET", "/")
    return client.getresponse().read().split()[0].decode()


def start(daemon: Daemon, web: list[Nginx], scheduler: str, *words: str) -> int:
    """Start a service. words: of its servers, as in `-w 3`. Return its port."""
    port = free_port()
    daemon.adm("-A", "-i", "web", "-s", scheduler, "-l", f"{LOOPBACK}:{port}")
    for server, options in zip(web, words, strict=False):
        daemon.adm("-a", "-i", "web", "-r", server.address, *options.split())
    daemon.adm("--start", "-i", "web")
    return port


@pytest.mark.parametrize(
    ("scheduler", "words", "expected"),
    [
        ("sed", ("-w 1", "-w 4"), (0, 3)),
        ("nq", ("-w 1", "-w 4"), (1, 2)),
        ("fo", ("-w 1", "-w 4"), (0, 3)),
        ("ovf", ("-w 5", "-w 2"), (3, 0)),
        ("ovf", ("-w 1", "-w 2"), (1, 2)),
        ("first", ("--maxconn 2", ""), (2, 1)),
    ],
    ids=["sed", "nq", "fo", "ovf", "ovf beyond", "first"],
)
def test_three_connections_that_stay(
    daemon: Daemon, web: list[Nginx], stack: contextlib.ExitStack,
    scheduler: str, words: tuple[str, str], expected: tuple[int, int],
) -> None:  # fmt: skip
    port = start(daemon, web, scheduler, *words)
    counted = Counter(visit(stack, port) for _ in range(3))
    assert (counted[web[0].name], counted[web[1].name]) == expected
    assert f"scheduler = {scheduler}" in daemon.adm("--save").stdout


@pytest.mark.parametrize("scheduler", ["maglev", "chash"])
@pytest.mark.parametrize("workers", [2], ids=["workers"])
def test_a_client_has_its_server_in_each_worker(
    daemon: Daemon, web: list[Nginx], stack: contextlib.ExitStack, scheduler: str
) -> None:
    port = start(daemon, web, scheduler, "-w 1", "-w 1")
    clients = [f"127.0.0.{number}" for number in range(10, 22)]
    names = {server.address: server.name for server in web}
    seen = {}
    for client in clients:
        explained = json.loads(daemon.adm("--explain", "-i", "web", "--from", client, "--json").stdout)
        seen[client] = names[explained["answer"]["server"]]
        if scheduler == "maglev" or client == clients[0]:  # with the first one, no server has more than its share
            assert visit(stack, port, client) == seen[client]
            assert visit(stack, port, client) == seen[client] or scheduler == "chash"
    assert len(set(seen.values())) == 2


def test_rules_with_a_balance_that_hashes(daemon: Daemon, web: list[Nginx], stack: contextlib.ExitStack) -> None:
    """The server of a client leaves and comes back: so does the client, and no other one."""
    port = start(daemon, web, "phttp", "", "")
    one, two = (server.address for server in web[:2])
    daemon.adm("--add-rule", "-i", "web", "-p", ".*", "balance", "maglev", "-r", one)
    daemon.adm("--add-rule", "-i", "web", "-p", ".*", "-r", two)
    clients = [f"127.0.0.{number}" for number in range(10, 22)]
    before = {client: visit(stack, port, client) for client in clients}
    assert set(before.values()) == {web[0].name, web[1].name}
    daemon.adm("-e", "-i", "web", "-r", one, "-w", "0")
    assert {visit(stack, port, client) for client in clients} == {web[1].name}
    daemon.adm("-e", "-i", "web", "-r", one, "-w", "1")
    assert {client: visit(stack, port, client) for client in clients} == before


def test_http_rule_is_http(daemon: Daemon, web: list[Nginx], stack: contextlib.ExitStack) -> None:
    port = start(daemon, web, "http-rule", "", "")
    daemon.adm("--add-rule", "-i", "web", "-p", "^/", "-r", web[1].address)
    assert visit(stack, port) == web[1].name
    assert "scheduler = http-rule" in daemon.adm("--save").stdout
    listed = {
        row["name"]: row["services"] for row in json.loads(daemon.adm("--schedulers", "--json").stdout)["schedulers"]
    }
    assert listed["http"] == 1


def test_first_without_maxconn_is_warned_of(daemon: Daemon, web: list[Nginx]) -> None:
    one, two = (server.address for server in web[:2])
    daemon.adm("-A", "-i", "web", "-s", "first", "-l", f"{LOOPBACK}:{free_port()}")
    daemon.adm("-a", "-i", "web", "-r", one)
    warned = daemon.adm("-a", "-i", "web", "-r", two).stderr
    assert (
        f"server {one} has no maxconn: scheduler first uses the servers after it only while it cannot serve" in warned
    )


def test_options_of_a_balance(daemon: Daemon, web: list[Nginx]) -> None:
    """A user has one server; requests by latency reach both servers."""
    port = start(daemon, web, "phttp", "", "")
    daemon.adm("-E", "-i", "web", "--balance", 'chash key "{header.x-user}" load_factor 3')
    client = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)

    def ask(user: str) -> str:
        client.request("GET", "/", headers={"X-User": user})
        return client.getresponse().read().split()[0].decode()

    with contextlib.closing(client):
        users = [f"user{number}" for number in range(12)]
        before = {user: ask(user) for user in users}
        assert len(set(before.values())) == 2
        assert {user: ask(user) for user in users} == before
        daemon.adm("-E", "-i", "web", "--balance", "peak-ewma failure_cost 5")
        assert len({ask("") for _ in range(60)}) == 2
    assert "balance = peak-ewma failure_cost 5" in daemon.adm("--save").stdout
    refused = daemon.adm("-E", "-i", "web", "--balance", "maglev table_size 1000", check=False).stderr
    assert "maglev table_size 1000 is no prime; 1009 is one" in refused
