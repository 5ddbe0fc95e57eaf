"""Limits of requests by rule: a token bucket for each client, or for each value of a header field or cookie."""

from __future__ import annotations

import ipaddress
import math

from ktcpvs.model.clients import NOWHERE, ClientTable, take
from ktcpvs.model.modifiers import BY_COOKIE, BY_HEADER, Rate
from ktcpvs.model.options import rate_of
from ktcpvs.model.request_values import header_values
from ktcpvs.model.scheduling import Request
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context

_OF_CLIENT, _OF_VALUE = b"c", b"v"
"""The kinds of buckets: an address and a value never share one."""


class RuleRates:
    """The rates of one service's rules. The buckets are slots of the table of clients, which all processes share."""

    __slots__ = ("_context", "_ident", "_ipv6", "_table")

    def __init__(self, context: Context, ident: str) -> None:
        self._context = context
        self._ident = ident.encode()
        self._ipv6 = 128
        self._table: ClientTable | None = None

    def configure(self, config: VirtualService) -> None:
        """Apply a configuration."""
        self._ipv6 = config.client_ipv6
        if self._table is None and any(rule.modifiers.rate is not None for rule in config.rules):
            self._table = self._context.counters.client_table(self._context.key)

    def wait_time(self, rate: Rate, rule: str, request: Request) -> int:
        """Count a request. rule: its label. Return 0, or the seconds until such a request may come; then it is not
        counted."""
        table, now = self._table, self._context.monotonic()
        if table is None:
            return 0
        slot = table.find(self._name(rate, rule, request), now)
        if slot == NOWHERE:
            return 0
        number, cost = rate_of(rate.rate)
        most = (rate.burst or number) * cost
        return math.ceil(take(table.requests, slot, now, cost, most - cost, most))

    def describe(self, rate: Rate, rule: str, request: Request) -> str:
        """Return how much of a rate such requests have used, in words, for --explain. rule: its label."""
        number, cost = rate_of(rate.rate)
        burst = rate.burst or number
        table, now = self._table, self._context.monotonic()
        slot = NOWHERE if table is None else table.find(self._name(rate, rule, request), 0.0, make=False)
        used = 0.0 if table is None or slot == NOWHERE else min(max(table.requests[slot] - now, 0.0), burst * cost)
        wait = used - (burst - 1) * cost
        if wait > 0:
            return f"rate {rate} is used up: such requests get status 429 for {wait:.1f} more seconds"
        return f"rate {rate}: {math.ceil(used / cost)} of {burst} requests are used"

    def _name(self, rate: Rate, rule: str, request: Request) -> bytes:
        """Return the name of the bucket that counts a request."""
        return b"%b\0rule\0%b\0%b" % (self._ident, rule.encode(), self._key(rate, request))

    def _key(self, rate: Rate, request: Request) -> bytes:
        """Return what is limited: a request without the field or cookie counts for its client."""
        value = None
        if rate.by == BY_HEADER:
            name = rate.name.lower().encode()
            value = b",".join([value for _, value in header_values(request.lines, (name,))])
        elif rate.by == BY_COOKIE:
            name = rate.name.encode()
            value = b";".join([value for known, value in request.cookies if known == name])
        return _OF_VALUE + value if value else _OF_CLIENT + self._client(request.client)

    def _client(self, client: str) -> bytes:
        if not client:
            return b""
        address = ipaddress.ip_address(client.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address):
            return (int(address) >> (128 - self._ipv6)).to_bytes(16, "big")
        return address.packed
