"""What is known of messages because one like them was read before: then they need not be read again.

Nothing here is a guess: header lines and heads are compared byte for byte.
"""

from __future__ import annotations

CLOSE = b"Connection: close\r\n\r\n"
"""The end of the head of a response with which the client's connection ends."""

KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
"""The end of a head for a client of HTTP/1.0 that may send another request."""

REMEMBERED = 2048
"""The longest head of which it is remembered what it says, in bytes."""

LINES_MAX = 1024
"""For how many different header lines a service remembers what they say."""

REQUESTS_MAX = 2048
"""How many whole requests a service remembers, where servers are told nothing of clients."""

REQUEST_REMEMBERED = 1024
"""The longest such request, in bytes."""


class CachedHead:
    """Header lines of a GET that has no body and asks for nothing special.

    keep_alive: the client may send another request. minor: False for HTTP/1.0. block: how they go on, with the empty
    line behind them.
    """

    __slots__ = ("block", "keep_alive", "minor")

    def __init__(self, keep_alive: bool, minor: bool, block: bytes) -> None:
        self.keep_alive = keep_alive
        self.minor = minor
        self.block = block


class CachedRequest:
    """A request as it came, with such lines. out: as it goes on, to any server, in HTTP/1.1. method, target, lines:
    what it says. keep_alive, minor: as of its lines."""

    __slots__ = ("data", "keep_alive", "lines", "method", "minor", "out", "target")

    def __init__(self, data: bytes, groups: tuple[bytes, ...], known: CachedHead) -> None:
        """groups: of the expression that recognises a head (protocols.messages)."""
        self.data = data
        line, self.method, self.target, _, self.lines = groups
        self.keep_alive = known.keep_alive
        self.minor = known.minor
        if not known.minor:
            line = b"%b %b HTTP/1.1\r\n" % (self.method, self.target)
        self.out = line + known.block


class CachedResponse:
    """An answer to a GET, after which the server's connection may be used again.

    start: its head as it came. head, closing, keeping: as it goes on, so if the client's connection ends with it, and
    so if an HTTP/1.0 client keeps its own. total: bytes of the whole answer. as_is: it goes on as it came. row: where
    such answers are counted (model.latency).
    """

    __slots__ = ("as_is", "closing", "head", "keeping", "row", "start", "total")

    def __init__(self, start: bytes, head: bytes, length: int, row: list[int]) -> None:
        """head: as it goes on, but for the empty line. length: of the body."""
        self.start = start
        self.head = head + b"\r\n"
        self.closing = head + CLOSE
        self.keeping = head + KEEP_ALIVE
        self.total = len(start) + length
        self.row = row
        self.as_is = start == self.head
