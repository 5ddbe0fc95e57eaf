"""maglev: the table's shares, keys that stay, servers that cannot serve, and tables that are shared."""

from __future__ import annotations

import gc
from array import array
from collections import Counter
from collections.abc import Generator, Iterable, Sequence

import pytest
from attrs import evolve
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadValue
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers import maglev_table
from ktcpvs.schedulers.binding import run_to_end
from ktcpvs.schedulers.http import PHTTP
from ktcpvs.schedulers.maglev import TABLE_SIZE, BoundMaglev, Maglev
from ktcpvs.schedulers.maglev_table import order_of, plain_filling

CLIENTS = [f"10.{n // 250}.{n % 250}.7" for n in range(3000)]
PLUGIN = Maglev()

pytestmark = pytest.mark.skipif(
    maglev_table.filling is plain_filling, reason="without the compiled form each table takes a tenth of a second"
)


def servers(*weights: int) -> list[Destination]:
    return [Destination(Inet(f"10.0.{n}.1", 80), weight) for n, weight in enumerate(weights, 1)]


def bound(destinations: Iterable[Destination]) -> BoundMaglev:
    return run_to_end(PLUGIN.binding(ServiceView(VirtualService("s"), tuple(destinations)), None))


def where(scheduler: BoundMaglev, *tried: Destination) -> dict[str, Destination]:
    """Return client -> its server."""
    chosen = {client: scheduler.choose(Request(client, tried=set(tried))) for client in CLIENTS}
    return {client: choice.destination for client, choice in chosen.items() if choice is not None}


def entries_of(weights: Sequence[float], size: int, fill: object = None) -> array[int]:
    orders = tuple((*order_of(f"10.0.0.{n}:80", size), float(weight)) for n, weight in enumerate(weights))
    return array("H", run_to_end((fill or maglev_table.filling)(orders, size)))  # type: ignore[operator]


WEIGHTS = st.lists(st.integers(1, 100), min_size=1, max_size=20)


@examples(40)
@given(WEIGHTS, st.sampled_from([251, 1009, 4093]))
def test_each_server_has_its_share_of_the_entries(weights: list[int], size: int) -> None:
    counts = Counter(entries_of(weights, size))
    for number, weight in enumerate(weights):
        share = size * weight / sum(weights)
        assert share - 1 <= counts[number] <= share + 1 + len(weights) * weight / sum(weights)


@examples(40)
@given(WEIGHTS, st.sampled_from([251, 1009, 4093]))
def test_the_compiled_form_fills_the_same_table(weights: list[int], size: int) -> None:
    assert entries_of(weights, size) == entries_of(weights, size, plain_filling)


def test_in_python_the_table_is_filled_in_steps() -> None:
    orders = tuple((*order_of(f"10.0.0.{n}:80", TABLE_SIZE), 1.0) for n in range(50))
    steps, filling = 0, plain_filling(orders, TABLE_SIZE)
    for _ in filling:
        steps += 1
    assert steps > 20


def test_a_server_that_leaves_moves_hardly_more_than_its_keys() -> None:
    destinations = servers(*[1] * 10)
    before = where(bound(destinations))
    for leaving in destinations[:3]:
        after = where(bound(one for one in destinations if one is not leaving))
        needless = [client for client in CLIENTS if before[client] not in (leaving, after[client])]
        assert len(needless) < 0.05 * len(CLIENTS)


def test_the_order_in_the_configuration_makes_no_difference() -> None:
    destinations = servers(1, 2, 3)
    assert where(bound(destinations)) == where(bound(reversed(destinations)))


@examples(25)
@given(st.sets(st.integers(0, 5), max_size=5))
def test_servers_that_cannot_serve_move_only_their_own_keys(unusable: set[int]) -> None:
    destinations = servers(3, 1, 2, 1, 1, 2)
    scheduler = bound(destinations)
    before = where(scheduler)
    gone = {destinations[number] for number in unusable}
    tried = where(scheduler, *gone)
    for destination in gone:
        destination.weight = 0
    assert where(scheduler) == tried
    assert gone.isdisjoint(tried.values())
    assert all(tried[client] is before[client] for client in CLIENTS if before[client] not in gone)


def test_the_keys_of_a_dead_server_spread_by_weight() -> None:
    destinations = servers(4, 1, 1, 2)
    scheduler = bound(destinations)
    before, after = where(scheduler), where(scheduler, destinations[0])
    moved = Counter(after[client] for client in CLIENTS if before[client] is destinations[0])
    for destination in destinations[1:]:
        assert abs(moved[destination] / moved.total() - destination.weight / 4) < 0.05


def test_a_server_has_only_a_part_of_its_keys_while_it_has_a_part_of_its_weight() -> None:
    destinations = servers(10, 10, 10)
    scheduler = bound(destinations)
    whole = where(scheduler)
    mine = {client for client in CLIENTS if whole[client] is destinations[0]}
    before: set[str] = set()
    for weight in (0.1, 2, 5, 9, 10):
        destinations[0].weight = weight
        now = where(scheduler)
        assert all(now[client] is whole[client] for client in CLIENTS if client not in mine)
        kept = {client for client in CLIENTS if now[client] is destinations[0]}
        assert before <= kept <= mine
        assert abs(len(kept) / len(mine) - weight / 10) < 0.05
        before = kept
    assert before == mine


@pytest.mark.parametrize("weights", [(1, 65535), (1, 1), (1, *[1] * 300)])
def test_the_last_usable_server_is_found_however_small_its_share(weights: tuple[int, ...]) -> None:
    destinations = servers(*weights)
    chosen = set(where(bound(destinations), *destinations[1:]).values())
    assert chosen == {destinations[0]}


def test_rules_with_the_same_servers_share_a_table_that_goes_with_them() -> None:
    plugin = Maglev(max_entries=140_000)
    real = tuple(RealServer(Inet(f"10.0.{n}.1", 80)) for n in range(3))
    addresses = tuple(server.address for server in real)
    rules = [Rule("/a", addresses), Rule("/b", addresses[::-1]), Rule("/c", addresses[:2])]
    known = {server.address: Destination(server.address) for server in real}
    config = VirtualService("s", servers=real, rules=tuple(rules))
    scheduler = PHTTP().bind(ServiceView.of(config, known, plugin), None)
    for client in CLIENTS[:20]:
        choices = [scheduler.choose(Request(client, path=path)) for path in (b"/a", b"/b")]
        assert choices[0].destination is choices[1].destination  # type: ignore[union-attr]
    more = evolve(config, rules=(*rules, Rule("/d", addresses[1:])))
    with pytest.raises(
        BadValue, match="service s: the tables of maglev, one for each set of servers and weights, have at"
    ):
        PHTTP().bind(ServiceView.of(more, known, plugin), scheduler)
    del scheduler
    gc.collect()
    other = evolve(config, rules=(Rule("/d", addresses[1:]), Rule("/e", addresses[:1])))
    assert PHTTP().bind(ServiceView.of(other, known, plugin), None)


def test_a_rule_lets_others_be_served_while_its_table_is_filled() -> None:
    real = tuple(RealServer(Inet(f"10.0.{n}.1", 80)) for n in range(4))
    rules = tuple(Rule(f"/{n}", tuple(s.address for s in real[: n + 1])) for n in range(4))
    config = VirtualService("s", servers=real, rules=rules)
    view = ServiceView.of(config, {s.address: Destination(s.address) for s in real}, Maglev())
    binding: Generator[None, None, object] = PHTTP().binding(view, None)
    assert sum(1 for _ in binding) >= 4


def test_an_explanation_names_the_entry() -> None:
    (note,) = bound(servers(1, 1)).explain(Request("192.0.2.7")).notes
    assert note == "the client's address is '192.0.2.7': entry 51548 of 65537"


def test_a_table_of_another_size() -> None:
    view = ServiceView(VirtualService("s"), tuple(servers(1, 1)), options={"table_size": 1009})
    (note,) = run_to_end(PLUGIN.binding(view, None)).explain(Request("192.0.2.7")).notes
    assert note.endswith(" of 1009")
    with pytest.raises(BadValue, match="service s: maglev table_size 1000 is no prime; 1009 is one"):
        PLUGIN.bind(evolve(view, options={"table_size": 1000}), None)
