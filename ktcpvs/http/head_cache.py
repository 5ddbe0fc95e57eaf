"""The head cache of a service: parsed heads, so that a head with the same bytes need not be parsed again.

A cached entry applies only to header lines or heads that are equal byte for byte.
"""

from __future__ import annotations

from typing import Any

from ktcpvs.model.service import VirtualService
from ktcpvs.protocols.forwarding import FIELDS, Forwarding

CLOSE = b"Connection: close\r\n\r\n"
"""The end of a response's head after which the client's connection is closed."""

KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
"""The end of a head for an HTTP/1.0 client that may send another request."""

MAX_CACHED_HEAD = 2048
"""The longest head that is cached, in bytes."""

MAX_HEADS = 1024
"""The most blocks of header lines that are cached for a service."""

MAX_REQUESTS = 2048
"""The most whole requests that are cached for a service without forwarding fields."""

MAX_CACHED_REQUEST = 1024
"""The longest whole request that is cached, in bytes."""


class CachedHead:
    """Header lines of a GET without a body or special requests.

    keep_alive: the client may send another request. minor: False for HTTP/1.0. block: the lines as they are forwarded,
    with the empty line after them.
    """

    __slots__ = ("block", "keep_alive", "minor")

    def __init__(self, keep_alive: bool, minor: bool, block: bytes) -> None:
        self.keep_alive = keep_alive
        self.minor = minor
        self.block = block


class CachedRequest:
    """A request with such header lines.

    data: as it was received. out: as it is sent to any server, in HTTP/1.1. method, target, lines: parts of it.
    keep_alive, minor: as in its CachedHead.
    """

    __slots__ = ("data", "keep_alive", "lines", "method", "minor", "out", "target")

    def __init__(self, data: bytes, groups: tuple[bytes, ...], head: CachedHead) -> None:
        """groups: of the expression that matches a head (protocols.http1.REQUEST)."""
        self.data = data
        line, self.method, self.target, _, self.lines = groups
        self.keep_alive = head.keep_alive
        self.minor = head.minor
        if not head.minor:
            line = b"%b %b HTTP/1.1\r\n" % (self.method, self.target)
        self.out = line + head.block


class CachedResponse:
    """A response to a GET after which the server connection can be reused.

    start: its head as it was received. head, closing, keeping: the head as it is forwarded: usually; if the client's
    connection ends with it; and if an HTTP/1.0 client keeps its connection. total: bytes of the whole response. as_is:
    the head is forwarded unchanged. row: the histogram of such responses (model.latency).
    """

    __slots__ = ("as_is", "closing", "head", "keeping", "row", "start", "total")

    def __init__(self, start: bytes, head: bytes, length: int, row: list[int]) -> None:
        """head: as it is forwarded, without the empty line. length: of the body, in bytes."""
        self.start = start
        self.head = head + b"\r\n"
        self.closing = head + CLOSE
        self.keeping = head + KEEP_ALIVE
        self.total = len(start) + length
        self.row = row
        self.as_is = start == self.head


class HeadCache:
    """The head cache of one service.

    is_enabled: False while every step of a request is logged. heads: header lines, preceded by `0` for HTTP/1.0 and by
    the client's address if it is forwarded -> CachedHead. requests: whole requests -> CachedRequest. head_size,
    uri_size: the limits in force, in bytes. forwarding: the fields about the client that servers get; forwards: whether
    there are any.
    """

    __slots__ = ("forwarding", "forwards", "head_size", "heads", "is_enabled", "requests", "uri_size")

    def __init__(self) -> None:
        self.is_enabled = False
        self.heads: dict[Any, CachedHead] = {}
        self.requests: dict[bytes, CachedRequest] = {}
        self.head_size = self.uri_size = 0
        self.forwarding = Forwarding({})
        self.forwards = False

    def __repr__(self) -> str:
        return f"<HeadCache {len(self.heads)} heads, {len(self.requests)} requests>"

    def configure(self, config: VirtualService, head_size: int, uri_size: int, is_enabled: bool) -> None:
        """Apply changed options or settings, and clear the cache."""
        self.forwarding = Forwarding({name: getattr(config, name) for name in FIELDS})
        self.forwards = bool(self.forwarding)
        self.heads, self.requests = {}, {}
        self.head_size, self.uri_size = head_size, uri_size
        self.is_enabled = is_enabled

    def remember_head(self, key: Any, head: CachedHead) -> None:
        """Cache header lines."""
        if len(self.heads) >= MAX_HEADS:
            self.heads.clear()
        self.heads[key] = head

    def remember_request(self, data: bytes, groups: tuple[bytes, ...], head: CachedHead) -> CachedRequest:
        """Return the request `data` with cached header lines, and cache it too if possible."""
        request = CachedRequest(data, groups, head)
        if len(data) <= MAX_CACHED_REQUEST and not self.forwards:
            if len(self.requests) >= MAX_REQUESTS:
                self.requests.clear()
            self.requests[data] = request
        return request
