"""Where a switch that is one process gets its live counts and its listening sockets; a worker gets them otherwise."""

from __future__ import annotations

import mmap
import socket
from collections.abc import Iterable

from ktcpvs.model.address import Address
from ktcpvs.model.clients import ClientTable
from ktcpvs.model.destination import Destination
from ktcpvs.model.service import RealServer
from ktcpvs.system.sockets import open_listener, open_listeners

KEY_MOST = 64
"""Bytes of a key that the hash of clients takes."""


class Counters:
    """Live counts of a switch that is one process."""

    def destination(self, ident: str, server: RealServer) -> Destination:
        """The destination for a server of service `ident`."""
        return Destination(server.address, server.weight, server.maxconn)

    _clients: ClientTable | None = None

    def client_table(self, key: bytes) -> ClientTable:
        """What each client address takes. key: of its hash."""
        if self._clients is None:
            self._clients = self._new_client_table(key[:KEY_MOST])
        return self._clients

    def _new_client_table(self, key: bytes) -> ClientTable:
        return ClientTable(memoryview(mmap.mmap(-1, ClientTable.size(1))), 1, 0, key)

    def clients(self, ident: str) -> Clients:
        """How many clients service `ident` has."""
        return Clients()


class Clients:
    """How many clients one service has. in_all: everywhere. is_shared: others count too, and tell nobody."""

    is_shared = False

    def __init__(self) -> None:
        self.in_all = 0

    def add(self, more: int) -> None:
        """So many more, here."""
        self.in_all += more


class Sockets:
    """Listening sockets of a switch that opens its own."""

    def open(self, address: Address, backlog: int, beside: Iterable[socket.socket]) -> socket.socket:
        """A socket that listens on `address`. Raises CannotListen."""
        return open_listener(address, backlog, beside)

    def open_shared(
        self, address: Address, backlog: int, count: int, beside: Iterable[socket.socket]
    ) -> list[socket.socket]:
        """As many that listen on `address`, for as many processes. Raises CannotListen."""
        return open_listeners(address, backlog, count, beside)
