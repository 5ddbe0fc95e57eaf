"""Server connections of a service that selects per request: each serves one exchange, or is idle."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.http.fast_path import server_receiver
from ktcpvs.http.head_cache import CachedResponse
from ktcpvs.http.pool import Pool
from ktcpvs.model.destination import Destination
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.streams.connector import Connector, OriginOf
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.timer_wheel import TimerWheel

SWEEP_INTERVAL = 5
"""Seconds between two searches for connections that have been idle too long."""


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


class ServerConnections:
    """All server connections of one service: those in use, and the idle ones in `pool`."""

    def __init__(self, context: Context, settings: Callable[[], Settings] | None = None) -> None:
        """settings: returns those in force; None: those of the whole switch."""
        self._context = context
        self._settings = settings or (lambda: context.settings)
        self.pool: Pool[ServerConnection] = Pool()
        self._is_sweeping = False
        self._open: set[ServerConnection] = set()
        context.descriptors.pools.add(self)

    def __repr__(self) -> str:
        return f"<ServerConnections {self.open} open, {self.pool!r}>"

    @property
    def open(self) -> int:
        """Their number, including those being established."""
        return len(self._open)

    def take(self, destination: Destination, *, is_repeatable: bool) -> ServerConnection | None:
        """Return an idle connection to `destination`; None without one.

        is_repeatable: False for a request that cannot be sent again: it gets no connection on which unread data or a
        FIN of the server waits.
        """
        while (connection := self.pool.take(destination)) is not None:
            if is_repeatable or not connection.has_input():
                return connection
            connection.close()
        return None

    def put(self, connection: ServerConnection) -> None:
        """Keep an idle connection, or close it if `pool_size` of them are kept already."""
        connection.exchange = None
        connection.is_used = True
        context = self._context
        surplus = self.pool.put(connection, context.wheel.now, context.settings.pool_size)
        if surplus is not None:
            surplus.close()
        elif not self._is_sweeping:
            self._is_sweeping = True
            context.wheel.repeat(SWEEP_INTERVAL, self._sweep)

    def connect(
        self, destination: Destination, connector: Connector, origin: OriginOf, poller: SocketPoller | None = None
    ) -> tuple[ServerConnection, Deferred[Stream]]:
        """Connect to `destination`. Return the connection, and a Deferred that fires when it is open.

        origin: returns the client. A connection that is told its client serves one exchange. poller: as for
        `Connector.begin`.
        """
        self._context.descriptors.take_server()
        connection = ServerConnection(self, destination, self._context.wheel)
        if connector.is_for_one_client:
            connection.retire()
        self._open.add(connection)
        connected: Deferred[Stream] = Deferred(lambda _: attempt.cancel())
        attempt = connector.begin(connection, connected.callback, connected.errback, poller, origin)
        return connection, connected.addErrback(self._not_connected, connection)

    def _not_connected(self, why: Failure, connection: ServerConnection) -> Failure:
        self.closed(connection)
        return why

    def close(self, keep: frozenset[Destination] = frozenset()) -> None:
        """Close the idle connections to all servers but `keep`."""
        self._close_all(self.pool.drain(keep))

    def retire(self, destinations: Collection[Destination]) -> None:
        """Close the idle connections to these servers, and keep none that is in use or being made: an edit has deleted
        them, or changed how they are connected to. So requests need not compare connectors."""
        for connection in self._open:
            if connection.destination in destinations:
                connection.retire()
        self.close(frozenset(self.pool.kept).difference(destinations))

    def _close_all(self, connections: list[ServerConnection]) -> None:
        for connection in connections:  # an exception must not leave the others open, which have left the pool
            self._context.steps.run(f"close an idle connection to {connection.destination.address}", connection.close)

    def _sweep(self) -> bool:
        """Close connections that have been idle too long. Return True while any are kept."""
        self._close_all(self.pool.expire(self._context.wheel.now - self._settings().keepalive_timeout))
        self._is_sweeping = bool(self.pool)
        return self._is_sweeping

    # Called by connections.

    def forget(self, connection: ServerConnection) -> None:
        self.pool.discard(connection)

    def closed(self, connection: ServerConnection) -> None:
        self._open.discard(connection)
        self._context.descriptors.give_server()

    def close_later(self, connection: ServerConnection) -> None:
        connection.timer = self._context.wheel.after(self._context.settings.linger_timeout, connection.abort)

    def call_later(self, call: Callable[[], object]) -> None:
        self._context.reactor.callLater(0, call)
