"""A server connection of a service that selects per request: it serves one exchange, or is idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ktcpvs.http.fast_path import server_receiver
from ktcpvs.http.head_cache import CachedResponse
from ktcpvs.model.destination import Destination
from ktcpvs.streams.stream import Stream
from ktcpvs.system.timer_wheel import TimerWheel


class ServerConnectionUser(Protocol):
    """The exchange that a server connection serves."""

    def server_data(self, data: bytes) -> None:
        """The server has sent `data`."""

    def server_ended(self) -> None:
        """The server has sent a FIN."""

    def server_lost(self, clean: bool) -> None:
        """The connection is gone. clean: False after a reset or another error."""

    def hold_client(self, held: bool) -> None:
        """Stop reading the client while the server's buffer is full."""

    def resume_server(self) -> None:
        """Read the server again, unless the client is full."""


class ConnectionKeeper(Protocol):
    """The part of a service that a server connection uses."""

    def forget(self, connection: ServerConnection) -> None:
        """An idle connection is closing."""

    def closed(self, connection: ServerConnection) -> None:
        """A connection is closed."""

    def close_later(self, connection: ServerConnection) -> None:
        """Reset a closing connection if its server does not read what is buffered."""

    def call_later(self, call: Callable[[], object]) -> None:
        """Call `call` in the next turn of the reactor."""


class ServerConnection(Stream):
    """A connection to `destination`.

    exchange: the exchange that it serves; None while idle. is_used: it has served an exchange before. idle_since: the
    tick when it became idle. cached_response: its last response, if an equal one can be forwarded as a whole.
    is_reusable: False once it is unclear where the next response begins, or an edit has changed how connections to the
    server are made; always False if the server was told for which client it is.
    """

    __slots__ = (
        "_keeper", "_unread", "_wheel", "cached_response", "destination", "exchange", "idle_since", "is_reusable",
        "is_used",
    )  # fmt: skip

    def __init__(self, keeper: ConnectionKeeper, destination: Destination, wheel: TimerWheel) -> None:
        super().__init__()
        self._wheel = wheel
        self.destination = destination
        self.exchange: ServerConnectionUser | None = None
        self.is_used = False
        self.cached_response: CachedResponse | None = None
        self.is_reusable = True
        self.idle_since = 0
        self._keeper = keeper
        self._unread = b""  # received, and read in the next turn

    def __repr__(self) -> str:
        state = "closed" if not self.is_open else "idle" if self.exchange is None else "in use"
        return f"<ServerConnection {self.destination.address} {state}>"

    def connectionMade(self) -> None:
        self.dataReceived = server_receiver(self, self._wheel)
        self.lost = self._gone
        self.ended = self._peer_ended
        self.is_open = True
        self.set_backpressure(self)
        super().connectionMade()

    def resume(self) -> None:
        if not self._unread:
            super().resume()

    def read_later(self, data: bytes) -> None:
        """Read `data` in the next turn, so that other connections have theirs; the server is not read meanwhile."""
        self._unread += data
        self.pause()
        self._keeper.call_later(self._read_now)

    def _read_now(self) -> None:
        data, self._unread = self._unread, b""
        if self.exchange is not None and data:
            self.exchange.resume_server()
            self.exchange.server_data(data)

    def receive(self, data: bytes) -> None:
        """The server has sent `data`. `http/fast_path.py` does the same for plain responses."""
        exchange = self.exchange
        if exchange is None:
            self.close()  # a response without a request
            self._keeper.forget(self)
        else:
            exchange.server_data(data)

    def _peer_ended(self) -> None:
        if self.exchange is None:
            self._keeper.forget(self)
            self.close()
        else:
            self.exchange.server_ended()

    def _gone(self, clean: bool) -> None:
        self._keeper.closed(self)
        while self._unread and self.exchange is not None:
            self._read_now()
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            self._keeper.forget(self)
        else:
            exchange.server_lost(clean)

    def closed(self) -> None:
        """The connection is closed: tell its keeper. For an owner that has set `lost`."""
        self._keeper.closed(self)

    def retire(self) -> None:
        """Serve no further exchange. Without a cached response, the current one is not put back by the fast path."""
        self.is_reusable = False
        self.cached_response = None

    def close(self) -> bool:
        """Send what is buffered, then close; reset the connection if the server does not read it within
        `linger_timeout` seconds."""
        is_closing = super().close()
        if not is_closing and self.is_open:
            self._keeper.close_later(self)
        return is_closing

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        if self.exchange is not None:
            self.exchange.hold_client(True)

    def resume_writing(self) -> None:
        """The transport's buffer has room again."""
        if self.exchange is not None:
            self.exchange.hold_client(False)
