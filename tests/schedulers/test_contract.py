"""The contract of schedulers: every installed scheduler is found and tested."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ktcpvs.interfaces import (
    UNITS,
    USES_BALANCE,
    USES_COOKIE,
    USES_EACH_SERVER,
    USES_MATCH,
    USES_MAXCONN,
    USES_RULES,
    USES_WEIGHT,
    IExplains,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
)
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Choice, Considered, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.system.plugins import find_schedulers

FOUND = find_schedulers()
ALL = sorted(FOUND.known)


def test_ours_are_found_and_none_is_broken() -> None:
    by_load = {"wlc", "lc", "p2c", "sed", "nq", "ovf"}
    by_key = {"sh", "maglev", "chash"}
    assert by_load | by_key | {"peak-ewma", "rr", "wrr", "fo", "first", "http", "hhttp", "phttp", "chttp"} <= set(ALL)
    assert FOUND.broken == ()


def view(weights: list[int], scheduler: str = "wlc") -> ServiceView:
    """A service of servers with these weights; one rule that matches everything names them all."""
    servers = tuple(RealServer(Inet(f"10.0.0.{number}", 80), weight) for number, weight in enumerate(weights, 1))
    rules = (Rule(".*", tuple(server.address for server in servers)),) if servers else ()
    config = VirtualService("s", scheduler=scheduler, servers=servers, rules=rules)
    return ServiceView.of(
        config, {server.address: Destination(server.address, server.weight) for server in servers}, FOUND.known["wlc"]
    )


def request(*tried: Destination) -> Request:
    return Request("192.0.2.1", b"GET", b"/x", b"/x", b"Host: h\r\n", set(tried))


EXPLAIN = [name for name in ALL if IExplains.providedBy(FOUND.known[name].bind(view([1]), None))]
"""The schedulers that explain themselves."""


def test_those_with_rules_explain_themselves() -> None:
    assert {"http", "hhttp", "phttp", "chttp"} <= set(EXPLAIN)


@pytest.mark.parametrize("name", ALL)
def test_the_plugin_provides_its_interface(name: str) -> None:
    plugin = FOUND.known[name]
    verifyObject(ISchedulerFactory, plugin)
    assert plugin.name == name
    assert plugin.unit in UNITS
    assert type(plugin).__doc__, "the list of schedulers shows it"
    verifyObject(IScheduler, plugin.bind(view([1, 2]), None))
    verifyObject(IUsesOptions, plugin)
    known = {USES_RULES, USES_MATCH, USES_BALANCE, USES_WEIGHT, USES_COOKIE, USES_MAXCONN, USES_EACH_SERVER}
    assert plugin.uses <= known


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("weights", [[], [0], [0, 0]])
def test_without_usable_servers_none_is_chosen(name: str, weights: list[int]) -> None:
    assert FOUND.known[name].bind(view(weights), None).choose(request()) is None


LOADS = st.lists(st.integers(0, 9), min_size=6, max_size=6)
"""The number of connections of each server."""


@examples(150)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.tuples(LOADS, st.sets(st.integers(0, 5))), min_size=1, max_size=6),
)
def test_the_chosen_server_can_serve(weights: list[int], requests: list[tuple[list[int], set[int]]]) -> None:
    """With any weights, loads and failures, the chosen server is of the service, has a weight and was not tried. One is
    chosen if there is any, and the scheduler counts nothing itself.

    requests: the loads at each request, and the numbers of the servers that were tried.
    """
    for name in ALL:
        check_choices(name, weights, requests)


def check_choices(name: str, weights: list[int], requests: list[tuple[list[int], set[int]]]) -> None:
    service = view(weights)
    scheduler = FOUND.known[name].bind(service, None)
    for loads, failed in requests:
        for destination, load in zip(service.destinations, loads, strict=False):
            destination.active = load
        tried = {destination for number, destination in enumerate(service.destinations) if number in failed}
        before = [(d.active, d.total, d.weight) for d in service.destinations]
        choice = scheduler.choose(request(*tried))
        assert [(d.active, d.total, d.weight) for d in service.destinations] == before
        usable = [d for d in service.destinations if d.weight and d not in tried]
        if choice is None:
            assert not usable
        else:
            assert isinstance(choice, Choice)
            assert choice.destination in usable
            assert choice.reason


@pytest.mark.parametrize("name", sorted(set(ALL) - {"p2c", "peak-ewma"}))  # which draw at random
@examples(60)
@given(data=st.data())
def test_one_that_is_asked_for_an_explanation_disturbs_no_other(name: str, data: Any) -> None:
    """--explain binds a second scheduler and calls it: it makes the same choices as the running one would, whose own
    choices do not change."""
    weights = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    service = view(weights)
    runs, alone = FOUND.known[name].bind(service, None), FOUND.known[name].bind(view(weights), None)

    def chosen(scheduler: Any) -> str | None:
        choice = scheduler.choose(request())
        return None if choice is None else str(choice.destination.address)

    for _ in range(data.draw(st.integers(0, 4))):
        assert chosen(runs) == chosen(alone)
    other = FOUND.known[name].bind(evolve(service, trial=True), runs)
    explained = [chosen(other) for _ in range(3)]
    assert [chosen(runs) for _ in range(3)] == explained == [chosen(alone) for _ in range(3)]


@pytest.mark.parametrize("name", EXPLAIN)
@pytest.mark.parametrize("weights", [[], [0], [1, 0, 2]])
def test_an_explanation_names_the_chosen_server(name: str, weights: list[int]) -> None:
    service = view(weights)
    scheduler = FOUND.known[name].bind(service, None)
    verifyObject(IExplains, scheduler)
    considered = scheduler.explain(request())
    assert isinstance(considered, Considered)
    assert set(considered.destinations) <= set(service.destinations)
    choice = scheduler.choose(request())
    assert choice is None or choice.destination in considered.destinations


@pytest.mark.parametrize("name", ALL)
def test_weights_of_an_edit_hold_after_bind(name: str) -> None:
    service = view([1, 1])
    plugin = FOUND.known[name]
    scheduler = plugin.bind(service, None)
    service.destinations[0].weight = 0
    for _ in range(4):
        choice = plugin.bind(service, scheduler).choose(request())
        assert choice is not None
        assert choice.destination is service.destinations[1]
