"""Trusted proxies: whose clients a service finds in the header fields that they add."""

from __future__ import annotations

from ktcpvs.interfaces import EACH_REQUEST, FIRST_REQUEST
from ktcpvs.model.filter import Filter, filter_of
from ktcpvs.model.network import Networks
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols.forwarded_client import X_FORWARDED_FOR, forwarded_client

MAX_CACHED_ADDRESSES = 4096
"""The most addresses of which it is cached whether they are trusted."""


def peer_of(client_name: str) -> str:
    """Return the address of a connection's peer. client_name: with its port; "" for a client on a unix socket."""
    return client_name.rpartition(":")[0].strip("[]")


class TrustedProxies:
    """The trusted proxies of one service. is_used: there are some, and the scheduler reads requests."""

    __slots__ = ("_cached", "_filter", "_header", "_networks", "is_used")

    def __init__(self) -> None:
        self._networks = Networks()
        self._filter: Filter | None = None
        self._header = X_FORWARDED_FOR
        self._cached: dict[str, bool] = {}
        self.is_used = False

    def configure(self, config: VirtualService, unit: str) -> None:
        """Apply a configuration. unit: of the service's scheduler."""
        if config.trusted_proxies != self._networks:
            self._cached = {}
            self._networks, self._filter = config.trusted_proxies, filter_of(config.trusted_proxies, Networks())
        self._header = config.trusted_header
        self.is_used = self._filter is not None and unit in (FIRST_REQUEST, EACH_REQUEST)

    def trusts(self, address: str) -> bool:
        """Return whether an address is that of a trusted proxy. address: "" for a unix socket, which counts as one:
        its permissions say who may connect."""
        if not self.is_used or self._filter is None:
            return False
        if not address:
            return True
        found = self._cached.get(address)
        if found is None:
            if len(self._cached) >= MAX_CACHED_ADDRESSES:
                self._cached.clear()
            found = self._cached[address] = self._filter.allows(address)
        return found

    def client_of(self, peer: str, lines: bytes) -> str:
        """Return the client's address for a request. peer: that of the connection. lines: the request's header lines.
        Raises BadRequest."""
        return forwarded_client(peer, lines, self._header, self.trusts) if self.trusts(peer) else peer
