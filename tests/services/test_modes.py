"""Draining and maintenance: what a server still gets, and what the views show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, B, C, World, answer, get, worlds

from ktcpvs.inspect.views import Views
from ktcpvs.model.address import Inet, parse_address
from ktcpvs.model.destination import Destination
from ktcpvs.model.edits import Drain, Edit, Maintenance, Ready

Make = Callable[..., World]
SESSIONS = ("scheduler = chttp", f"server = {A} 3", f"server = {B}")


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(before_close=lambda world: world.passes(400)) as make:
        yield make


def submit(world: World, edit: Edit) -> list[str]:
    """Carry an edit out, and return its warnings."""
    found: list[Any] = []
    world.director.submit(edit).addBoth(found.append)
    (warnings,) = found
    return list(warnings)


def asks(world: World, cookie: bytes = b"") -> tuple[str, bytes]:
    """Send a request on a new connection. Return the server, and the cookie that the response sets, if it does."""
    client = world.client()
    client.says(get("/", *([f"Cookie: {cookie.decode()}"] if cookie else [])))
    (called,) = world.called()
    world.connects().says(answer())
    head = client.heard()
    client.ends()
    world.settle()
    world.live.server_connections.close()
    field = next((line for line in head.split(b"\r\n") if line.startswith(b"Set-Cookie: ")), b"")
    return called, field.removeprefix(b"Set-Cookie: ").split(b";")[0]


def session_at(world: World, address: str) -> bytes:
    """Return the cookie of a client whose session is at that server."""
    for _ in range(20):
        called, cookie = asks(world)
        if called == address:
            return cookie
    raise AssertionError(f"no client got {address}")


def states(world: World) -> dict[str, str]:
    (service,) = Views(world.director).view("stats", None)["services"]
    return {server["address"]: server["health"]["state"] for server in service["servers"]}


def destination(world: World, address: str) -> Destination:
    return next(one for one in world.live.usable if str(one.address) == address)


def test_a_drained_server_keeps_its_sessions_and_its_weight(make: Make) -> None:
    world = make(*SESSIONS)
    cookie = session_at(world, A)
    assert submit(world, Drain(parse_address(A))) == []
    assert {asks(world)[0] for _ in range(6)} == {B}
    assert asks(world, cookie)[0] == A
    assert states(world) == {A: "draining", B: "up"}
    submit(world, Ready(parse_address(A)))
    assert destination(world, A).weight == 3
    assert states(world) == {A: "up", B: "up"}
    assert A in {asks(world)[0] for _ in range(6)}


def test_a_server_in_maintenance_gets_nothing(make: Make) -> None:
    world = make(*SESSIONS)
    cookie = session_at(world, A)
    client = world.client()
    client.says(get("/", f"Cookie: {cookie.decode()}"))
    server = world.accepts(A)
    submit(world, Maintenance(parse_address(A)))
    assert states(world) == {A: "maintenance", B: "up"}
    assert asks(world, cookie)[0] == B
    server.says(answer(b"done"))  # a request that it has is finished
    assert client.heard().endswith(b"done")
    assert not server.is_open, "no idle connection to it is kept"
    client.ends()
    submit(world, Ready(parse_address(A)))
    assert asks(world, cookie)[0] == A


def test_an_ejected_server_in_maintenance_is_no_last_resort(make: Make) -> None:
    world = make("scheduler = phttp", "eject = 1", "eject_share = 100", f"server = {A}", f"server = {B}")
    world.live.health.failed(destination(world, A), "it broke off")
    submit(world, Maintenance(parse_address(A)))
    submit(world, Maintenance(parse_address(B)))
    client = world.client()
    client.says(get())
    assert client.heard().startswith(b"HTTP/1.1 503 ")
    assert not world.called()


def test_a_server_in_maintenance_is_not_checked(make: Make) -> None:
    world = make("scheduler = wlc", "check = tcp", "check_interval = 1", f"server = {A}", f"server = {B}")
    world.passes(4)
    assert set(world.called()) == {A, B}
    submit(world, Maintenance(parse_address(A)))
    world.refuses_all()
    world.passes(4)
    assert set(world.called()) == {B}
    submit(world, Ready(parse_address(A)))
    world.passes(4)
    assert A in world.called()
    for *_, factory, _timeout, _bind in world.reactor.tcpClients:
        world.refuse(factory)


def test_a_client_that_waits_for_its_server_goes_elsewhere(make: Make) -> None:
    world = make("scheduler = chttp", f"server = {A} 1 maxconn 1", f"server = {B}")
    cookie = session_at(world, A)
    lease = destination(world, A).lease()
    client = world.client()
    client.says(get("/", f"Cookie: {cookie.decode()}"))
    assert not world.called()
    submit(world, Maintenance(parse_address(A)))
    world.accepts(B).says(answer())
    assert client.heard().startswith(b"HTTP/1.1 200 ")
    lease.end()


def test_slow_start_follows_maintenance(make: Make) -> None:
    lines = ("scheduler = wlc", "slow_start = 100", f"server = {A} 50", f"server = {B} 50")
    world = make(*lines)
    submit(world, Maintenance(parse_address(A)))
    submit(world, Ready(parse_address(A)))
    assert destination(world, A).weight < 5
    assert destination(world, B).weight == 50
    world.passes(102)
    assert destination(world, A).weight == 50


def test_slow_start_follows_a_drain(make: Make) -> None:
    world = make("scheduler = wlc", "slow_start = 100", f"server = {A} 50", f"server = {B} 50")
    submit(world, Drain(parse_address(A)))
    assert destination(world, A).weight == 0
    submit(world, Ready(parse_address(A)))
    assert destination(world, A).weight < 5
    assert destination(world, B).weight == 50
    world.passes(102)
    assert destination(world, A).weight == 50


def test_another_weight_begins_no_slow_start(make: Make) -> None:
    lines = ("scheduler = wlc", "slow_start = 100", f"server = {A} 50")
    world = make(*lines, f"server = {B} 50")
    world.load(*lines, f"server = {B} 40")
    assert (destination(world, A).weight, destination(world, B).weight) == (50, 40)


def test_a_warning_when_no_server_is_left(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A}", f"server = {B}", f"server = {C}")
    submit(world, Maintenance(parse_address(A)))
    submit(world, Drain(parse_address(B)))
    assert submit(world, Drain(Inet("10.0.0.3", None))) == [
        "service s: no server of it is ready: new clients are refused; to use one again: --ready"
    ]
