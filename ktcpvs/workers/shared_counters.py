"""Live counts in shared memory, and the allocation of its slots to servers and services.

The supervisor allocates a slot to each server of each service, and to each service for its clients. A slot has one
number for each process, which that process alone writes; the sum is the count over all processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ktcpvs.model.clients import ClientTable
from ktcpvs.model.destination import Destination, SharedDestination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.table import Table
from ktcpvs.runtime.counters import ClientCounter, Counters
from ktcpvs.system.shared import MAX_ROWS, SharedTable

CLIENTS = "clients"
"""Stands in a CounterKey for the address when the slot counts the clients of the service."""

CounterKey = tuple[str, str]
"""The subject of a slot: (ident of the service, address of the server or CLIENTS)."""


class SharedClientCounter(ClientCounter):
    """The number of clients of one service, over all processes."""

    is_shared = True

    def __init__(self, slot: memoryview, index: int) -> None:
        """slot: one number for each process. index: of this process."""
        self._slot = slot
        self._index = index

    @property
    def in_all(self) -> int:  # type: ignore[override]
        return sum(self._slot)

    def add(self, more: int) -> None:
        self._slot[self._index] += more


class SharedCounters(Counters):
    """The counts of one process among several. Each process counts for itself whatever has no slot."""

    def __init__(self, table: SharedTable, index: int, slots: Mapping[CounterKey, int]) -> None:
        """index: of this process among those that count. slots: may grow later."""
        self._table = table
        self._index = index
        self._slots = slots

    def destination(self, ident: str, server: RealServer) -> Destination:
        number = self._slots.get((ident, str(server.address)))
        if number is None:
            return super().destination(ident, server)
        slot = self._table.row(number)
        return SharedDestination(server.address, server.share, server.maxconn, slot, self._index)

    def _new_client_table(self, key: bytes) -> ClientTable:
        return self._table.clients(self._index, key)

    def clients(self, ident: str) -> ClientCounter:
        number = self._slots.get((ident, CLIENTS))
        return super().clients(ident) if number is None else SharedClientCounter(self._table.row(number), self._index)


class SlotAllocator:
    """Allocates the slots of a shared table.

    A server that leaves the table and comes back gets its slot again: its earlier connections are still counted there.
    Other servers get that slot only when all slots have been allocated and nothing is counted in it any more.

    table: the shared memory. slots: what is counted in which slot. allocated: the number of slots ever allocated.
    """

    def __init__(self, table: SharedTable, limit: int = MAX_ROWS) -> None:
        """limit: the number of slots."""
        self.table = table
        self.slots: dict[CounterKey, int] = {}
        self.allocated = 0
        self._limit = limit
        self._free: dict[CounterKey, int] = {}  # of what has left the table; what left first is first

    def counters(self, index: int) -> SharedCounters:
        """The counters of process `index`."""
        return SharedCounters(self.table, index, self.slots)

    def allocate(self, table: Table, before: Table | None = None) -> None:
        """Allocate slots for everything in `table`, as long as there are any.

        before: the table in force until all processes have changed to `table`. Its slots stay as they are, since the
        change may be refused, and its servers are still chosen meanwhile. None: there is none.
        """
        tables = (table,) if before is None else (before, table)
        wanted = dict.fromkeys(key for each in tables for key in _keys(each))
        for key in [key for key in self.slots if key not in wanted]:
            self._free[key] = self.slots.pop(key)
        for key in [key for key in self._free if key in wanted]:
            self.slots[key] = self._free.pop(key)
        for key in wanted:
            if key not in self.slots:
                slot = self._next_slot()
                if slot is None:
                    return
                self.slots[key] = slot

    def _next_slot(self) -> int | None:
        if self.allocated < self._limit:
            self.allocated += 1
            return self.allocated - 1
        for key, slot in self._free.items():
            if not any(self.table.row(slot)):
                del self._free[key]
                return slot
        return None

    def clear(self, index: int) -> None:
        """Process `index` is gone: set all its counts to 0."""
        self.table.clear_column(index, self.allocated)


def _keys(table: Table) -> Iterator[CounterKey]:
    for service in table:
        yield service.ident, CLIENTS
        for server in service.servers:
            yield service.ident, str(server.address)
