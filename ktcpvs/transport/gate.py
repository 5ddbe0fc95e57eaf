"""Who comes in: decided right after accept, before anything is read of a client or made for it."""

from __future__ import annotations

import socket
from typing import Any

from ktcpvs.model.filter import Filter, filter_of
from ktcpvs.model.network import Networks
from ktcpvs.model.service import VirtualService
from ktcpvs.system import log as levels
from ktcpvs.system.log import EventLog
from ktcpvs.system.sockets import close_with_reset, packed_address


class Gate:
    """One service's. stands_open: everybody comes in, and nobody need ask. denied: clients who were turned away since
    their networks are denied, or not allowed. limited: how often one was turned away since it wanted too much."""

    __slots__ = ("_filter", "_ident", "_lists", "_log", "denied", "limited", "stands_open")

    def __init__(self, log: EventLog, ident: str) -> None:
        self._log = log
        self._ident = ident
        self._lists: tuple[Networks, Networks] = Networks(), Networks()
        self._filter: Filter | None = None
        self.stands_open = True
        self.denied = self.limited = 0

    def follow(self, config: VirtualService) -> None:
        """From now on it opens for whom `config` wants."""
        lists = config.allow, config.deny
        if lists != self._lists:
            self._lists, self._filter = lists, filter_of(*lists)
        self.stands_open = self._filter is None

    def opens(self, sock: socket.socket, peer: Any) -> bool:
        """May that client come in? If not, its connection is reset. peer: as accept() told it."""
        packed = packed_address(peer)
        if packed is None or self._filter is None:  # a unix socket's clients have no address
            return True
        may, _ = self._filter.judge(packed)
        if not may:
            self.denied += 1
            close_with_reset(sock)
            form = "service {ident}: clients are denied, as {client}"
            self._log.fault(form, ident=self._ident, client=peer[0])
            self._log.event(levels.CONNECTION, "{client} denied by {ident}", client=peer[0], ident=self._ident)
        return may
