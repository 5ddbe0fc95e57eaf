"""Who counts where: rows of the shared table for servers and for services, given out by the supervisor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ktcpvs.model.clients import ClientTable
from ktcpvs.model.destination import Destination, SharedDestination
from ktcpvs.model.service import RealServer
from ktcpvs.model.table import Table
from ktcpvs.runtime.resources import Clients, Counters
from ktcpvs.system.shared import MAX_ROWS, SharedTable

CLIENTS = "clients"
"""In the place of an address: the row counts the clients of the service."""

Key = tuple[str, str]
"""(ident, address, or CLIENTS)."""


class SharedClients(Clients):
    """The clients of one service, in all processes."""

    is_shared = True

    def __init__(self, row: memoryview, place: int) -> None:
        self._row = row
        self._place = place

    @property
    def in_all(self) -> int:  # type: ignore[override]
        return sum(self._row)

    def add(self, more: int) -> None:
        self._row[self._place] += more


class SharedCounters(Counters):
    """Counts of one process among several."""

    def __init__(self, table: SharedTable, column: int, rows: Mapping[Key, int]) -> None:
        """column: where this process counts. rows: what is counted where; may grow."""
        self.table = table
        self.rows = rows
        self._column = column

    def destination(self, ident: str, server: RealServer) -> Destination:
        number = self.rows.get((ident, str(server.address)))
        if number is None:
            return super().destination(ident, server)
        return SharedDestination(server.address, server.weight, server.maxconn, self.table.row(number), self._column)

    def _new_client_table(self, key: bytes) -> ClientTable:
        return self.table.clients(self._column, key)

    def clients(self, ident: str) -> Clients:
        number = self.rows.get((ident, CLIENTS))
        return super().clients(ident) if number is None else SharedClients(self.table.row(number), self._column)


class SlotAllocator:
    """Gives out rows: each server of each service has one, and each service.

    What leaves the table and comes back gets its row again: connections that it had then are still counted there. Its
    row goes to another only when all rows have been given out, and only when nobody counts there.

    rows: who has which. used: how many were ever given out.
    """

    def __init__(self, table: SharedTable, most: int = MAX_ROWS) -> None:
        """most: how many rows there are."""
        self._table = table
        self._most = most
        self._left: dict[Key, int] = {}  # no longer in the table; the first has been gone the longest
        self.rows: dict[Key, int] = {}
        self.used = 0

    def follow(self, table: Table, before: Table | None = None) -> None:
        """Rows for all that stands in `table`; what there are none left for is counted by each process alone.

        before: the table that holds until all processes have gone over to `table`; its rows stay as they are, since
        the change may be refused, and until it is done its servers are chosen. None: there is none.
        """
        tables = (table,) if before is None else (before, table)
        wanted = dict.fromkeys(key for one in tables for key in _keys(one))
        for key in [key for key in self.rows if key not in wanted]:
            self._left[key] = self.rows.pop(key)
        for key in [key for key in self._left if key in wanted]:
            self.rows[key] = self._left.pop(key)
        for key in wanted:
            if key not in self.rows:
                row = self._next()
                if row is None:
                    return
                self.rows[key] = row

    def _next(self) -> int | None:
        if self.used < self._most:
            self.used += 1
            return self.used - 1
        for key, row in self._left.items():
            if not any(self._table.row(row)):
                del self._left[key]
                return row
        return None


def _keys(table: Table) -> Iterator[Key]:
    for service in table:
        yield service.ident, CLIENTS
        for server in service.servers:
            yield service.ident, str(server.address)
