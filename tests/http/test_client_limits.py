"""Limits for each client address, as transcripts with a simulated clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from memory import Peer, World, worlds

from ktcpvs.dispatch.admission import RETRY_AFTER_HEAD
from ktcpvs.model.clients import NOWHERE, WAYS, ClientTable

A = "10.0.0.1:80"
SERVER = (f"server = {A}", f'rule = pattern ".*" use server {A}')
Make = Callable[..., World]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them, nor for any client address."""
    made: list[World] = []
    with worlds() as make:

        def new(scheduler: str, *lines: str, **others: object) -> World:
            made.append(make(f"scheduler = {scheduler}", *SERVER, *lines, **others))
            return made[-1]

        yield new
    for world in made:
        assert world.context.counters.client_table(b"").is_idle


def comes(world: World, host: str = "192.0.2.1") -> Peer:
    peer = world.comes(host)
    assert peer is not None
    return peer


def refused(answer: bytes, why: bytes) -> int:
    """Check a response 429, and return its Retry-After."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n"), answer
    assert why in body
    (line,) = [line for line in head.split(b"\r\n") if line.startswith(b"Retry-After: ")]
    return int(line.split()[1])


def test_connections_at_once(make: Make) -> None:
    world = make("wlc", "client_connections = 2")
    first, second = comes(world), comes(world)
    assert world.comes("192.0.2.1") is None
    comes(world, "192.0.2.2")
    traffic = world.live.traffic
    assert (traffic.admission.limited, traffic.counters.total, len(world.live.connections)) == (1, 3, 3)
    first.resets()
    third = comes(world)
    assert world.comes("192.0.2.1") is None
    world.load("scheduler = wlc", *SERVER, "client_connections = 3")
    comes(world)
    assert world.comes("192.0.2.1") is None
    world.load("scheduler = wlc", *SERVER)
    for _ in range(5):
        comes(world)
    world.load("scheduler = wlc", *SERVER, "client_connections = 3")
    assert world.comes("192.0.2.1") is None  # clients from before the limit do not count, three do
    second.resets()
    third.resets()
    comes(world)


def test_ipv6_clients_count_by_their_network(make: Make) -> None:
    world = make("wlc", "client_connections = 1")
    comes(world, "2001:db8:0:1::1")
    assert world.comes("2001:db8:0:1:ffff::2") is None
    comes(world, "2001:db8:0:2::1")
    comes(world, "fe80::1%lo")
    assert world.comes("fe80::2%lo") is None
    world.load("scheduler = wlc", *SERVER, "client_connections = 1", "client_ipv6 = 128")
    comes(world, "2001:db8:0:1::1")
    comes(world, "2001:db8:0:1::2")
    assert world.comes("2001:db8:0:1::2") is None
    world.load("scheduler = wlc", *SERVER, "client_connections = 1", "client_ipv6 = 33")
    comes(world, "2001:db8:7fff::1")
    assert world.comes("2001:db8::1") is None
    comes(world, "2001:db8:8000::1")


def test_a_client_whose_place_was_given_away_gets_another(make: Make) -> None:
    world = make("wlc", "client_connections = 1")
    comes(world).resets()
    key, table = world.context.key, world.context.counters.client_table(b"")
    probe = ClientTable(memoryview(bytearray(ClientTable.size(1))), 1, 0, key)
    client = b"s\0\xc0\0\2\1"
    first = table.find(client, 0.0, make=False)
    assert first != NOWHERE
    others = (b"%d" % number for number in itertools.count())
    crowd = (name for name in others if probe.find(name, 0.0) // WAYS == first // WAYS)
    for name in itertools.islice(crowd, WAYS):
        table.find(name, 1.0)
    assert table.find(client, 1.0, make=False) == NOWHERE
    comes(world)
    place = table.find(client, 1.0, make=False)
    assert (table.connections(place), sum(table._connections)) == (1, 1)


def test_where_no_request_is_read_a_connection_counts_as_one(make: Make) -> None:
    world = make("wlc", "client_rate = 1/m", "client_burst = 2")
    comes(world)
    comes(world).resets()
    assert world.comes("192.0.2.1") is None
    world.passes(59)
    assert world.comes("192.0.2.1") is None
    world.passes(1)
    comes(world)
    assert world.comes("192.0.2.1") is None


def test_a_client_that_asks_too_often_is_answered_429_and_may_go_on(make: Make) -> None:
    world = make("phttp", "client_rate = 30/m", "client_burst = 2")
    client, other = comes(world), comes(world)
    client.says(GET)
    server = world.accepts(A)
    server.says(OK)
    assert client.heard() == OK
    other.says(GET)
    assert server.heard() == GET * 2
    server.says(OK)
    assert other.heard() == OK
    for peer in (other, client):  # each in turn, in the same form as before: cached, or not
        peer.says(GET)
        assert refused(peer.heard(), b"too many requests from this client address") == 2
    client.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1")
    assert refused(client.heard(), b"") == 2
    assert (
        world.live.traffic.admission.limited,
        world.live.traffic.counters.refused,
        server.heard(),
        world.called(),
    ) == (3, 0, b"", [])
    client.says(GET + GET)
    assert client.heard().count(b"\r\nRetry-After: 2\r\n") == 2
    world.passes(2)
    client.says(GET)
    assert server.heard() == GET
    server.says(OK)
    assert client.heard() == OK
    world.load("scheduler = phttp", *SERVER)
    client.says(GET)
    assert server.heard() == GET
    server.says(OK)


def test_a_client_that_asks_too_often_without_waiting_for_its_body(make: Make) -> None:
    world = make("phttp", "client_rate = 1/h")
    client = comes(world)
    client.says(GET)
    world.accepts(A).says(OK)
    client.heard()
    client.says(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n1")
    answer = client.heard()
    assert refused(answer, b"") == 3600
    assert b"\r\nConnection: close\r\n" in answer


def test_the_first_request_alone_counts_where_it_alone_is_read(make: Make) -> None:
    world = make("http", "client_rate = 1/h")
    first, second = comes(world), comes(world)
    first.says(GET)
    server = world.accepts(A)
    second.says(GET)
    assert refused(second.heard(), b"too many requests from this client address") == 3600
    assert second.line.ended
    first.says(GET)
    assert server.heard() == GET * 2


@pytest.mark.parametrize("scheduler", ["http", "phttp"])
def test_heads_that_are_held_count_together(make: Make, scheduler: str) -> None:
    world = make(scheduler, "client_head = 100")
    begun = b"GET /" + b"x" * 55
    first, second, other = comes(world), comes(world), comes(world, "192.0.2.2")
    for peer in (first, other):
        peer.says(begun)
        assert not peer.heard()
    second.says(begun)
    assert refused(second.heard(), b"too many bytes of incomplete request heads") == RETRY_AFTER_HEAD
    assert second.line.ended
    second.ends()
    world.settle()
    first.says(b" HTTP/1.1\r\nHost: h")
    assert not first.heard()
    third = comes(world)
    third.says(b"GET / HTTP/1")
    assert not third.heard()
    first.says(b"\r\n\r\n")  # a complete head is no longer held
    assert world.called() == [A]
    third.says(b".1\r\nX: " + b"x" * 80)
    assert not third.heard()
    third.says(b"x" * 10)
    assert refused(third.heard(), b"too many bytes of incomplete request heads") == RETRY_AFTER_HEAD


@pytest.mark.parametrize("scheduler", ["http", "phttp"])
def test_bytes_of_heads_in_a_second(make: Make, scheduler: str) -> None:
    world = make(scheduler, "client_head_rate = 100")
    long = GET[:-2] + b"X: " + b"x" * (250 - len(GET) - 5) + b"\r\n\r\n"
    assert len(long) == 250
    comes(world).says(long)
    assert world.called() == [A]
    for seconds in (2, 1):  # 250 bytes count for 2.5 seconds, of which one second is the burst
        early = comes(world)
        early.says(GET)
        assert refused(early.heard(), b"") == seconds
        world.passes(1)
    comes(world).says(GET)
    assert world.called() == [A]


def test_an_explanation_says_what_counts_for_the_client(make: Make) -> None:
    world = make("wlc", "client_connections = 1", "client_rate = 6/m", "client_burst = 1")
    admission = world.live.traffic.admission
    assert admission.describe(b"\xc0\0\2\1") == ["client has 0 of 1 connections", "client within its rate"]
    peer = comes(world)
    assert admission.describe(b"\xc0\0\2\1") == [
        "client has 1 of 1 connections: the next one is reset",
        "client exceeds its rate: connections are reset for 10.0 more seconds",
    ]
    peer.resets()
    world.passes(10)
    assert admission.describe(b"\xc0\0\2\1") == ["client has 0 of 1 connections", "client within its rate"]
