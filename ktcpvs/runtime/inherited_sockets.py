"""Listening sockets that were there before this process: those of a daemon that is taken over, and those of systemd.

A socket that somebody else holds as well, as systemd does, lasts: each service that wants its address gets a duplicate,
as often as it begins to listen. One that was taken over is had once; then it is the service's like any other.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from ktcpvs.errors import CannotListen
from ktcpvs.model.address import Address, Inet
from ktcpvs.runtime.resources import Sockets
from ktcpvs.system.sockets import distinct, is_dual_stack, listening_name


class InheritedSockets(Sockets):
    """lasting: sockets that somebody else holds too. taken: listening address -> sockets that were taken over, in the
    order in which they began to listen. were_left: not all of those are used."""

    def __init__(self, lasting: Iterable[socket.socket] = ()) -> None:
        self.lasting: list[socket.socket] = []
        self.taken: dict[Address, list[socket.socket]] = {}
        self.were_left = False
        for sock in lasting:
            self.keep(sock)

    def keep(self, sock: socket.socket) -> None:
        """That socket lasts."""
        sock.setblocking(False)
        self.lasting.append(sock)

    def lasts(self, address: Address) -> socket.socket | None:
        """The lasting socket that listens on `address`; None: there is none. For 0.0.0.0 one that is bound to [::] will
        do where it takes IPv4 clients too, as those of systemd do by default."""
        if not self.lasting:
            return None
        name = listening_name(address)
        found = next((sock for sock in self.lasting if _named(sock) == name), None)
        if found is None and isinstance(name, tuple) and name[0] == "0.0.0.0":
            both = ("::", name[1])
            found = next((sock for sock in self.lasting if _named(sock) == both and is_dual_stack(sock)), None)
        return found

    def open(self, address: Address, backlog: int, beside: Iterable[socket.socket]) -> socket.socket:
        found = self._given(address, 1)
        try:
            return found[0] if found else super().open(address, backlog, beside)
        except CannotListen as error:
            raise self._explained(error, address) from None

    def open_shared(
        self, address: Address, backlog: int, count: int, beside: Iterable[socket.socket]
    ) -> list[socket.socket]:
        found = self._given(address, count)
        try:
            return found or super().open_shared(address, backlog, count, beside)
        except CannotListen as error:
            raise self._explained(error, address) from None

    def _explained(self, error: CannotListen, address: Address) -> CannotListen:
        """The same error, with the lasting socket that is in the way, if there is one."""
        if isinstance(address, Inet):
            for sock in self.lasting:
                host, port = _named(sock) if sock.family != socket.AF_UNIX else ("", None)
                if port == address.port:
                    return CannotListen(f"{error}: the socket that was handed in, at {Inet(host, port)}; listen there")
        return error

    def _given(self, address: Address, count: int) -> list[socket.socket]:
        """`count` sockets of those that were there; none: there was none.

        Where there are fewer, processes share one: a new one beside them could not be given back without turning away
        whom the kernel sends to it.
        """
        lasting = self.lasts(address)
        if lasting is not None:
            return [lasting.dup() for _ in range(count)]
        given = self.taken.pop(address, [])
        found = distinct(given)
        used = found[:count]
        self.were_left = self.were_left or len(found) > count
        for sock in given:
            if sock not in used:
                sock.close()
        return used + [used[place % len(used)].dup() for place in range(len(used), count) if used]


def _named(sock: socket.socket) -> Any:
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else name
