"""Clients behind trusted proxies: what counts for them, and what clients of other addresses cannot reach."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, B, Peer, World, answer, get, worlds
from twisted.internet.defer import Deferred

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.inspect.explain import Explainer
from ktcpvs.model.assumed_request import AssumedRequest

PROXY, CLIENT = "10.0.0.1", "192.0.2.7"

RULES = (
    "trusted_proxies = 10.0.0.0/8", f"server = {A}", f"server = {B}",
    f"rule = from 198.51.100.0/24 10.0.0.0/8 use server {A}", f'rule = pattern ".*" use server {B}',
)  # fmt: skip
PER_REQUEST = ("scheduler = phttp", *RULES)
PER_CONNECTION = ("scheduler = http", *RULES)

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*PER_REQUEST) as make:
        yield make


def comes(world: World, host: str) -> Peer:
    peer = world.comes(host)
    assert peer is not None
    return peer


def told(client: str) -> str:
    return f"X-Forwarded-For: {client}"


@pytest.mark.parametrize("lines", [PER_REQUEST, PER_CONNECTION])
def test_rules_see_the_client_that_a_trusted_proxy_tells(make: Make, lines: tuple[str, ...]) -> None:
    world = make(*lines)
    for client, server in ((CLIENT, B), ("198.51.100.7", A)):
        comes(world, PROXY).says(get("/", told(client)))
        world.accepts(server)
    comes(world, PROXY).says(get("/"))
    world.accepts(A)  # the proxy itself


@pytest.mark.parametrize("lines", [PER_REQUEST, PER_CONNECTION])
def test_other_clients_tell_nothing(make: Make, lines: tuple[str, ...]) -> None:
    world = make(*lines)
    comes(world, CLIENT).says(get("/", told("198.51.100.7")))
    world.accepts(B)


def test_each_request_of_a_connection_has_its_own_client(make: Make) -> None:
    world = make()
    proxy = comes(world, PROXY)
    proxy.says(get("/", told(CLIENT)))
    b = world.accepts(B)
    b.says(answer(b"1"))
    proxy.says(get("/", told("198.51.100.7")))
    a = world.accepts(A)
    a.says(answer(b"2"))
    proxy.says(get("/", told(CLIENT)))
    assert world.called() == []
    b.says(answer(b"3"))
    assert proxy.heard() == answer(b"1") + answer(b"2") + answer(b"3")


def test_trailers_tell_nothing(make: Make) -> None:
    world = make()
    proxy = comes(world, PROXY)
    trailers = f"0\r\n{told('198.51.100.7')}\r\n\r\n".encode()
    proxy.says(get("/", told(CLIENT), "Transfer-Encoding: chunked", method="POST", body=b"1\r\nx\r\n" + trailers))
    world.accepts(B)


def test_an_unknown_client_is_in_no_network(make: Make) -> None:
    world = make()
    comes(world, PROXY).says(get("/", told("unknown")))
    world.accepts(B)


@pytest.mark.parametrize("scheduler", ["phttp", "http"])
def test_a_malformed_forwarded_is_refused(make: Make, scheduler: str) -> None:
    world = make(f"scheduler = {scheduler}", "trusted_header = forwarded", "redirect = 10.0.0.9:80", *RULES)
    proxy = comes(world, PROXY)
    proxy.says(get("/", 'Forwarded: for="198.51.100.7, for=192.0.2.7'))
    assert proxy.heard().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert world.called() == []
    proxy = comes(world, PROXY)
    proxy.says(get("/", told("198.51.100.7"), f"Forwarded: for={CLIENT}"))
    world.accepts(B)


def test_a_client_of_a_unix_socket_is_a_proxy(make: Make) -> None:
    world = make()
    connection = world.live.client_factory.build("")
    assert connection is not None
    proxy = world.peer(connection.client)
    proxy.says(get("/", told("198.51.100.7")))
    world.accepts(A)


def test_an_edit_applies_to_open_connections(make: Make) -> None:
    world = make()
    proxy = comes(world, PROXY)
    proxy.says(get("/", told(CLIENT)))
    b = world.accepts(B)
    b.says(answer())
    world.load("scheduler = phttp", *RULES[1:])
    proxy.says(get("/", told(CLIENT)))
    a = world.accepts(A)
    a.says(answer())
    world.load(*PER_REQUEST)
    proxy.says(get("/", told(CLIENT)))
    assert b.heard() == get("/", told(CLIENT)) * 2


# What servers are told.


@pytest.mark.parametrize(
    ("mode", "lines"),
    [
        ("x_forwarded_for = append", [told("203.0.113.1, 192.0.2.7"), told(PROXY)]),
        ("x_forwarded_for = replace", [told(CLIENT)]),
        ("forwarded = replace", [told("203.0.113.1, 192.0.2.7"), 'Forwarded: for=192.0.2.7;proto=http;host="h"']),
    ],
)
def test_servers_are_told_the_client_or_the_proxy(make: Make, mode: str, lines: list[str]) -> None:
    world = make(*PER_REQUEST, mode)
    for _ in range(2):
        comes(world, PROXY).says(get("/", told("203.0.113.1, 192.0.2.7")))
    world.called()
    assert world.connects().heard() == get("/", *lines)


def test_another_client_is_told_as_ever(make: Make) -> None:
    world = make(*PER_REQUEST, "x_forwarded_for = append")
    comes(world, CLIENT).says(get("/", told("203.0.113.1")))
    assert world.accepts(B).heard() == get("/", told("203.0.113.1"), told(CLIENT))


@pytest.mark.parametrize("scheduler", ["phttp", "http"])
def test_the_proxy_protocol_tells_the_client_without_a_port(make: Make, scheduler: str) -> None:
    world = make(
        f"scheduler = {scheduler}", "trusted_proxies = 10.0.0.0/8", f"server = {A} proxy v1",
        f'rule = pattern ".*" use server {A}',
    )  # fmt: skip
    comes(world, PROXY).says(get("/", told(CLIENT)))
    assert world.accepts(A).heard().startswith(b"PROXY TCP4 192.0.2.7 10.0.0.1 0 12345\r\n")
    comes(world, PROXY).says(get("/", told("2001:db8::7")))
    assert world.accepts(A).heard().startswith(b"PROXY TCP6 2001:db8::7 :: 0 0\r\n")


# Limits.


def status(peer: Peer) -> int:
    return int(peer.heard().split(b" ")[1])


@pytest.mark.parametrize("scheduler", ["phttp", "http"])
def test_limits_count_the_client(make: Make, scheduler: str) -> None:
    world = make(
        f"scheduler = {scheduler}", "client_rate = 1/h", "client_burst = 2", "client_connections = 1",
        "trusted_proxies = 10.0.0.0/8", 'rule = pattern ".*" use respond 200',
    )  # fmt: skip
    for client, expected in ((CLIENT, 200), (CLIENT, 200), (CLIENT, 429), ("192.0.2.8", 200), ("unknown", 200)):
        proxy = comes(world, PROXY)  # any number of connections
        proxy.says(get("/", told(client)))
        assert status(proxy) == expected
    own = comes(world, CLIENT)
    own.says(get("/", told("192.0.2.9")))
    assert status(own) == 429, "it counts together with what came through the proxy"
    assert world.comes(CLIENT) is None


def test_the_access_log_names_the_client(make: Make) -> None:
    for lines in (PER_REQUEST, PER_CONNECTION):
        world = make(*lines)
        written: list[bytes] = []

        class Log:
            write = staticmethod(written.append)

        log: Any = Log
        world.live.traffic.access_log.writer = AccessLogWriter(world.context, log, "json", "s", "x")
        world.live.apply_settings()
        proxy = comes(world, PROXY)
        proxy.says(get("/", told(CLIENT)))
        server = world.accepts(B)
        server.says(answer())
        proxy.resets()
        server.resets()
        world.settle()
        assert [json.loads(line)["client"] for line in written] == [CLIENT]


def test_an_explanation_finds_the_client(make: Make) -> None:
    world = make()
    found: list[dict[str, Any]] = []
    headers = [("X-Forwarded-For", CLIENT)]
    call = Explainer(world.director).explain("s", AssumedRequest("GET", "/", headers, PROXY))
    Deferred.fromCoroutine(call).addCallback(found.append)
    assert found[0]["answer"]["server"] == B
    assert found[0]["request"]["client"] == CLIENT
    assert f"the trusted proxy {PROXY} tells the client: {CLIENT}" in found[0]["notes"]


DENY = ("deny = 192.0.2.0/24", "allow = 192.0.2.64/26 10.0.0.0/8")


@pytest.mark.parametrize("lines", [PER_REQUEST, PER_CONNECTION])
def test_a_denied_client_behind_a_proxy_is_refused(make: Make, lines: tuple[str, ...]) -> None:
    world = make(*lines, *DENY)
    proxy = comes(world, PROXY)
    proxy.says(get("/", told(CLIENT)))
    assert proxy.heard().startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert world.called() == []
    assert world.comes(CLIENT) is None  # as one that connects itself


def test_other_clients_of_the_same_proxy_are_served(make: Make) -> None:
    world = make(*PER_REQUEST, *DENY)
    proxy = comes(world, PROXY)
    server = None
    for client, is_served in (("198.51.100.7", True), (CLIENT, False), ("198.51.100.7", True), (CLIENT, False)):
        proxy.says(get("/", told(client)))
        if is_served:
            server = server or world.accepts(A)
            assert server.heard()
            server.says(answer())
        assert proxy.heard().startswith(b"HTTP/1.1 200" if is_served else b"HTTP/1.1 403")
    assert world.live.traffic.counters.refusals == {403: 2}


def test_allow_makes_exceptions_and_concerns_no_other_clients(make: Make) -> None:
    world = make(*PER_REQUEST, *DENY)
    for client in ("192.0.2.65", "203.0.113.9", "unknown"):
        proxy = comes(world, PROXY)
        proxy.says(get("/", told(client)))
        world.accepts(B)
    assert world.comes("203.0.113.9") is None


def test_an_explanation_says_that_a_client_behind_a_proxy_is_denied(make: Make) -> None:
    world = make(*PER_REQUEST, *DENY)
    found: list[dict[str, Any]] = []
    call = Explainer(world.director).explain("s", AssumedRequest("GET", "/", [("X-Forwarded-For", CLIENT)], PROXY))
    Deferred.fromCoroutine(call).addCallback(found.append)
    assert found[0]["answer"]["server"] is None
    assert "client denied by 192.0.2.0/24" in found[0]["answer"]["reason"]
