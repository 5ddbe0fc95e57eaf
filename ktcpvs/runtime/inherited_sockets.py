"""Inherited listening sockets: those of the old daemon, and those that a service manager passes (systemd).

A service manager keeps its sockets open, so each service that listens on such an address gets a duplicate, any number
of times. A socket of the old daemon is used once; then it belongs to the service.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from ktcpvs.errors import CannotListen
from ktcpvs.model.address import Address, Inet
from ktcpvs.runtime.listening_sockets import ListeningSockets
from ktcpvs.system.sockets import distinct, is_dual_stack, listening_name


class InheritedSockets(ListeningSockets):
    """Returns inherited sockets, and opens new ones for other addresses.

    activated: sockets that a service manager keeps open. were_left_over: the old daemon had more sockets for an address
    than this one uses.
    """

    def __init__(self, activated: Iterable[socket.socket] = ()) -> None:
        self.activated: list[socket.socket] = []
        self.were_left_over = False
        self._taken_over: dict[Address, list[socket.socket]] = {}
        for sock in activated:
            self.add_activated(sock)

    def add_activated(self, sock: socket.socket) -> None:
        """Add a socket that a service manager keeps open."""
        sock.setblocking(False)
        self.activated.append(sock)

    def add_taken_over(self, address: Address, sock: socket.socket) -> None:
        """Add a socket of the old daemon. The sockets of one address must be added in the order in which they began to
        listen."""
        self._taken_over.setdefault(address, []).append(sock)

    def find_activated(self, address: Address) -> socket.socket | None:
        """Return the service manager's socket that listens on `address`, or None.

        For 0.0.0.0 a socket bound to [::] matches too if it accepts IPv4 clients, as those of systemd do by default.
        """
        if not self.activated:
            return None
        name = listening_name(address)
        found = next((sock for sock in self.activated if _local_name(sock) == name), None)
        if found is None and isinstance(name, tuple) and name[0] == "0.0.0.0":
            both = ("::", name[1])
            found = next((sock for sock in self.activated if _local_name(sock) == both and is_dual_stack(sock)), None)
        return found

    def open(self, address: Address, backlog: int, beside: Iterable[socket.socket]) -> socket.socket:
        found = self._inherited(address, 1)
        try:
            return found[0] if found else super().open(address, backlog, beside)
        except CannotListen:
            self._refuse_beside_activated(address)
            raise

    def open_shared(
        self, address: Address, backlog: int, count: int, beside: Iterable[socket.socket]
    ) -> list[socket.socket]:
        found = self._inherited(address, count)
        try:
            return found or super().open_shared(address, backlog, count, beside)
        except CannotListen:
            self._refuse_beside_activated(address)
            raise

    def _refuse_beside_activated(self, address: Address) -> None:
        """Raise CannotListen if a service manager's socket has the port, with its address."""
        if isinstance(address, Inet):
            for sock in self.activated:
                host, port = _local_name(sock) if sock.family != socket.AF_UNIX else ("", None)
                if port == address.port:
                    where = Inet(host, port)
                    held = f"the service manager's socket listens on {where}; listen there"
                    raise CannotListen(f"cannot listen on {address}: {held}") from None

    def _inherited(self, address: Address, count: int) -> list[socket.socket]:
        """Return `count` inherited sockets for `address`, or an empty list.

        When there are fewer, several processes share one. A new socket beside them could not be given back later
        without refusing the clients that the kernel has assigned to it.
        """
        activated = self.find_activated(address)
        if activated is not None:
            return [activated.dup() for _ in range(count)]
        taken_over = self._taken_over.pop(address, [])
        found = distinct(taken_over)
        used = found[:count]
        self.were_left_over = self.were_left_over or len(found) > count
        for sock in taken_over:
            if sock not in used:
                sock.close()
        return used + [used[number % len(used)].dup() for number in range(len(used), count) if used]


def _local_name(sock: socket.socket) -> Any:
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else name
