"""Live counts of a switch that is one process; workers count in shared memory instead (workers/shared_counters.py)."""

from __future__ import annotations

import mmap

from ktcpvs.model.clients import ClientTable
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer

MAX_KEY_BYTES = 64
"""The longest key that the hash of client addresses takes."""


class Counters:
    """Makes the objects that count connections of servers, of services and of client addresses."""

    _client_table: ClientTable | None = None

    def destination(self, ident: str, server: RealServer) -> Destination:
        """Return the destination for a server of service `ident`."""
        return Destination(server.address, server.share, server.maxconn)

    def client_table(self, key: bytes) -> ClientTable:
        """Return the table of client addresses, made at the first call. key: of its hash."""
        if self._client_table is None:
            self._client_table = self._new_client_table(key[:MAX_KEY_BYTES])
        return self._client_table

    def _new_client_table(self, key: bytes) -> ClientTable:
        return ClientTable(memoryview(mmap.mmap(-1, ClientTable.size(1))), 1, 0, key)

    def clients(self, ident: str) -> ClientCounter:
        """Return the counter of the clients of service `ident`."""
        return ClientCounter()


class ClientCounter:
    """The number of clients of one service. in_all: over all processes. is_shared: other processes change it too, and
    give no notice."""

    is_shared = False

    def __init__(self) -> None:
        self.in_all = 0

    def add(self, more: int) -> None:
        """Add `more`, which may be negative, for this process."""
        self.in_all += more
