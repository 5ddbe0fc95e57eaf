"""sed and nq: the shortest expected delay, and idle servers first."""

from __future__ import annotations

from collections import Counter

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.least import LeastLoad, OnlyOne, OrderedLoad
from ktcpvs.schedulers.loads import Load, delay_unless_idle, expected_delay
from ktcpvs.schedulers.sed import NQ, SED
from ktcpvs.schedulers.wlc import WLC


def servers(*weights: int) -> list[Destination]:
    return [Destination(Inet(f"10.0.0.{number}", 80), weight) for number, weight in enumerate(weights, 1)]


def bound(plugin: SED | NQ | WLC, destinations: list[Destination]) -> LeastLoad | OrderedLoad | OnlyOne:
    """Bind the plugin, and register its watchers as the switch does."""
    scheduler = plugin.bind(ServiceView(VirtualService("s"), tuple(destinations)), None)
    if isinstance(scheduler, OrderedLoad):
        for destination, call in scheduler.watched():
            destination.watchers += (call,)
    return scheduler  # type: ignore[return-value]


def in_order(load: Load, destinations: list[Destination]) -> OrderedLoad:
    """A scheduler for many servers, whose watchers are registered."""
    scheduler = OrderedLoad(ServiceView(VirtualService("s"), tuple(destinations)), load, "least")
    for destination, call in scheduler.watched():
        destination.watchers += (call,)
    return scheduler


def chosen(scheduler: LeastLoad | OrderedLoad | OnlyOne, *tried: Destination) -> Destination:
    choice = scheduler.choose(Request(tried=set(tried)))
    assert choice is not None
    return choice.destination


def test_sed_prefers_the_faster_of_idle_servers() -> None:
    destinations = servers(1, 5)
    scheduler = bound(SED(), destinations)
    order = []
    for _ in range(6):
        order.append(destinations.index(chosen(scheduler)))
        destinations[order[-1]].lease()
    assert order[:4] == [1, 1, 1, 1]  # as the fifth connection of weight 5, each waits less than the first of weight 1
    assert sorted(order[4:]) == [0, 1]


def test_nq_leaves_no_server_idle() -> None:
    destinations = servers(1, 5, 2)
    scheduler = bound(NQ(), destinations)
    order = []
    for _ in range(4):
        order.append(destinations.index(chosen(scheduler)))
        destinations[order[-1]].lease()
    assert order == [1, 2, 0, 1]


@pytest.mark.parametrize("count", [2, 40])
def test_ties_rotate(count: int) -> None:
    destinations = servers(*[3] * count)
    for plugin in (SED(), NQ()):
        scheduler = bound(plugin, destinations)
        counted = Counter(chosen(scheduler) for _ in range(5 * count))
        assert set(counted.values()) == {5}


LOADS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=20)
"""(weight, connections) of each server."""


@examples(150)
@given(LOADS, st.sets(st.integers(0, 19)))
def test_no_usable_server_has_a_shorter_expected_delay(loads: list[tuple[int, int]], failed: set[int]) -> None:
    destinations = servers(*(weight for weight, _ in loads))
    for destination, (_, active) in zip(destinations, loads, strict=True):
        destination.active = active
    tried = {destination for number, destination in enumerate(destinations) if number in failed}
    usable = [one for one in destinations if one.weight and one not in tried]
    for plugin in (SED(), NQ()):
        choice = bound(plugin, destinations).choose(Request(tried=tried))
        if choice is None:
            assert not usable
            continue
        assert choice.destination in usable
        idle = [one for one in usable if not one.active]
        if isinstance(plugin, NQ) and idle:
            assert choice.destination.active == 0
            assert choice.destination.weight == max(one.weight for one in idle)
        else:
            delay = (choice.destination.active + 1) / choice.destination.weight
            assert delay == min((one.active + 1) / one.weight for one in usable)


@examples(60)
@given(st.lists(st.integers(1, 9), min_size=17, max_size=24), st.lists(st.integers(0, 60), max_size=100))
def test_many_are_chosen_as_if_all_were_compared(weights: list[int], ends: list[int]) -> None:
    for load in (expected_delay, delay_unless_idle):
        destinations = servers(*weights)
        scheduler = in_order(load, destinations)
        leases: list[Lease] = []
        for end in ends:
            destination = chosen(scheduler)
            idle = any(not one.active for one in destinations)
            if load is delay_unless_idle and idle:
                assert destination.active == 0
            else:
                delay = min((one.active + 1) / one.weight for one in destinations)
                assert (destination.active + 1) / destination.weight == delay
            leases.append(destination.lease())
            if end < len(leases):
                leases.pop(end).end()


def test_the_reason_says_by_what() -> None:
    for plugin, reason in (
        (SED(), "shortest expected delay among 2 servers"),
        (NQ(), "idle, or shortest expected delay among 2 servers"),
    ):
        choice = bound(plugin, servers(1, 1)).choose(Request())
        assert choice is not None
        assert choice.reason == reason
