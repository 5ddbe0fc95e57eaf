"""Host names that become several servers: the meaning of a table after expansion."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadAddress
from ktcpvs.model.address import Inet, Unix, parse_address
from ktcpvs.model.expansion import check_resolution, expanded, names_of, parse_nameserver
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table

NAMES = ("a.example", "b.example", "c.example")
HOSTS = tuple(f"10.0.0.{number}" for number in range(1, 6))


def service(*servers: RealServer, rules: tuple[Rule, ...] = ()) -> VirtualService:
    return VirtualService("web", servers=servers, rules=rules)


def runs(one: VirtualService, resolution: dict[str, tuple[str, ...]]) -> VirtualService:
    return expanded(Table.of([one]), resolution).service("web")


def server(text: str, weight: int = 1) -> RealServer:
    return RealServer(parse_address(text), weight)


def test_a_name_is_a_server_for_each_of_its_addresses_in_its_place() -> None:
    one = service(server("10.9.9.9:80"), server("a.example:80", 5), server("unix:/x"))
    found = runs(one, {"a.example": ("10.0.0.1", "fe80::1")}).servers
    assert [str(each.address) for each in found] == ["10.9.9.9:80", "10.0.0.1:80", "[fe80::1]:80", "unix:/x"]
    assert [(each.weight, each.name) for each in found][1:3] == [(5, "a.example:80")] * 2
    assert found[0].name is None


def test_an_address_that_is_configured_itself_is_that_server() -> None:
    one = service(server("a.example:80", 5), server("10.0.0.1:80", 2), server("10.0.0.1:81"))
    found = runs(one, {"a.example": ("10.0.0.1", "10.0.0.2")}).servers
    assert [(str(each.address), each.weight) for each in found] == [
        ("10.0.0.2:80", 5), ("10.0.0.1:80", 2), ("10.0.0.1:81", 1),
    ]  # fmt: skip


def test_rules_have_the_servers_of_their_names_each_once() -> None:
    a, b = Inet("a.example", 80), Inet("b.example", 80)
    one = service(RealServer(a), RealServer(b), rules=(Rule("/x", (a, b), 0), Rule("/y", (b,))))
    found = runs(one, {"a.example": ("10.0.0.1",), "b.example": ("10.0.0.1", "10.0.0.2")})
    assert [[str(each) for each in rule.servers] for rule in found.rules] == [
        ["10.0.0.1:80", "10.0.0.2:80"],
        ["10.0.0.1:80", "10.0.0.2:80"],
    ]
    assert found.rules[0].match == 0


def test_what_has_no_known_name_stays_the_same_object() -> None:
    table = Table.of([service(server("a.example:80"), server("10.0.0.1:80"))])
    assert expanded(table, {}) is table
    assert expanded(table, {"b.example": ("10.0.0.1",)}).services["web"] is table.services["web"]


def test_names_are_those_of_servers_and_localhost_is_none() -> None:
    one = service(
        *map(server, ("a.example:80", "a.example:81", "10.0.0.1:80", "unix:/x", "localhost:80", "b.localhost:1"))
    )
    assert names_of([one]) == {"a.example"}


SRV = "srv:_http._tcp.api.example"
TARGETS = ("10.0.0.1:8001 1 20 a.example", "10.0.0.2:8002 1 10 b.example", "10.0.0.3:8003 7 10 c.example")


def test_srv_records_are_a_server_for_each_target_with_its_port_weight_and_priority() -> None:
    one = service(RealServer(parse_address(SRV), 3, maxconn=5), server("10.9.9.9:80"))
    found = runs(one, {SRV: TARGETS}).servers
    assert [(str(each.address), each.weight, each.priority, each.maxconn, each.name) for each in found] == [
        ("10.0.0.1:8001", 6, 0, 5, SRV),
        ("10.0.0.2:8002", 3, 0, 5, SRV),
        ("10.0.0.3:8003", 3, 1, 5, SRV),
        ("10.9.9.9:80", 1, 0, 0, None),
    ]


def test_srv_records_that_are_not_known_yet_stand_in_maintenance() -> None:
    one = service(server(SRV), server("10.0.0.1:80"), rules=(Rule("/x", (parse_address(SRV),)),))
    for resolution in ({}, {"a.example": ("10.0.0.1",)}):
        found = runs(one, resolution)
        assert [(str(each.address), each.mode) for each in found.servers] == [
            (SRV, "maintenance"), ("10.0.0.1:80", "ready"),
        ]  # fmt: skip
        assert found.rules == one.rules


def test_rules_have_the_targets_of_their_srv_records_with_weights_in_proportion() -> None:
    address, other = parse_address(SRV), parse_address("10.0.0.1:8001")
    one = service(
        server(SRV), server("10.0.0.9:80"), rules=(Rule("/x", (address,), weights=(50,)), Rule("/y", (address,)))
    )
    weighed, own = runs(one, {SRV: TARGETS}).rules
    assert [(str(each), weight) for each, weight in weighed.weighed_servers] == [
        ("10.0.0.1:8001", 100), ("10.0.0.2:8002", 50), ("10.0.0.3:8003", 50),
    ]  # fmt: skip
    assert own.servers == weighed.servers
    assert own.weights == ()
    both = service(server(SRV), RealServer(other, 9), rules=(Rule("/x", (address, other), weights=(50, 7)),))
    found = runs(both, {SRV: TARGETS})
    assert {str(each.address): each.weight for each in found.servers}["10.0.0.1:8001"] == 9
    assert dict(found.rules[0].weighed_servers)[other] == 7


def test_srv_names_are_looked_up_even_those_of_localhost() -> None:
    assert names_of([service(server(SRV), server("srv:web.localhost"))]) == {SRV, "srv:web.localhost"}


@pytest.mark.parametrize("resolution", [{SRV: ["10.0.0.1"]}, {"a.example": ["x"]}, {"a.example": ["10.0.0.1:80 0 1"]}])
def test_a_resolution_of_another_process_is_checked(resolution: Any) -> None:
    with pytest.raises((BadAddress, ValueError)):
        check_resolution(resolution)


def test_a_resolution_of_another_process_reads_back() -> None:
    known = {SRV: TARGETS, "a.example": ("10.0.0.1", "::1")}
    assert check_resolution(known) == known


hosts = st.sampled_from((*NAMES, *HOSTS))
addresses = st.one_of(st.builds(Inet, hosts, st.sampled_from((80, 81))), st.just(Unix("/x")))
resolutions = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.sampled_from(HOSTS), unique=True, min_size=1).map(tuple)
)


@st.composite
def services(draw: st.DrawFn) -> VirtualService:
    known = draw(st.lists(addresses, unique=True, min_size=1))
    some = st.lists(st.sampled_from(known), unique=True, min_size=1).map(tuple)
    rules = draw(
        st.lists(st.builds(Rule, st.sampled_from(("/a", "/b", ".*")), some), unique_by=lambda rule: rule.pattern)
    )
    weights = st.integers(0, 9)
    return service(*(RealServer(address, draw(weights)) for address in known), rules=tuple(rules))


@given(services(), resolutions)
def test_every_rule_and_server_means_what_it_meant(one: VirtualService, resolution: dict[str, tuple[str, ...]]) -> None:
    found = runs(one, resolution)

    def meant(address: object) -> set[str]:
        if not isinstance(address, Inet) or address.host not in resolution:
            return {str(address)}
        return {f"{host}:{address.port}" for host in resolution[address.host]}

    assert {str(each.address) for each in found.servers} == set().union(*(meant(each.address) for each in one.servers))
    for rule, before in zip(found.rules, one.rules, strict=True):
        assert {str(each) for each in rule.servers} == set().union(*map(meant, before.servers))
    for each in found.servers:
        origin = one.server(parse_address(each.name or str(each.address)))
        assert (each.weight, each.maxconn) == (origin.weight, origin.maxconn)
    assert runs(found, resolution) == found


@pytest.mark.parametrize(
    ("text", "meant"),
    [("127.0.0.1", ("127.0.0.1", 53)), ("[::1]:5353", ("::1", 5353)), ("10.0.0.1:54", ("10.0.0.1", 54))],
)
def test_a_name_server(text: str, meant: tuple[str, int]) -> None:
    assert parse_nameserver(text) == meant


@pytest.mark.parametrize("text", ["", "dns.example", "unix:/x", "1.2.3.4:0", "::1"])
def test_what_is_no_name_server(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_nameserver(text)
