"""Priorities and backup servers: which servers are used, and when those of a later priority join."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import frozen
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from memory import A, B, C, World, answer, get, log_into, worlds
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.dispatch.selection import NOBODY, QUEUE, SERVER, Decision, Selector
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.schedulers.wlc import WLC
from ktcpvs.system import log as levels
from ktcpvs.system.log import EventLog

D = "10.0.0.4:80"

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds("scheduler = phttp", before_close=lambda world: world.passes(400)) as make:
        yield make


def destination(world: World, address: str) -> Destination:
    return next(one for one in world.live.usable if str(one.address) == address)


def fails(world: World, *addresses: str) -> None:
    """The checks of these servers fail."""
    for address in addresses:
        world.live.health.mark(destination(world, address), False, "its checks fail")


def recovers(world: World, *addresses: str) -> None:
    for address in addresses:
        world.live.health.mark(destination(world, address), True, "its checks pass")


def asks(world: World, cookie: bytes = b"") -> tuple[str, bytes]:
    """Send a request on a new connection. Return the server and the response's head."""
    client = world.client()
    client.says(get("/a", *([cookie.decode()] if cookie else [])))
    (called,) = world.called()
    world.connects().says(answer())
    head = client.heard()
    client.ends()
    world.settle()
    world.live.server_connections.close()
    return called, head


def used(world: World) -> set[str]:
    return {asks(world)[0] for _ in range(12)}


# Which servers are used.


def test_a_backup_serves_only_while_no_other_server_can(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", f"server = {B}", f"server = {C} 1 backup", f"server = {D} 1 backup"
    )
    assert used(world) == {A, B}
    fails(world, A)
    assert used(world) == {B}
    fails(world, B)
    assert used(world) == {C, D}
    recovers(world, A)
    assert used(world) == {A}


def test_priorities_are_used_one_after_another(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A} 1 priority 2", f"server = {B}", f"server = {C} 1 priority 7",
        f"server = {D} 1 backup",
    )  # fmt: skip
    for address in (B, A, C, D):
        assert used(world) == {address}
        fails(world, address)
    client = world.client()
    client.says(get())
    assert client.heard().startswith(b"HTTP/1.1 503 ")
    assert not world.called()


def test_overflow_adds_a_priority_while_too_little_weight_is_left(make: Make) -> None:
    world = make(
        "scheduler = phttp", "overflow = 50", f"server = {A} 3", f"server = {B} 1", f"server = {C} 1 priority 1",
        f"server = {D} 1 backup",
    )  # fmt: skip
    assert used(world) == {A, B}
    fails(world, B)
    assert used(world) == {A}
    recovers(world, B)
    fails(world, A)  # a quarter of the weight is left
    assert used(world) == {B, C}
    fails(world, C)
    assert used(world) == {B}
    recovers(world, A)
    assert used(world) == {A, B}


def test_a_quiesced_server_does_not_hold_back_a_backup(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A} 0", f"server = {B} 1 backup")
    assert used(world) == {B}


def test_changes_are_logged(make: Make) -> None:
    lines: list[str] = []
    log = log_into(lines)
    log.level = levels.STATE  # the process that checks says the same at every level
    world = make("scheduler = phttp", f"server = {A} 2", f"server = {B} 1 backup", log=log)
    fails(world, A)
    assert lines[-1] == "service s: servers of backup are used: those of priority 0 have 0 of their weight 2"
    recovers(world, A)
    assert lines[-1] == "service s: servers of priority 0 are used; backup stands by"


# What one request needs.


def test_a_request_whose_servers_refuse_it_goes_to_the_backup(make: Make) -> None:
    world = make("scheduler = phttp", "eject = 0", f"server = {A}", f"server = {B}", f"server = {C} 1 backup")
    client = world.client()
    client.says(get())
    refused = []
    for _ in range(2):
        (called,) = world.called()
        refused.append(called)
        world.refuse(world.reactor.tcpClients[-1][2])
    assert set(refused) == {A, B}
    assert world.called() == [C]
    world.connects().says(answer())
    assert client.heard().startswith(b"HTTP/1.1 200 ")
    client.ends()
    assert used(world) == {A, B}


def test_the_request_whose_failure_ejects_the_last_server_goes_to_the_backup(make: Make) -> None:
    world = make("scheduler = phttp", "eject = 1", f"server = {A}", f"server = {B} 1 backup")
    client = world.client()
    client.says(get())
    world.refuses(A)
    assert destination(world, A).health.state == "ejected"
    assert world.called() == [B]
    world.connects().says(answer())
    assert client.heard().startswith(b"HTTP/1.1 200 ")
    client.ends()


def test_a_waiting_request_gets_a_server_that_is_up_again(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A} 1 maxconn 1", f"server = {B}")
    fails(world, B)
    first, second = world.client(), world.client()
    first.says(get())
    server = world.accepts(A)
    second.says(get())
    assert not world.called()
    recovers(world, B)
    assert world.called() == [B]
    world.connects().says(answer())
    assert second.heard().startswith(b"HTTP/1.1 200 ")
    server.says(answer())
    first.ends()
    second.ends()


def test_full_servers_overflow_into_the_backup(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} 1 maxconn 1", f"server = {B} 1 maxconn 1 backup")
    world.client()
    server = world.accepts(A)
    world.client()
    world.accepts(B)
    world.client()
    assert not world.called()
    assert [one.state for one in world.live.connections].count("queued") == 1
    server.closes()  # and so there is room at the first one
    world.settle()
    world.accepts(A)


def test_each_rule_has_the_backup_among_its_servers(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", f"server = {B}", f"server = {C} 1 backup",
        f"rule = path /a use server {A} server {C}", f'rule = pattern ".*" use server {B}',
    )  # fmt: skip
    assert used(world) == {A}
    fails(world, A)  # the service still has B, and this rule does not
    assert used(world) == {C}


def test_a_session_stays_at_its_backup(make: Make) -> None:
    world = make("scheduler = chttp", f"server = {A}", f"server = {B} 1 backup")
    fails(world, A)
    called, head = asks(world)
    assert called == B
    cookie = next(line for line in head.split(b"\r\n") if line.startswith(b"Set-Cookie: ")).split(b";")[0]
    cookie = cookie.replace(b"Set-Cookie", b"Cookie")
    recovers(world, A)
    assert asks(world, cookie)[0] == B
    assert asks(world)[0] == A
    fails(world, B)
    assert asks(world, cookie)[0] == A


def test_an_edit_changes_priorities(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}", f"server = {B} 1 backup")
    assert used(world) == {A}
    world.load("scheduler = phttp", f"server = {A} 1 backup", f"server = {B}")
    assert used(world) == {B}
    world.load("scheduler = phttp", f"server = {A}", f"server = {B}")
    assert used(world) == {A, B}
    assert not any(one.is_standby for one in world.live.usable)


# The procedure, against another implementation of the rules.


@frozen
class Server:
    priority: int
    weight: int
    state: str

    @property
    def is_available(self) -> bool:
        return self.state != "down" and self.weight > 0


def expected(servers: list[Server], overflow: int) -> tuple[str, set[int]]:
    """Return the outcome, and the places of the servers of which one must be chosen."""
    tiers = sorted({server.priority for server in servers})
    capacity = sum(server.weight for server in servers if server.priority == tiers[0])
    in_use: list[int] = []
    for tier in tiers:
        left = sum(server.weight for server in servers if server.priority in in_use and server.is_available)
        is_enough = left > 0 if tier == 100 else left > 0 and left * 100 >= capacity * overflow
        if is_enough:
            break
        in_use.append(tier)

    def with_room(some: list[int]) -> set[int]:
        return {
            place
            for place, server in enumerate(servers)
            if server.priority in some and server.is_available and server.state != "full"
        }

    for some in (in_use, *([tier] for tier in tiers if tier not in in_use)):
        if found := with_room(some):
            return SERVER, found
    full = {n for n, one in enumerate(servers) if one.is_available and one.priority in in_use}
    return (QUEUE, full) if full else (NOBODY, set())


@examples(500)
@given(
    st.lists(
        st.builds(
            Server,
            st.sampled_from((0, 0, 1, 5, 100)),
            st.integers(0, 3),
            st.sampled_from(("up", "up", "down", "full")),
        ),
        min_size=1,
        max_size=7,
    ),
    st.sampled_from((0, 1, 34, 50, 100)),
)
def test_the_procedure_agrees_with_the_rules(servers: list[Server], overflow: int) -> None:
    configured = tuple(
        RealServer(Inet(f"10.0.0.{n}", 80), one.weight, int(one.state == "full"), priority=one.priority)
        for n, one in enumerate(servers)
    )
    config = VirtualService("s", scheduler="wlc", servers=configured, overflow=overflow)
    known = [Destination(one.address, one.weight, one.maxconn) for one in configured]
    for destination, one in zip(known, servers, strict=True):
        destination.active = int(one.state == "full")
    scheduler: Any = WLC().bind(ServiceView.of(config, {one.address: one for one in known}), None)
    selector = Selector(Context(MemoryReactorClock(), EventLog()), config)
    selector.configure(config, scheduler, frozenset(known), None)
    selector.set_down({one for one, server in zip(known, servers, strict=True) if server.state == "down"})
    outcome, places = expected(servers, overflow)
    decision = selector.select(Request("192.0.2.1", tried=selector.excluded))
    assert isinstance(decision, Decision)
    assert decision.outcome == outcome
    if decision.choice is None:
        assert not places
    else:
        assert known.index(decision.choice.destination) in places
