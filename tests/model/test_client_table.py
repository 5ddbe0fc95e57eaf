"""The table of clients: its token buckets compared with a plain one, counts of several processes, and eviction."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.clients import NOWHERE, SLOTS, WAYS, ClientTable, take

KEY = b"k" * 32


def tables(columns: int) -> list[ClientTable]:
    """One memory, as each of its processes sees it."""
    memory = memoryview(bytearray(ClientTable.size(columns)))
    return [ClientTable(memory, columns, column, KEY) for column in range(columns)]


def crowd(table: ClientTable, slot: int, count: int) -> list[bytes]:
    """Names of clients that share their ways with `slot`, found as nobody without the key could."""
    first = slot // WAYS * WAYS
    found: list[bytes] = []
    number = 0
    probe = tables(1)[0]
    while len(found) < count:
        number += 1
        if probe.find(b"%d" % number, 0.0) // WAYS * WAYS == first:
            found.append(b"%d" % number)
    return found


STEPS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=60)


@given(rate=st.integers(1, 64), burst=st.integers(1, 20), steps=STEPS)
def test_a_bucket_gives_as_a_plain_one_does(rate: int, burst: int, steps: list[tuple[int, int]]) -> None:
    """Times are multiples of 1/64 s, so that both count exactly; what the plain one holds is a fraction."""
    (table,) = tables(1)
    slot = table.find(b"client", 1000.0)
    tokens, ticks, last = Fraction(burst), 64_000, 64_000
    for later, times in steps:
        ticks += later
        tokens, last = min(Fraction(burst), tokens + Fraction((ticks - last) * rate, 64)), ticks
        for _ in range(times):
            wait = take(table.requests, slot, ticks / 64, 1 / rate, (burst - 1) / rate, burst / rate)
            assert (wait == 0.0) == (tokens >= 1)
            if wait == 0.0:
                tokens -= 1
            else:
                assert abs(wait - float((1 - tokens) / rate)) < 1e-6


def test_a_faster_limit_does_not_make_a_client_wait_for_the_slower_one() -> None:
    (table,) = tables(1)
    slot = table.find(b"client", 0.0)
    assert [take(table.requests, slot, 0.0, 3600.0, 0.0, 3600.0) for _ in range(2)] == [0.0, 3600.0]
    assert take(table.requests, slot, 0.0, 0.5, 0.0, 0.5) == 0.5
    assert take(table.requests, slot, 0.5, 0.5, 0.0, 0.5) == 0.0


def test_all_processes_count_together_and_a_dead_one_counts_no_more() -> None:
    one, other = tables(2)
    slot = one.find(b"client", 1.0)
    assert other.find(b"client", 2.0) == slot
    assert one.find(b"other", 1.0) != slot
    one.connect(slot, 2)
    other.connect(slot, 3)
    other.hold(slot, 100)
    assert (one.connections(slot), one.held(slot)) == (5, 100)
    assert not one.is_idle
    other.connect(slot, -1)
    one.clear_column(1)
    assert (other.connections(slot), one.held(slot)) == (2, 0)
    assert not other.is_idle
    one.connect(slot, -2)
    assert one.connections(slot) == 0
    assert other.is_idle


def test_the_idle_client_that_was_seen_longest_ago_gives_way() -> None:
    (table,) = tables(1)
    slot = table.find(b"first", 0.0)
    table.connect(slot, 1)
    names = crowd(table, slot, WAYS + 1)
    slots = [table.find(name, 1.0 + number) for number, name in enumerate(names[: WAYS - 1])]
    assert len({slot, *slots}) == WAYS
    assert all(take(table.requests, one, 10.0, 100.0, 0.0, 100.0) == 0.0 for one in slots)

    assert table.find(names[0], 20.0) == slots[0]  # it is seen again
    assert table.find(names[-2], 21.0) == slots[1]
    assert take(table.requests, slots[1], 21.0, 100.0, 0.0, 100.0) == 0.0  # nothing is left of the previous client
    assert table.find(b"first", 22.0) == slot  # it has a connection

    for one in slots:
        table.connect(one, 1)
    assert table.find(names[-1], 23.0) == NOWHERE
    table.connect(slots[3], -1)
    assert table.find(names[-1], 24.0) == slots[3]


@given(st.lists(st.binary(max_size=30), unique=True, max_size=200))
def test_clients_have_slots_of_their_own(names: list[bytes]) -> None:
    table = _ONE
    slots = [table.find(name, 1.0) for name in names]
    assert all(0 <= slot < SLOTS for slot in slots)
    assert len(set(slots)) == len(names)
    assert [table.find(name, 2.0) for name in names] == slots


_ONE = tables(1)[0]
