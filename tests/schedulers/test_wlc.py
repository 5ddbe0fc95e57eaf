"""wlc: nobody usable is less loaded than the one chosen; equal servers share evenly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.lc import LC
from ktcpvs.schedulers.wlc import BoundWLC


def destinations(*loads: tuple[int, int]) -> list[Destination]:
    """One of (active, weight) each."""
    made = []
    for number, (active, weight) in enumerate(loads, 1):
        made.append(Destination(Inet(f"10.0.0.{number}", 80), weight))
        made[-1].active = active
    return made


def bound(servers: list[Destination], why: str = "") -> BoundWLC:
    return BoundWLC(ServiceView(VirtualService("s"), tuple(servers), why=why))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=8), st.integers(1, 20))
def test_nobody_usable_is_less_loaded(loads: list[tuple[int, int]], turns: int) -> None:
    servers = destinations(*loads)
    picker = bound(servers)
    for _ in range(turns):
        choice = picker.choose(Request())
        usable = [d for d in servers if d.weight]
        if choice is None:
            assert not usable
            return
        least = min(d.active / d.weight for d in usable)
        assert choice.destination.active / choice.destination.weight == least
        choice.destination.active += 1


def test_ties_rotate() -> None:
    picker = bound(destinations((0, 1), (0, 1), (0, 1)))
    chosen = Counter(picker.choose(Request()).destination for _ in range(300))  # type: ignore[union-attr]
    assert set(chosen.values()) == {100}


def test_load_follows_weight() -> None:
    servers = destinations((0, 1), (0, 2), (0, 5))
    picker = bound(servers)
    for _ in range(80):
        choice = picker.choose(Request())
        assert choice is not None
        choice.destination.active += 1
    assert [d.active for d in servers] == [10, 20, 50]


def test_the_reason_tells() -> None:
    choice = bound(destinations((0, 1), (0, 1)), "rule 3, ").choose(Request())
    assert choice is not None
    assert choice.reason == "rule 3, fewest connections for its weight of 2"


def test_lc_knows_no_weight_but_0() -> None:
    servers = destinations((0, 1), (0, 100), (0, 0))
    scheduler = LC().bind(ServiceView(VirtualService("s"), tuple(servers)), None)
    for _ in range(10):
        choice = scheduler.choose(Request())
        assert choice is not None
        choice.destination.active += 1
    assert [d.active for d in servers] == [5, 5, 0]
