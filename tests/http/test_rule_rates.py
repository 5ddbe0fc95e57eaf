"""Rates of rules: which requests count together, and what a limited one gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memory import A, B, Peer, World, answer, get, worlds

from ktcpvs.model.address import parse_address
from ktcpvs.model.edits import AddRule

Make = Callable[..., World]

LIMITED = 'rule = path /login rate {} use respond 200 "ok"'


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds("scheduler = phttp") as make:
        yield make


def comes(world: World, host: str = "192.0.2.1") -> Peer:
    peer = world.comes(host)
    assert peer is not None
    return peer


def status(peer: Peer, *lines: str, path: str = "/login") -> int:
    peer.says(get(path, *lines))
    return int(peer.heard().split(b" ")[1])


@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
def test_a_client_may_come_as_often_as_the_rate_says(make: Make, scheduler: str) -> None:
    world = make(f"scheduler = {scheduler}", f"server = {A}", LIMITED.format("2/m"), f"rule = path /a use server {A}")
    client, other = comes(world), comes(world, "192.0.2.2")
    assert [status(client) for _ in range(3)] == [200, 200, 429]
    client.says(get("/login"))
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 30\r\n" in heard
    assert status(other) == 200
    assert status(comes(world)) == 429, "another connection of the same client"
    client.says(get("/a"))
    world.accepts(A).says(answer())
    assert client.heard() == answer() or scheduler == "chttp"
    world.passes(31)
    client = comes(world)
    assert [status(client) for _ in range(2)] == [200, 429]


def test_each_rule_counts_for_itself_and_each_service(make: Make) -> None:
    world = make("scheduler = phttp", LIMITED.format("1/m"), "rule = path /b rate 1/m use respond 200")
    client = comes(world)
    assert [status(client), status(client), status(client, path="/b")] == [200, 429, 200]


def test_a_burst(make: Make) -> None:
    world = make("scheduler = phttp", LIMITED.format("1/m burst 3"))
    client = comes(world)
    assert [status(client) for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("key", "one", "other", "without"),
    [
        ("header X-Key", "x-key: a", "X-Key: b", "X_Key: a"),
        ("cookie sid", "Cookie: x=1; sid=a", "Cookie: sid=b", "Cookie: SID=a"),
    ],
)
def test_a_key_is_a_header_field_or_a_cookie(make: Make, key: str, one: str, other: str, without: str) -> None:
    world = make("scheduler = phttp", LIMITED.format(f"1/m {key}"))
    client = comes(world)
    assert [status(client, one), status(comes(world, "192.0.2.2"), one), status(client, other)] == [200, 429, 200]
    assert [status(client, without), status(client), status(comes(world, "192.0.2.2"))] == [200, 429, 200]


def test_an_ipv6_client_counts_by_its_network(make: Make) -> None:
    world = make("scheduler = phttp", LIMITED.format("1/m"))
    assert status(comes(world, "2001:db8::1")) == 200
    assert status(comes(world, "2001:db8::2")) == 429
    assert status(comes(world, "2001:db8:0:1::1")) == 200


def test_a_request_that_is_tried_again_counts_once(make: Make) -> None:
    rule = f'rule = pattern ".*" rate 2/m use server {A} server {B}'
    world = make("scheduler = phttp", f"server = {A}", f"server = {B}", rule)
    client = comes(world)
    client.says(get())
    world.called()
    world.refuse(world.reactor.tcpClients[-1][2])
    world.called()
    server = world.connects()
    server.says(answer())
    assert client.heard() == answer()
    client.says(get())
    server = world.connects() if world.called() else server
    server.says(answer())
    assert client.heard() == answer()
    client.says(get())
    assert client.heard().startswith(b"HTTP/1.1 429 ")
    assert [destination.total for destination in world.live.destinations.values()].count(0) == 0
    assert sum(destination.active for destination in world.live.destinations.values()) == 0


def test_a_request_that_waits_for_room_counts_once(make: Make) -> None:
    rule = f'rule = pattern ".*" rate 2/m use server {A}'
    world = make("scheduler = phttp", f"server = {A} maxconn 1", rule)
    one, two = comes(world), comes(world)
    one.says(get())
    server = world.accepts(A)
    two.says(get())
    server.says(answer())
    assert one.heard() == answer()
    server.says(answer(b"two"))
    assert two.heard() == answer(b"two")
    one.says(get())
    assert one.heard().startswith(b"HTTP/1.1 429 ")


def test_the_first_request_of_a_relayed_connection_counts(make: Make) -> None:
    world = make("scheduler = http", f"server = {A}", f'rule = pattern ".*" rate 1/m use server {A}')
    first, second = comes(world), comes(world)
    first.says(get())
    world.accepts(A)
    second.says(get())
    assert second.heard().startswith(b"HTTP/1.1 429 ")
    assert world.called() == []


def test_limited_requests_are_counted_as_such(make: Make) -> None:
    world = make("scheduler = phttp", LIMITED.format("1/m"))
    client = comes(world)
    assert [status(client), status(client)] == [200, 429]
    assert world.live.traffic.admission.limited == 1
    assert world.live.traffic.counters.refused == 0


@pytest.mark.parametrize("scheduler", ["tcp", "sni"])
def test_a_scheduler_that_reads_no_requests_has_no_rates(make: Make, scheduler: str) -> None:
    world = make(f"scheduler = {scheduler}", f"server = {A}")
    why = world.refusal(AddRule("s", "from ::/0", parse_address(A), modifiers="rate 1/m"))
    assert f"rate 1/m: scheduler {scheduler} reads no requests" in why


def test_an_edit_changes_the_rate(make: Make) -> None:
    world = make("scheduler = phttp", LIMITED.format("1/h"))
    client = comes(world)
    assert [status(client), status(client)] == [200, 429]
    world.load("scheduler = phttp", LIMITED.format("5/s"))
    assert status(client) == 429, "the bucket is still empty"
    world.passes(1)
    assert status(client) == 200, "it fills with the new rate"
