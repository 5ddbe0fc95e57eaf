"""Servers that are told their client by the PROXY protocol: each request has a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memory import A, B, Peer, World, answer, get, log_into, worlds
from stages import LineStage

from ktcpvs.protocols.proxy_protocol import ProxyHeader, ProxyHeaderReader

LINES = "scheduler = phttp", f"server = {A} proxy v2", f'rule = pattern ".*" use server {A}'
HINT = "; does it expect the PROXY protocol (proxy v2)?"
UNANSWERED = "the server closed the connection before it answered"

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*LINES) as make:
        yield make


def told(server: Peer) -> tuple[ProxyHeader, bytes]:
    """Return the header that a server has received, and what follows it."""
    reader = ProxyHeaderReader()
    header = reader.feed(server.heard())
    assert header is not None
    return header, reader.rest


def test_each_request_has_a_connection_of_its_own(make: Make) -> None:
    world = make()
    client = world.client()
    for path in "/a", "/b", "/b":
        client.says(get(path))
        server = world.accepts(A)
        header, rest = told(server)
        assert (header.version, header.is_local) == (2, False)
        assert header.source == ("192.0.2.1", 4711)
        assert rest == get(path)
        server.says(answer())
        assert client.heard() == answer()
        assert server.line.disconnecting
        assert not world.live.server_connections.pool.kept


def test_pipelined_requests_of_two_clients_share_nothing(make: Make) -> None:
    world = make()
    clients = [world.comes(host) for host in ("192.0.2.1", "2001:db8::7")]
    for client, host in zip(clients, ("192.0.2.1", "2001:db8::7"), strict=True):
        assert client is not None
        client.says(get("/one") + get("/two"))
        for path in "/one", "/two":
            server = world.accepts(A)
            header, rest = told(server)
            assert header.source == (host, 4711)
            assert rest == get(path)
            server.says(answer())
        assert client.heard() == answer() * 2


def test_version_1(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A} proxy v1", f'rule = pattern ".*" use server {A}')
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    line, end, rest = server.heard().partition(b"\r\n")
    assert line.startswith(b"PROXY TCP4 192.0.2.1 ")
    assert b" 4711 " in line
    assert end + rest == b"\r\n" + get()
    client.resets()


def test_a_server_that_hangs_up_may_not_expect_it(make: Make) -> None:
    world = make()
    lines: list[str] = []
    world.context.log = log_into(lines)
    client = world.client()
    client.says(get(method="POST"))
    server = world.accepts(A)
    server.closes()
    assert client.heard().startswith(b"HTTP/1.1 502 ")
    (destination,) = world.live.destinations.values()
    assert destination.last_error == UNANSWERED + HINT
    assert lines == [f"service s: servers fail, as {A}: {UNANSWERED}{HINT}"]


def test_an_edit_takes_effect_with_the_next_connection(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    first = world.accepts(A)
    world.load("scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}')
    told(first)
    first.says(answer())
    assert client.heard() == answer()
    assert first.line.disconnecting
    client.says(get())
    second = world.accepts(A)
    assert second.heard() == get()
    second.says(answer())
    assert not second.line.disconnecting
    world.load(*LINES)
    assert second.line.disconnecting
    client.says(get())
    assert told(world.accepts(A))[1] == get()


def test_a_deleted_server_is_connected_to_as_before(make: Make) -> None:
    """A request that it has accepted may need one more connection, which must not go without what the old one had."""
    world = make()
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    (destination,) = world.live.destinations.values()
    world.load("scheduler = phttp", f"server = {B}", f'rule = pattern ".*" use server {B}')
    assert world.live.connector(destination).options.proxy == "v2"
    server.says(answer())
    assert client.heard() == answer()


@pytest.mark.parametrize("scheduler", ["wlc", "http"])
def test_whole_connections(make: Make, scheduler: str) -> None:
    rule = (f'rule = pattern ".*" use server {A}',) if scheduler == "http" else ()
    world = make(f"scheduler = {scheduler}", f"server = {A} proxy v2", *rule)
    client = world.client()
    if scheduler == "http":
        client.says(get())
    server = world.accepts(A)
    header, rest = told(server)
    assert header.source == ("192.0.2.1", 4711)
    assert rest == (get() if scheduler == "http" else b"")
    client.says(b"more")
    assert server.heard() == b"more"
    server.says(b"welcome")
    assert client.heard() == b"welcome"


def test_a_whole_connection_without_a_word_of_the_server(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} proxy v2")
    client = world.client()
    connection = world.connection
    server = world.accepts(A)
    client.ends()
    server.ends()
    world.settle()
    assert connection.ending == f"both directions ended; the server has sent nothing{HINT}"


def test_checks_are_local(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} proxy v2", "check = tcp", "check_interval = 1")
    while not (called := world.called()):
        world.passes(1)
    assert called == [A]
    header, rest = told(world.connects())
    assert header.is_local
    assert rest == b""


def test_an_address_that_a_stage_has_found(make: Make) -> None:
    """The server is told the client, not the proxy that has told it to the switch."""
    world = make()
    world.stages = [LineStage()]
    world.load(*LINES, "check_interval = 7")
    client = world.knocks("192.0.2.1")
    client.says(b"KNOCK 203.0.113.9 5000\n" + get())
    header, rest = told(world.accepts(A))
    assert header.source == ("203.0.113.9", 5000)
    assert rest == get()
    client.resets()
