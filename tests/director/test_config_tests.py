"""Tests in a configuration: every configured server counts as available, whatever its current state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory import World

from ktcpvs.errors import BrokenTest
from ktcpvs.model.address import parse_address
from ktcpvs.model.edits import AddRule, DeleteRule, Edit, EditServer, EditService

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
LINES = (
    "scheduler = phttp",
    f"server = {A} maxconn 1",
    f"server = {B} 65535",
    f"server = {C} 0",
    f'rule = pattern "^/a" use server {A}',
    f'rule = pattern "^/b" use server {B} server {C}',
    f'test "GET /a" -> {A}',
    f'test "GET /b" -> {B}',
    f'test "GET /b" "X: y" -> {C}',
    'test "GET /c" -> nobody',
)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(*LINES)
    yield world
    world.close()


def refusal(world: World, edit: Edit) -> Exception | None:
    """Return why `edit` is refused; None: it is in force."""
    failures: list[Exception] = []
    world.director.submit(edit).addErrback(lambda failure: failures.append(failure.value))
    return failures[0] if failures else None


def test_draining_every_server_breaks_no_test(world: World) -> None:
    for server in (A, B, C):
        assert refusal(world, EditServer("s", parse_address(server), 0)) is None
    assert [server.weight for server in world.director.table.service("s").servers] == [0, 0, 0]


def test_a_full_server_and_one_that_is_down_break_no_test(world: World) -> None:
    client = world.client()
    client.says(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    world.accepts(A)
    assert world.live.destinations[parse_address(A)].is_full
    world.director.checked_servers.set_health("s", B, False, "no answer")
    assert refusal(world, EditServer("s", parse_address(C), 0)) is None
    assert refusal(world, EditService("s", {"maxclients": 7})) is None
    client.resets()


@pytest.mark.parametrize("balance", ["wlc", "lc", "rr", "wrr", "p2c"])
def test_each_server_has_its_turn_whatever_its_weight(world: World, balance: str) -> None:
    assert refusal(world, EditService("s", {"balance": balance})) is None


def test_a_service_without_rules_may_use_every_server() -> None:
    lines = (
        "scheduler = http",
        f"server = {A}",
        f"server = {B} 0",
        f'test "GET /" -> {A}',
        f'test "GET /" "X: y" -> {B}',
    )
    world = World(*lines)
    broken = refusal(world, AddRule("s", ".*", parse_address(A)))
    assert isinstance(broken, BrokenTest)
    world.close()


def test_a_change_that_takes_a_server_out_of_its_rule_is_refused(world: World) -> None:
    before = world.director.table
    broken = refusal(world, DeleteRule("s", "^/b", parse_address(C)))
    assert isinstance(broken, BrokenTest)
    assert str(broken).startswith(f'service s: test "GET /b" "X: y" -> {C} fails: {B} serves: rule 2 ')
    assert str(broken).endswith(
        "; a test is changed in the configuration file (where there is none: 'tcpvsadm --save > FILE', edit FILE, "
        "'tcpvsadm -f FILE')"
    )
    assert world.director.table is before
