"""Who comes in, and how often who is in may ask: lists of networks, and limits for each client address.

Decided right after accept, before anything is read of a client or made for it; and with limits for each request.
"""

from __future__ import annotations

from typing import Any

from ktcpvs.interfaces import CONNECTION
from ktcpvs.model.clients import NOWHERE, ClientTable, take
from ktcpvs.model.filter import Filter, filter_of
from ktcpvs.model.network import Networks
from ktcpvs.model.options import rate_of
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.system import log as levels
from ktcpvs.system.sockets import packed_address

HEADS_AT_ONCE = 1.0
"""Seconds' worth of head bytes that may come at once; and then one head more."""

KNOWN_MOST = 4096
"""How many clients are found without looking for them, since they were found before."""

_NOBODY = NOWHERE, 0

RETRY_AFTER_HEAD = 1
"""Seconds after which a client may come again who holds too much."""


class Admission:
    """One service's. is_open_to_all: everybody comes in as often as he likes, and it need not be asked. denied: clients
    who were turned away since their networks are denied, or not allowed. limited: connections and requests beyond a
    limit."""

    __slots__ = (
        "_clock",
        "_connections",
        "_context",
        "_cost",
        "_filter",
        "_head",
        "_head_cost",
        "_head_most",
        "_ident",
        "_ipv6",
        "_is_first",
        "_known",
        "_limits",
        "_lists",
        "_most",
        "_room",
        "_table",
        "denied",
        "is_open_to_all",
        "limited",
    )

    def __init__(self, context: Context, ident: str) -> None:
        self._context = context
        self._clock = context.monotonic
        self._ident = ident
        self._lists: tuple[Networks, Networks] = Networks(), Networks()
        self._filter: Filter | None = None
        self._table: ClientTable | None = None
        self._limits = self._is_first = False
        self._connections = self._head = 0
        self._cost = self._room = self._most = self._head_cost = self._head_most = 0.0
        self._ipv6 = 128
        self._known: dict[str, tuple[int, int]] = {}  # addresses -> where they count, and whose that place was then
        self.is_open_to_all = True
        self.denied = self.limited = 0

    def follow(self, config: VirtualService, unit: str) -> None:
        """From now on it opens for whom `config` wants. unit: of its scheduler; with CONNECTION the rate is that of
        connections."""
        lists = config.allow, config.deny
        if lists != self._lists:
            self._lists, self._filter = lists, filter_of(*lists)
        number, self._cost = rate_of(config.client_rate)
        self._most = (config.client_burst or number) * self._cost
        self._room = self._most - self._cost
        self._is_first = unit == CONNECTION
        self._connections, self._head = config.client_connections, config.client_head
        self._head_cost = 1 / config.client_head_rate if config.client_head_rate else 0.0
        self._head_most = HEADS_AT_ONCE + (1 << 20) * self._head_cost
        self._ipv6 = config.client_ipv6
        self._known = {}
        self._limits = bool(self._connections or self._cost or self._head or self._head_cost)
        if self._limits and self._table is None:
            self._table = self._context.counters.client_table(self._context.key)
        self.is_open_to_all = self._filter is None and not self._limits

    # Clients.

    def enter(self, peer: Any) -> int | None:
        """Admit a client. Returns the slot where it counts until `leave`; NOWHERE: it counts nowhere; None: its
        connection is to be reset. peer: as accept() tells it."""
        if type(peer) is not tuple:  # a unix socket's clients have no address
            return NOWHERE
        if self._filter is not None and not self._filter.judge(packed_address(peer))[0]:
            self.denied += 1
            self._note_rejection("service {ident}: clients are denied, as {client}", peer)
            return None
        table = self._table
        if not self._limits or table is None:
            return NOWHERE
        now = self._clock()
        place, tag = self._known.get(peer[0], _NOBODY)
        if place == NOWHERE or not table.still(place, tag, now):
            place = self._find(table, peer, now)
            if place == NOWHERE:
                return NOWHERE
        if 0 < self._connections <= table.connections(place) or (
            self._is_first and self._cost and take(table.requests, place, now, self._cost, self._room, self._most)
        ):
            self.limited += 1
            self._note_rejection("service {ident}: clients are beyond their limit, as {client}", peer)
            return None
        table.connect(place, 1)
        return place

    def _find(self, table: ClientTable, peer: Any, now: float) -> int:
        place = table.find(self._name(packed_address(peer)), now)
        if place != NOWHERE:
            if len(self._known) >= KNOWN_MOST:
                self._known.clear()
            self._known[peer[0]] = place, table.tag(place)
        return place

    def leave(self, place: int, held: int) -> None:
        """The connection is over. held: bytes of it that counted until now."""
        table = self._table
        if table is not None:
            table.connect(place, -1)
            if held:
                table.hold(place, -held)

    def _name(self, packed: bytes) -> bytes:
        if len(packed) == 16:
            packed = (int.from_bytes(packed, "big") >> (128 - self._ipv6)).to_bytes(16, "big")
        return self._ident.encode() + b"\0" + packed

    def _note_rejection(self, form: str, peer: Any) -> None:
        log = self._context.log
        log.fault(form, ident=self._ident, client=peer[0])
        log.event(levels.CONNECTION, "{client} turned away by {ident}", client=peer[0], ident=self._ident)

    # What they ask.

    def asks(self, place: int, size: int) -> float:
        """A request has come, with a head of `size` bytes: seconds until it may come again; 0: it may be served."""
        table = self._table
        if table is None:
            return 0.0
        now = self._clock()
        if self._cost:
            wait = take(table.requests, place, now, self._cost, self._room, self._most)
            if wait:
                return wait
        if self._head_cost:
            return take(table.heads, place, now, size * self._head_cost, HEADS_AT_ONCE, self._head_most)
        return 0.0

    def hold(self, place: int, more: int) -> bool:
        """So many bytes more of an unfinished head are held: is that too much?"""
        table = self._table
        if table is None:
            return False
        table.hold(place, more)
        return 0 < self._head < table.held(place)

    # For people.

    def look(self, packed: bytes) -> list[str]:
        """What counts for a client with that address now, a line each."""
        table = self._table
        if table is None or not self._limits:
            return []
        place = table.find(self._name(packed), 0.0, make=False)
        notes = []
        if self._connections:
            have = table.connections(place) if place != NOWHERE else 0
            full = ": one more is reset" if have >= self._connections else ""
            notes.append(f"client has {have} of {self._connections} connections{full}")
        if self._cost:
            full_at = table.requests[place] if place != NOWHERE else 0.0
            wait = min(full_at - self._clock(), self._most) - self._room
            then = "connection is reset" if self._is_first else "request is answered 429"
            notes.append(
                f"client beyond its rate: for {wait:.1f} seconds each {then}" if wait > 0 else "client within its rate"
            )
        return notes
