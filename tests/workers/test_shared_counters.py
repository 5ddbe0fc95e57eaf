"""Shared counters: each slot has one subject, and all processes see the counts of each process."""

from __future__ import annotations

from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination, SharedDestination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from ktcpvs.runtime.counters import ClientCounter
from ktcpvs.schedulers.loads import weighted_connections
from ktcpvs.schedulers.order import REFRESHED_PER_CHOICE, Order
from ktcpvs.system.shared import SharedTable
from ktcpvs.workers.shared_counters import CLIENTS, CounterKey, SharedClientCounter, SharedCounters, SlotAllocator

R1 = RealServer(Inet("r1", 80), weight=2, maxconn=3)


def table_of(services: dict[str, set[int]]) -> Table:
    """services: ident -> the ports of its servers."""
    return Table.of(
        VirtualService(ident, servers=tuple(RealServer(Inet("r", port)) for port in sorted(ports)))
        for ident, ports in services.items()
    )


def keys_of(services: dict[str, set[int]]) -> set[CounterKey]:
    return {(ident, CLIENTS) for ident in services} | {
        (i, f"r:{port}") for i, ports in services.items() for port in ports
    }


SERVICES = st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(1, 4)), max_size=3)

# Events: an edit is carried out or refused, a process counts, a process ends.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), SERVICES, st.booleans()),
        st.tuples(st.just("count"), st.integers(0, 30), st.integers(0, 1)),
        st.tuples(st.just("clear"), st.integers(0, 1), st.just(0)),
    ),
    max_size=25,
)


@examples(150)
@given(steps=STEPS, limit=st.sampled_from((4, 9, 100)))
def test_a_slot_counts_one_thing_at_most(steps: list[tuple[str, Any, Any]], limit: int) -> None:
    shared = SharedTable(2)
    allocator = SlotAllocator(shared, limit)
    now: dict[str, set[int]] = {}
    counted: dict[int, CounterKey] = {}  # row -> its subject for the processes that count there
    for kind, what, more in steps:
        if kind == "count" and allocator.slots:
            key = sorted(allocator.slots)[what % len(allocator.slots)]
            shared.row(allocator.slots[key])[more] += 1
            counted[allocator.slots[key]] = key
        elif kind == "clear":
            allocator.clear(what)
            counted = {row: key for row, key in counted.items() if any(shared.row(row))}
        elif kind == "edit":
            before, old = dict(allocator.slots), now
            allocator.allocate(table_of(what), table_of(now))
            now = what if more else now
            wanted = keys_of(what) | keys_of(old)
            assert set(allocator.slots) <= wanted
            assert wanted == set(allocator.slots) or allocator.allocated == limit
            for key in before.keys() & wanted:  # also what the edit deletes, until it is done
                assert allocator.slots[key] == before[key]
        assert len(set(allocator.slots.values())) == len(allocator.slots)
        assert all(0 <= row < allocator.allocated <= limit for row in allocator.slots.values())
        for key, row in allocator.slots.items():
            assert counted.get(row, key) == key, "a row with counts went to another"


def test_a_server_that_comes_back_has_its_slot_again() -> None:
    allocator = SlotAllocator(SharedTable(1))
    allocator.allocate(table_of({"a": {1, 2}}))
    row = allocator.slots["a", "r:1"]
    allocator.allocate(table_of({"a": {2}}))
    allocator.allocate(table_of({"a": {2, 3, 4}}))
    assert ("a", "r:1") not in allocator.slots
    allocator.allocate(table_of({"a": {1, 2}}))
    assert allocator.slots["a", "r:1"] == row


def test_when_all_slots_are_allocated_unused_ones_are_reused() -> None:
    shared = SharedTable(2)
    allocator = SlotAllocator(shared, limit=3)
    allocator.allocate(table_of({"a": {1, 2}}))
    busy, idle = allocator.slots["a", "r:1"], allocator.slots["a", "r:2"]
    shared.row(busy)[1] += 1
    allocator.allocate(table_of({"a": {3, 4}}))
    assert allocator.slots["a", "r:3"] == idle
    assert ("a", "r:4") not in allocator.slots
    shared.row(busy)[1] -= 1
    allocator.allocate(table_of({"a": {3, 4}}))
    assert allocator.slots["a", "r:4"] == busy


@pytest.fixture
def shared() -> SharedTable:
    return SharedTable(3)


@pytest.fixture
def counters(shared: SharedTable) -> list[SharedCounters]:
    """Those of two processes: each has the table's memory by its descriptor."""
    slots = {("s", str(R1.address)): 0, ("s", CLIENTS): 1}
    return [SharedCounters(shared, 0, slots), SharedCounters(SharedTable(3, shared.descriptor), 1, slots)]


def test_each_process_sees_what_the_other_counts(counters: list[SharedCounters]) -> None:
    one, other = (each.destination("s", R1) for each in counters)
    assert isinstance(one, SharedDestination)
    assert (one.address, one.weight, one.maxconn) == (R1.address, 2, 3)
    leases = [one.lease(), one.lease()]
    assert (one.active, other.active) == (2, 2)
    assert (one.own, other.own) == (2, 0)
    assert [one.is_full, other.is_full] == [False, False]
    last = other.lease()
    assert [one.is_full, other.is_full] == [True, True]
    leases[0].end()
    leases[0].end()
    assert (one.active, other.active, one.own, other.own) == (2, 2, 1, 1)
    leases[1].end()
    last.end(failed=True)
    assert (one.active, other.active) == (0, 0)
    assert (one.failures, other.failures) == (0, 1)  # these each process counts for itself


def test_clients_are_counted_over_all_processes(counters: list[SharedCounters]) -> None:
    one, other = (each.clients("s") for each in counters)
    assert isinstance(one, SharedClientCounter)
    one.add(1)
    other.add(1)
    other.add(1)
    assert one.in_all == other.in_all == 3
    other.add(-1)
    assert one.in_all == 2


def test_the_counts_of_a_dead_process_are_cleared(shared: SharedTable, counters: list[SharedCounters]) -> None:
    one, other = (each.destination("s", R1) for each in counters)
    clients = [each.clients("s") for each in counters]
    leases = [one.lease(), other.lease(), other.lease()]
    clients[0].add(1)
    clients[1].add(2)
    shared.clear_column(1, rows=2)
    assert (one.active, other.own) == (1, 0)
    assert clients[0].in_all == 1
    leases[0].end()
    assert one.active == 0


def test_each_process_counts_alone_what_has_no_slot(counters: list[SharedCounters]) -> None:
    server = RealServer(Inet("r2", 80), 5)
    one, other = (each.destination("s", server) for each in counters)
    assert type(one) is Destination
    one.lease()
    assert (one.active, one.weight, other.active) == (1, 5, 0)
    assert type(counters[0].clients("t")) is ClientCounter


# Many servers in order, while other processes change their loads without notice.


def ordered(count: int) -> tuple[list[SharedDestination], list[memoryview], Order]:
    shared = SharedTable(2)
    rows = [shared.row(number) for number in range(count)]
    servers = [SharedDestination(Inet("r", number + 1), 1, 0, row, 0) for number, row in enumerate(rows)]
    order = Order(servers, weighted_connections)
    for server in servers:
        server.watchers = (order.changed,)
    return servers, rows, order


def test_a_server_that_became_busier_elsewhere_is_not_chosen() -> None:
    servers, rows, order = ordered(30)
    for row in rows[:29]:
        row[1] += 1
    assert order.first(set()) is servers[29]


def test_a_server_that_became_idle_elsewhere_is_found_after_a_bounded_number_of_choices() -> None:
    servers, rows, order = ordered(30)
    for row in rows:
        row[1] += 100
    for _ in range(60):
        found = order.first(set())
        assert found is not None
        found.lease()
    rows[17][1] -= 50
    looks = 0
    while order.first(set()) is not servers[17]:
        looks += 1
        assert looks <= 30 / REFRESHED_PER_CHOICE


@examples(60)
@given(st.lists(st.tuples(st.integers(0, 19), st.sampled_from((-1, 1, 3)), st.integers(0, 1)), max_size=80))
def test_after_one_look_at_each_the_least_loaded_is_first(steps: list[tuple[int, int, int]]) -> None:
    servers, rows, order = ordered(20)
    leases: dict[int, list[Any]] = {}
    for number, change, column in steps:
        if column:
            rows[number][1] = max(rows[number][1] + change, 0)
        elif change > 0:
            leases.setdefault(number, []).append(servers[number].lease())
        elif leases.get(number):
            leases[number].pop().end()
    for _ in range(20 // REFRESHED_PER_CHOICE):
        order.first(set())
    found = order.first(set())
    assert found is not None
    assert found.active == min(server.active for server in servers)
    tried = set(servers[:10])
    other = order.first(set(tried))
    assert other is not None
    assert other not in tried
    assert other.active == min(server.active for server in servers[10:])
    assert order.first(set(servers)) is None
