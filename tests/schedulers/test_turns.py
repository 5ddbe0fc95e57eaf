"""rr, wrr and p2c: the order of turns."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.p2c import P2C
from ktcpvs.schedulers.peak_ewma import PeakEWMA
from ktcpvs.schedulers.rr import RR
from ktcpvs.schedulers.wrr import WRR


def servers(*weights: int) -> tuple[Destination, ...]:
    return tuple(Destination(Inet(f"10.0.0.{n}", 80), weight) for n, weight in enumerate(weights, 1))


def view(destinations: tuple[Destination, ...]) -> ServiceView:
    return ServiceView(VirtualService("s"), destinations)


def turns(scheduler: Any, count: int) -> str:
    """Return the last digits of the addresses of the chosen servers."""
    return "".join(scheduler.choose(Request()).destination.address.host[-1] for _ in range(count))


def test_rr_takes_turns_whatever_the_weights() -> None:
    assert turns(RR().bind(view(servers(1, 9, 1)), None), 7) == "1231231"


def test_rr_leaves_out_the_quiesced_and_the_tried() -> None:
    destinations = servers(1, 0, 1)
    scheduler = RR().bind(view(destinations), None)
    assert turns(scheduler, 4) == "1313"
    choice = scheduler.choose(Request(tried={destinations[0]}))
    assert choice is not None
    assert choice.destination is destinations[2]


def test_an_edit_does_not_begin_the_round_anew() -> None:
    destinations = servers(1, 1, 1)
    first = RR().bind(view(destinations), None)
    assert turns(first, 2) == "12"
    assert turns(RR().bind(view((*destinations, *servers(1, 1, 1, 1)[3:])), first), 3) == "341"


def test_wrr_mixes_its_turns() -> None:
    assert turns(WRR().bind(view(servers(5, 1, 1)), None), 14) == "1211131" * 2


def test_wrr_keeps_what_each_has_earned_over_an_edit() -> None:
    destinations = servers(5, 1, 1)
    scheduler = WRR().bind(view(destinations), None)
    seen = ""
    for _ in range(14):
        seen += turns(scheduler, 1)
        scheduler = WRR().bind(view(destinations), scheduler)
    assert seen == "1211131" * 2


def test_wrr_is_exact_in_the_long_run() -> None:
    assert Counter(turns(WRR().bind(view(servers(1, 2, 7)), None), 1000)) == {"1": 100, "2": 200, "3": 700}


def test_p2c_is_nearly_even_and_never_takes_the_most_loaded_of_two() -> None:
    destinations = servers(*[1] * 9)
    scheduler = P2C(random.Random(7)).bind(view(destinations), None)
    for _ in range(900):
        choice = scheduler.choose(Request())
        assert choice is not None
        choice.destination.active += 1
    assert all(97 <= d.active <= 103 for d in destinations)


@pytest.mark.parametrize("factory", [P2C, PeakEWMA])
def test_two_servers_that_are_left_of_many_share_idle_times(factory: Any) -> None:
    """Of equal ones the first that was drawn is chosen, so that their order must be drawn too."""
    destinations = servers(1, *[0] * 20, 1)
    scheduler = factory(random.Random(7)).bind(view(destinations), None)
    counted = Counter(scheduler.choose(Request()).destination for _ in range(1000))
    assert 400 < counted[destinations[0]] < 600


def test_p2c_respects_weights() -> None:
    destinations = servers(1, 3)
    scheduler = P2C(random.Random(7)).bind(view(destinations), None)
    for _ in range(400):
        choice = scheduler.choose(Request())
        assert choice is not None
        choice.destination.active += 1
    assert [d.active for d in destinations] == [100, 300]
