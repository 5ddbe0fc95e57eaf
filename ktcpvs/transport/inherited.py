"""Listening sockets that were there before this process: those of a daemon that is taken over, and those of systemd.

A socket that somebody else holds as well, as systemd does, lasts: each service that wants its address gets a duplicate,
as often as it begins to listen. One that was taken over is had once; then it is the service's like any other.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from ktcpvs.model.address import Address
from ktcpvs.system.sockets import distinct, listening_name
from ktcpvs.transport.resources import Sockets


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
        """The lasting socket that listens on `address`; None: there is none."""
        if not self.lasting:
            return None
        name = listening_name(address)
        return next((sock for sock in self.lasting if _named(sock) == name), None)

    def open(self, address: Address, backlog: int, beside: Iterable[socket.socket]) -> socket.socket:
        found = self._given(address, 1)
        return found[0] if found else super().open(address, backlog, beside)

    def open_shared(
        self, address: Address, backlog: int, count: int, beside: Iterable[socket.socket]
    ) -> list[socket.socket]:
        found = self._given(address, count)
        return found or super().open_shared(address, backlog, count, beside)

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
