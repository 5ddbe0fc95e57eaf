"""Admission control: allow and deny lists, and limits for each client address.

It decides as soon as the client's address is known, which is right after accept, before anything is read or allocated
for it; that of a client behind a proxy comes in a header of the PROXY protocol. Limits on requests are checked again
for each request.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from ktcpvs.dispatch.trusted_proxies import TrustedProxies
from ktcpvs.interfaces import CONNECTION
from ktcpvs.model.clients import NOWHERE, ClientTable, take
from ktcpvs.model.filter import Filter, filter_of
from ktcpvs.model.network import Networks
from ktcpvs.model.options import rate_of
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.system import log as levels
from ktcpvs.system.sockets import packed_address

HEAD_BURST = 1.0
"""The burst of head bytes that a client may send at once, in seconds at its rate; one more head may follow."""

MAX_CACHED_CLIENTS = 4096
"""The most client addresses whose slots are cached."""

DENIED = "the client that a trusted proxy tells is in a network of deny"
"""The reason why such a request gets status 403."""

_UNKNOWN = NOWHERE, 0

RETRY_AFTER_HEAD = 1
"""Retry-After, in seconds, for a client with too many bytes of unfinished heads."""


class Admission:
    """The admission control of one service. is_open_to_all: the service has neither lists nor limits, so callers may
    skip `enter`. denied: the number of clients rejected by the lists. limited: the number of connections and requests
    rejected by a limit."""

    __slots__ = (
        "_cached_slots",
        "_clock",
        "_connections",
        "_context",
        "_cost",
        "_denied_clients",
        "_filter",
        "_head",
        "_head_cost",
        "_head_most",
        "_ident",
        "_ipv6",
        "_is_first",
        "_limits",
        "_lists",
        "_most",
        "_proxies",
        "_room",
        "_table",
        "denied",
        "is_open_to_all",
        "limited",
    )

    def __init__(self, context: Context, ident: str, proxies: TrustedProxies | None = None) -> None:
        """proxies: trusted ones; None: there are none."""
        self._context = context
        self._clock = context.monotonic
        self._ident = ident
        self._proxies = proxies or TrustedProxies()
        self._lists: tuple[Networks, Networks] = Networks(), Networks()
        self._filter: Filter | None = None
        self._table: ClientTable | None = None
        self._limits = self._is_first = False
        self._connections = self._head = 0
        self._cost = self._room = self._most = self._head_cost = self._head_most = 0.0
        self._ipv6 = 128
        self._cached_slots: dict[str, tuple[int, int]] = {}  # address -> slot, and the tag of its client
        self._denied_clients: dict[str, bool] = {}  # address that a trusted proxy has told -> whether `deny` names it
        self.is_open_to_all = True
        self.denied = self.limited = 0

    def configure(self, config: VirtualService, unit: str) -> None:
        """Apply the lists and limits of `config`. unit: of its scheduler; with CONNECTION, the rate limits
        connections."""
        lists = config.allow, config.deny
        if lists != self._lists:
            self._lists, self._filter = lists, filter_of(*lists)
            self._denied_clients = {}
        number, self._cost = rate_of(config.client_rate)
        self._most = (config.client_burst or number) * self._cost
        self._room = self._most - self._cost
        self._is_first = unit == CONNECTION
        self._connections, self._head = config.client_connections, config.client_head
        self._head_cost = 1 / config.client_head_rate if config.client_head_rate else 0.0
        self._head_most = HEAD_BURST + (1 << 20) * self._head_cost
        self._ipv6 = config.client_ipv6
        self._cached_slots = {}
        self._limits = bool(self._connections or self._cost or self._head or self._head_cost)
        if self._limits and self._table is None:
            self._table = self._context.counters.client_table(self._context.key)
        self.is_open_to_all = self._filter is None and not self._limits

    # Clients.

    @property
    def limits_requests(self) -> bool:
        """Whether there are limits that `wait_time` checks."""
        return self._table is not None and bool(self._cost or self._head_cost)

    def enter(self, peer: Any) -> int | None:
        """Admit a client. Return the slot where it counts until `leave`; NOWHERE: it is not counted; None: it is
        rejected, and its connection must be reset. peer: as returned by accept(). Connections of
        trusted proxies belong to many clients and are not counted."""
        if type(peer) is not tuple:  # clients of a unix socket have no address
            return NOWHERE
        if self._filter is not None and not self._filter.judge(packed_address(peer))[0]:
            self.denied += 1
            self._note_rejection("service {ident}: clients rejected by allow and deny, for example {client}", peer)
            return None
        table = self._table
        if not self._limits or table is None or self._proxies.trusts(peer[0]):
            return NOWHERE
        now = self._clock()
        slot = self._slot(table, peer, now)
        if slot == NOWHERE:
            return NOWHERE
        if 0 < self._connections <= table.connections(slot) or (
            self._is_first and self._cost and take(table.requests, slot, now, self._cost, self._room, self._most)
        ):
            self.limited += 1
            self._note_rejection("service {ident}: clients rejected by client limits, for example {client}", peer)
            return None
        table.connect(slot, 1)
        return slot

    def denies(self, client: str) -> bool:
        """Return whether `deny` names a client that a trusted proxy tells; `allow` says who may connect. client: its IP
        address; "": it is unknown, and in no network."""
        if self._filter is None or not self._lists[1] or not client:
            return False
        found = self._denied_clients.get(client)
        if found is None:
            if len(self._denied_clients) >= MAX_CACHED_CLIENTS:
                self._denied_clients.clear()
            allowed, network = self._filter.judge(ipaddress.ip_address(client.partition("%")[0]).packed)
            found = self._denied_clients[client] = network is not None and not allowed
        return found

    def slot_of(self, client: str) -> int:
        """Return the slot of a client that a trusted proxy tells; NOWHERE: it is not counted. client: its IP address;
        "": it is unknown, and all such clients count as one."""
        table = self._table
        if table is None:
            return NOWHERE
        peer = () if not client else (client, 0, 0, 0) if ":" in client else (client, 0)
        return self._slot(table, peer, self._clock())

    def _slot(self, table: ClientTable, peer: Any, now: float) -> int:
        """Return the slot of a client. peer: as returned by accept(); empty: it is unknown."""
        if not peer:
            return table.find(self._name(b""), now)
        slot, tag = self._cached_slots.get(peer[0], _UNKNOWN)
        if slot != NOWHERE and table.still(slot, tag, now):
            return slot
        slot = table.find(self._name(packed_address(peer)), now)
        if slot != NOWHERE:
            if len(self._cached_slots) >= MAX_CACHED_CLIENTS:
                self._cached_slots.clear()
            self._cached_slots[peer[0]] = slot, table.tag(slot)
        return slot

    def leave(self, slot: int, held: int) -> None:
        """Stop counting a connection that is over. held: its bytes of unfinished heads that are still counted."""
        table = self._table
        if table is not None:
            table.connect(slot, -1)
            if held:
                table.hold(slot, -held)

    def _name(self, packed: bytes) -> bytes:
        if len(packed) == 16:
            packed = (int.from_bytes(packed, "big") >> (128 - self._ipv6)).to_bytes(16, "big")
        return self._ident.encode() + b"\0" + packed

    def _note_rejection(self, form: str, peer: Any) -> None:
        log = self._context.log
        log.fault(form, ident=self._ident, client=peer[0])
        log.event(levels.CONNECTION, "{client} rejected by {ident}", client=peer[0], ident=self._ident)

    # Requests.

    def wait_time(self, slot: int, size: int) -> float:
        """Count a request with a head of `size` bytes. Return 0, or the seconds until the client may send it; then it
        is not counted."""
        table = self._table
        if table is None:
            return 0.0
        now = self._clock()
        if self._cost:
            wait = take(table.requests, slot, now, self._cost, self._room, self._most)
            if wait:
                return wait
        if self._head_cost:
            return take(table.heads, slot, now, size * self._head_cost, HEAD_BURST, self._head_most)
        return 0.0

    def hold(self, slot: int, more: int) -> bool:
        """Count `more` bytes of an unfinished head. Return whether the client now exceeds its limit."""
        table = self._table
        if table is None:
            return False
        table.hold(slot, more)
        return 0 < self._head < table.held(slot)

    # For --explain.

    def describe(self, packed: bytes) -> list[str]:
        """Describe the current counts of the client with that address, a line each."""
        table = self._table
        if table is None or not self._limits:
            return []
        slot = table.find(self._name(packed), 0.0, make=False)
        notes = []
        if self._connections:
            have = table.connections(slot) if slot != NOWHERE else 0
            full = ": the next one is reset" if have >= self._connections else ""
            notes.append(f"client has {have} of {self._connections} connections{full}")
        if self._cost:
            full_at = table.requests[slot] if slot != NOWHERE else 0.0
            wait = min(full_at - self._clock(), self._most) - self._room
            then = "connections are reset" if self._is_first else "requests get status 429"
            notes.append(
                f"client exceeds its rate: {then} for {wait:.1f} more seconds" if wait > 0 else "client within its rate"
            )
        if self._head:
            held = table.held(slot) if slot != NOWHERE else 0
            notes.append(f"client has {held} of {self._head} bytes of incomplete heads")
        if self._head_cost:
            full_at = table.heads[slot] if slot != NOWHERE else 0.0
            wait = min(full_at - self._clock(), self._head_most) - HEAD_BURST
            notes.append(
                f"client exceeds its rate of heads: requests get status 429 for {wait:.1f} more seconds"
                if wait > 0
                else "client within its rate of heads"
            )
        return notes
