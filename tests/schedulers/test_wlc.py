"""wlc: no usable server is less loaded than the chosen one; equal servers share evenly."""

from __future__ import annotations

from collections import Counter

from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.least import MAX_SCANNED_SERVERS, LeastLoad, OrderedLoad
from ktcpvs.schedulers.loads import connections, weighted_connections
from ktcpvs.schedulers.wlc import LC, WLC


def destinations(*loads: tuple[int, int]) -> list[Destination]:
    """One of (active, weight) each."""
    made = []
    for number, (active, weight) in enumerate(loads, 1):
        made.append(Destination(Inet(f"10.0.0.{number}", 80), weight))
        made[-1].active = active
    return made


def bound(servers: list[Destination], why: str = "") -> LeastLoad:
    scheduler = WLC().bind(ServiceView(VirtualService("s"), tuple(servers), why=why), None)
    assert isinstance(scheduler, LeastLoad)
    return scheduler


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=2, max_size=8), st.integers(1, 20))
def test_no_usable_server_is_less_loaded(loads: list[tuple[int, int]], turns: int) -> None:
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
    assert choice.reason == "rule 3, fewest connections for its weight among 2 servers"


def test_lc_knows_no_weight_but_0() -> None:
    servers = destinations((0, 1), (0, 100), (0, 0))
    scheduler = LC().bind(ServiceView(VirtualService("s"), tuple(servers)), None)
    for _ in range(10):
        choice = scheduler.choose(Request())
        assert choice is not None
        choice.destination.active += 1
    assert [d.active for d in servers] == [5, 5, 0]


def ordered(servers: list[Destination], even: bool = False) -> OrderedLoad:
    """Bind wlc for many servers, and register its watchers as the switch does."""
    load = connections if even else weighted_connections
    picker = OrderedLoad(ServiceView(VirtualService("s"), tuple(servers)), load, "fewest")
    for destination, call in picker.watched():
        destination.watchers += (call,)
    return picker


@examples(200)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12), st.booleans(), st.lists(st.integers(0, 40), max_size=120),
    st.data(),
)  # fmt: skip
def test_kept_in_order_they_are_chosen_as_if_all_were_looked_at(
    weights: list[int], even: bool, ends: list[int], data: st.DataObject
) -> None:
    """In any order of connections, no usable server has fewer connections for its weight than the chosen one."""
    servers = destinations(*((0, weight) for weight in weights))
    picker = ordered(servers, even)
    leases: list[Lease] = []
    for end in ends:
        tried = data.draw(st.sets(st.sampled_from(servers), max_size=2)) if end % 7 == 0 else set()
        choice = picker.choose(Request(tried=tried))
        usable = [d for d in servers if d.weight and d not in tried]
        if choice is None:
            assert not usable
            continue
        assert choice.destination in usable

        def load(d: Destination) -> float:
            return d.active / (1 if even else d.weight)

        assert load(choice.destination) == min(map(load, usable))
        leases.append(choice.destination.lease())
        if end < len(leases):
            leases.pop(end).end()


def test_many_servers_are_kept_in_order_and_few_are_not() -> None:
    for count, kind in ((MAX_SCANNED_SERVERS, LeastLoad), (MAX_SCANNED_SERVERS + 1, OrderedLoad)):
        view = ServiceView(VirtualService("s"), tuple(destinations(*[(0, 1)] * count)))
        assert type(WLC().bind(view, None)) is kind
        assert type(LC().bind(view, None)) is kind


def test_ties_rotate_among_many_too() -> None:
    servers = destinations(*[(0, 1)] * 40)
    picker = ordered(servers)
    chosen = Counter(picker.choose(Request()).destination for _ in range(400))  # type: ignore[union-attr]
    assert set(chosen.values()) == {10}


def test_what_is_kept_does_not_grow_with_time() -> None:
    servers = destinations(*[(0, 1)] * 20)
    picker = ordered(servers)
    for _ in range(5000):
        choice = picker.choose(Request())
        assert choice is not None
        choice.destination.lease().end()
    assert len(picker._order._heap) <= 4 * 20 + 64 + 1


def test_an_unannounced_change_is_found_when_it_comes_to_the_top() -> None:
    servers = destinations(*[(0, 1)] * 20)
    picker = WLC().bind(ServiceView(VirtualService("s"), tuple(servers)), None)
    for server in servers[:-1]:
        server.active = 5
    choice = picker.choose(Request())
    assert choice is not None
    assert choice.destination is servers[-1]


def test_a_weight_that_changes_unannounced_is_soon_seen() -> None:
    """As in a slow start: a heavier server gets its share before any of its connections ends."""
    servers = destinations(*[(0, 0)], *[(0, 1)] * 19)
    picker = ordered(servers)
    for _ in range(19 * 3):
        choice = picker.choose(Request())
        assert choice is not None
        choice.destination.lease()
    assert [d.active for d in servers] == [0, *[3] * 19]
    servers[0].weight = 1
    for _ in range(20 + 3):
        choice = picker.choose(Request())
        assert choice is not None
        choice.destination.lease()
    assert servers[0].active >= 3


def test_lc_sees_a_weight_that_has_become_0() -> None:
    servers = destinations(*[(0, 1)] * 20)
    picker = ordered(servers, even=True)
    for server in servers[1:]:
        server.active = 5
    servers[0].weight = 0
    choice = picker.choose(Request())
    assert choice is not None
    assert choice.destination is not servers[0]
