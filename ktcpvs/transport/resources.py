"""Where a switch that is one process gets its live counts and its listening sockets; a worker gets them otherwise."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from ktcpvs.model.address import Address
from ktcpvs.model.destination import Destination
from ktcpvs.model.service import RealServer
from ktcpvs.system.sockets import open_listener, open_listeners


class Counters:
    """Live counts of a switch that is one process."""

    def destination(self, ident: str, server: RealServer) -> Destination:
        """The destination for a server of service `ident`."""
        return Destination(server.address, server.weight, server.maxconn)

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
