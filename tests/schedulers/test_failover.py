"""fo, ovf and first: one server before the next."""

from __future__ import annotations

from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.interfaces import IScheduler, ISchedulerFactory
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.first import First
from ktcpvs.schedulers.fo import FO, OVF


def servers(*weights: int, maxconn: int = 0) -> list[Destination]:
    return [Destination(Inet(f"10.0.0.{number}", 80), weight, maxconn) for number, weight in enumerate(weights, 1)]


def bound(plugin: ISchedulerFactory, destinations: list[Destination]) -> IScheduler:
    return plugin.bind(ServiceView(VirtualService("s"), tuple(destinations)), None)


def fill(scheduler: IScheduler, destinations: list[Destination], count: int) -> list[int]:
    """Make so many connections; return the numbers of their servers, from 0."""
    numbers = []
    for _ in range(count):
        choice = scheduler.choose(Request())
        assert isinstance(choice, Choice)
        choice.destination.active += 1
        numbers.append(destinations.index(choice.destination))
    return numbers


def test_fo_stays_at_the_highest_weight() -> None:
    destinations = servers(1, 9, 5, 9)
    scheduler = bound(FO(), destinations)
    assert fill(scheduler, destinations, 3) == [1, 1, 1]
    for failed, then in (({1}, 3), ({1, 3}, 2), ({1, 2, 3}, 0)):
        choice = scheduler.choose(Request(tried={destinations[number] for number in failed}))
        assert isinstance(choice, Choice)
        assert choice.destination is destinations[then]
    destinations[1].weight = 0.1  # it begins its slow start
    assert fill(scheduler, destinations, 1) == [3]


def test_ovf_goes_on_when_a_server_has_as_many_connections_as_its_weight() -> None:
    destinations = servers(1, 3, 2)
    scheduler = bound(OVF(), destinations)
    assert fill(scheduler, destinations, 6) == [1, 1, 1, 2, 2, 0]
    destinations[1].active -= 1
    assert fill(scheduler, destinations, 1) == [1]


def test_ovf_beyond_all_weights_chooses_by_load() -> None:
    destinations = servers(1, 3, 2)
    scheduler = bound(OVF(), destinations)
    fill(scheduler, destinations, 6)
    choice = scheduler.choose(Request())
    assert isinstance(choice, Choice)
    assert choice.reason == "fewest connections for its weight: all 3 have that many"
    fill(scheduler, destinations, 54)
    assert [destination.active for destination in destinations] == [10, 30, 20]


def test_first_fills_one_server_before_the_next() -> None:
    destinations = servers(1, 0, 5, 1, maxconn=2)
    scheduler = bound(First(), destinations)
    assert fill(scheduler, destinations, 5) == [0, 0, 2, 2, 3]
    destinations[0].active -= 1
    assert fill(scheduler, destinations, 2) == [0, 3]
    choice = scheduler.choose(Request())  # all are full, and the switch lets the client wait
    assert isinstance(choice, Choice)
    assert choice.destination is destinations[0]


def test_first_without_maxconn_uses_the_others_only_when_one_has_failed() -> None:
    destinations = servers(1, 1)
    scheduler = bound(First(), destinations)
    assert fill(scheduler, destinations, 9) == [0] * 9
    choice = scheduler.choose(Request(tried={destinations[0]}))
    assert isinstance(choice, Choice)
    assert choice.destination is destinations[1]


LOADS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 5)), min_size=1, max_size=6)
"""(weight, connections, maxconn) of each server."""


@examples(200)
@given(LOADS, st.sets(st.integers(0, 5)))
def test_each_keeps_its_rule(loads: list[tuple[int, int, int]], failed: set[int]) -> None:
    destinations = []
    for number, (weight, active, maxconn) in enumerate(loads):
        destinations.append(Destination(Inet(f"10.0.0.{number}", 80), weight, maxconn))
        destinations[-1].active = active
    tried = {destination for number, destination in enumerate(destinations) if number in failed}
    usable = [one for one in destinations if one.weight and one not in tried]
    answers = {}
    for plugin in (FO(), OVF(), First()):
        choice = bound(plugin, destinations).choose(Request(tried=tried))
        assert (choice is None) == (not usable)
        if choice is not None:
            answers[plugin.name] = choice.destination
    if not usable:
        return
    assert answers["fo"] is max(usable, key=lambda one: one.weight)  # of equal ones the first
    below = [one for one in usable if one.active < one.weight]
    if below:
        assert answers["ovf"] is max(below, key=lambda one: one.weight)
    else:
        assert answers["ovf"] is min(usable, key=lambda one: one.active / one.weight)
    with_room = [one for one in usable if not one.is_full]
    assert answers["first"] is (with_room or usable)[0]
