"""The parts of limits that nodes of a cluster have, for services with `share = cluster`."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.language.parser import parse
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.service import VirtualService
from ktcpvs.model.sharing import divided, part
from ktcpvs.model.table import Table

TEXT = """
Virtual web {
    listen = 0.0.0.0:80 on a, b, c
    share = cluster
    scheduler = phttp
    maxclients = 100
    client_connections = 10
    client_rate = 100/m
    client_burst = 5
    server = 10.0.0.1:80 1 maxconn 7 max_pending 9
    server = 10.0.0.2:80
    rule = path /login rate 5/m burst 4 header X use server 10.0.0.1:80
    rule = pattern ".*" use server 10.0.0.2:80
}
"""
NODES = [NodeIdentity(name, frozenset(labels)) for name, labels in (("a", ""), ("b", ""), ("c", "e"), ("d", "e"))]


def service(text: str = TEXT) -> VirtualService:
    return parse(text).services["web"]


def runs(one: VirtualService, live: list[NodeIdentity]) -> VirtualService:
    return divided(Table.of([one]), Table.of([one]), live).service("web")


def test_each_node_has_its_part_of_each_limit_rounded_up() -> None:
    found = runs(service(), NODES[:3])
    assert (found.maxclients, found.client_connections, found.client_rate, found.client_burst) == (34, 4, "34/m", 2)
    assert [(server.maxconn, server.max_pending) for server in found.servers] == [(3, 9), (0, 0)]
    rate = found.rules[0].modifiers.rate
    assert rate is not None
    assert str(rate) == "2/m burst 2 header X"
    assert found.rules[1] == service().rules[1]


@pytest.mark.parametrize("live", [[], NODES[:1], NODES[3:], [NODES[0], NODES[3]]])
def test_a_node_that_is_alone_has_the_whole_limits(live: list[NodeIdentity]) -> None:
    """A node that the service is not for takes no part of them."""
    table = Table.of([service()])
    assert divided(table, table, live) is table


def test_nodes_are_counted_by_the_option_on_too() -> None:
    one = service(TEXT.replace(" on a, b, c", "").replace("share", "on = label:e\n    share"))
    assert runs(one, NODES).maxclients == 50
    assert runs(one, NODES[:3]).maxclients == 100


def test_limits_are_each_nodes_own_by_default() -> None:
    one = service(TEXT.replace("share = cluster", ""))
    assert runs(one, NODES) is one
    assert one.share == "node"


def test_what_is_no_limit_stays_none() -> None:
    one = VirtualService("web", share="cluster")
    assert runs(one, NODES) == one
    assert runs(evolve(one, client_rate="1/h", maxclients=1), NODES) == evolve(one, client_rate="1/h", maxclients=1)


@given(st.integers(1, 10_000_000), st.integers(1, 100))
def test_parts_are_enough_together_and_exceed_the_limit_by_less_than_the_nodes(limit: int, count: int) -> None:
    each = part(limit, count)
    assert each >= 1
    assert limit <= each * count < limit + count
