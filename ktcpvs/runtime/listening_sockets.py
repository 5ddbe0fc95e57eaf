"""Opens the listening sockets of services."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from ktcpvs.model.address import Address
from ktcpvs.system.sockets import open_listener, open_listeners


class ListeningSockets:
    """Opens new listening sockets."""

    def open(self, address: Address, backlog: int, beside: Iterable[socket.socket]) -> socket.socket:
        """Return a socket that listens on `address`. beside: sockets that may have the same port and will be closed.
        Raises CannotListen."""
        return open_listener(address, backlog, beside)

    def open_shared(
        self, address: Address, backlog: int, count: int, beside: Iterable[socket.socket]
    ) -> list[socket.socket]:
        """Return `count` sockets that listen on `address`, one for each process. Raises CannotListen."""
        return open_listeners(address, backlog, count, beside)
