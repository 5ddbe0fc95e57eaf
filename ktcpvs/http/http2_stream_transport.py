"""The base of transports that are one stream of an HTTP/2 connection, and so have no socket."""

from __future__ import annotations

from typing import Any

from ktcpvs.streams.contract import NotDetachable
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import StreamTransport

MAX_BUFFERED = 64 << 10
"""Bytes that wait for the peer's window, above which the other side is not read: the server of a response, the client
of a request."""


class HTTP2StreamTransport(StreamTransport):
    """One stream of an HTTP/2 connection, towards a client or a server.

    stream: of its owner; None once it is over.
    """

    __slots__ = ()

    stream: Stream | None

    def __init__(self) -> None:
        self._is_full = False
        self._writer = None

    def _apply_backpressure(self) -> None:
        """Pause or resume the writer, by what waits to be sent."""
        size = self.unsent()
        if size > MAX_BUFFERED and not self._is_full:
            self._set_full(True)
        elif self._is_full and size <= MAX_BUFFERED >> 2:
            self._set_full(False)

    def is_gone(self) -> bool:
        return self.stream is None

    def take_input(self, size: int) -> bytes | None:
        return None

    def detach_obstacle(self) -> NotDetachable | None:
        return NotDetachable.NO_SOCKET

    def release(self) -> None:
        """Raise: there is no socket."""
        raise RuntimeError("a stream of HTTP/2 cannot be detached")

    def getHandle(self) -> Any:
        """None: there is no socket."""
