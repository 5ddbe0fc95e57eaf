"""How many connections are above a server's share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadValue
from ktcpvs.model.address import parse_address
from ktcpvs.model.destination import Destination, SharedDestination
from ktcpvs.model.rebalancing import Surplus, check_percent, most_moved, surpluses
from ktcpvs.model.weighed_destination import WeighedDestination


def server(active: int, weight: int = 1, maxconn: int = 0, number: int = 1) -> Destination:
    made = Destination(parse_address(f"10.0.0.{number}:80"), weight, maxconn)
    made.active = active
    return made


def test_what_a_new_server_takes() -> None:
    full, other, new = server(60), server(60, number=2), server(0, number=3)
    assert surpluses((full, other, new), True) == {full: Surplus(20, 20), other: Surplus(20, 20)}


def test_weights_count_where_the_scheduler_reads_them() -> None:
    heavy, light = server(60, 3), server(20, 1, number=2)
    assert not surpluses((heavy, light), True)
    assert surpluses((heavy, light), False) == {heavy: Surplus(20, 20)}


def test_a_rule_has_weights_of_its_own() -> None:
    canary, real = WeighedDestination(server(60), 1), WeighedDestination(server(40, number=2), 3)
    assert surpluses((canary, real), True) == {canary: Surplus(35, 35)}


def test_a_full_server_takes_no_more_than_it_may() -> None:
    full, small = server(100), server(10, maxconn=15, number=2)
    assert surpluses((full, small), True) == {full: Surplus(45, 5)}


def test_a_server_that_gets_no_clients_has_no_share() -> None:
    assert not surpluses((server(10), server(0, weight=0, number=2)), True)
    assert not surpluses((), True)


def test_one_connection_more_is_none_above_the_share() -> None:
    assert not surpluses((server(2), server(1, number=2)), True)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 100)), min_size=1, max_size=8))
def test_who_gives_does_not_give_more_than_it_has_above_its_share(loads: list[tuple[int, int]]) -> None:
    servers = [server(active, weight, number=number) for number, (active, weight) in enumerate(loads)]
    total, weights = sum(one.active for one in servers), sum(one.weight for one in servers)
    for one, surplus in surpluses(servers, True).items():
        assert 0 <= surplus.room <= surplus.over
        assert (one.active - surplus.over) * weights >= total * one.weight


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.data())
def test_the_parts_of_all_processes_add_up(counts: list[int], data: st.DataObject) -> None:
    row = memoryview(bytearray(8 * len(counts))).cast("Q")
    for place, count in enumerate(counts):
        row[place] = count
    moved = data.draw(st.integers(0, sum(counts)))
    address = parse_address("10.0.0.1:80")
    parts = [SharedDestination(address, 1, 0, row, place).part_of(moved) for place in range(len(counts))]
    assert sum(parts) == moved
    assert all(0 <= part <= count for part, count in zip(parts, counts, strict=True))


def test_a_process_alone_moves_all() -> None:
    assert server(10).part_of(4) == 4
    assert WeighedDestination(server(10), 2).part_of(4) == 4


@pytest.mark.parametrize(("active", "percent", "most"), [(100, 20, 20), (7, 20, 1), (3, 1, 1), (9, 100, 9)])
def test_the_limit(active: int, percent: int, most: int) -> None:
    assert most_moved(active, percent) == most


@pytest.mark.parametrize("percent", [0, 101, -5])
def test_a_bad_percentage(percent: int) -> None:
    with pytest.raises(BadValue, match=rf"^{percent}%: expected 1% to 100% of a server's connections$"):
        check_percent(percent)
