"""The server connections of a service that selects per request: those in use, and the idle ones in a pool."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.http.http2_server_connections import HTTP2ServerConnections
from ktcpvs.http.pool import Pool
from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.model.destination import Destination
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors, StreamDescriptors
from ktcpvs.streams.connector import Connector, OriginOf

SWEEP_INTERVAL = 5
"""Seconds between two searches for connections that have been idle too long."""


MAX_CARRIED = 65536
"""The most idle connections to one server that HTTP/2 connections carry: more than their streams allow."""


class ServerConnections:
    """The server connections of one service: those in use, and the idle ones in `pool`.

    Those for clients of HTTP/1, each of which has a descriptor reserved for its server connection.
    L{ktcpvs.http.stream_server_connections.StreamServerConnections} are for streams of HTTP/2.
    """

    def __init__(self, context: Context, settings: Callable[[], Settings] | None = None) -> None:
        """settings: returns those in force; None: those of the whole switch."""
        self._context = context
        self._settings = settings or (lambda: context.settings)
        self._descriptors: Descriptors | StreamDescriptors = context.descriptors
        self.pool: Pool[ServerConnection] = Pool()
        self._is_sweeping = False
        self._open: set[ServerConnection] = set()  # each has a descriptor
        self._http2 = HTTP2ServerConnections(context, self._settings, self)
        context.descriptors.pools.add(self)

    def __repr__(self) -> str:
        return f"<ServerConnections {self.open} open, {self.pool!r}>"

    @property
    def open(self) -> int:
        """The number of their descriptors, with those of connections that are being established."""
        return len(self._open)

    @property
    def http2(self) -> HTTP2ServerConnections:
        """Those that speak HTTP/2."""
        return self._http2

    def take(self, destination: Destination, *, is_repeatable: bool) -> ServerConnection | None:
        """Return an idle connection to `destination`, or a further one on a connection of HTTP/2 that has room; None
        without one.

        is_repeatable: False for a request that cannot be sent again: it gets no connection on which unread data or a
        FIN of the server waits.
        """
        while (connection := self.pool.take(destination)) is not None:
            if is_repeatable or not connection.has_input():
                return connection
            connection.close()
        return self._http2.take(destination)

    def put(self, connection: ServerConnection) -> None:
        """Keep an idle connection, or close it if `pool_size` of them are kept already.

        Connections that HTTP/2 carries have no descriptor, and the streams that their server allows limit them. So all
        of them are kept, unless `pool_size` is 0: otherwise each request beyond it would make one.
        """
        connection.exchange = None
        connection.is_used = True
        context = self._context
        size = context.settings.pool_size
        if size and connection not in self._open:
            size = MAX_CARRIED
        surplus = self.pool.put(connection, context.wheel.now, size)
        if surplus is not None:
            self._not_kept(surplus)
        elif not self._is_sweeping:
            self._is_sweeping = True
            context.wheel.repeat(SWEEP_INTERVAL, self._sweep)

    def _not_kept(self, connection: ServerConnection) -> None:
        """The pool has no room for an idle connection."""
        connection.close()

    def connect(self, destination: Destination, connector: Connector, origin: OriginOf) -> Deferred[ServerConnection]:
        """Connect to `destination`; fires with the connection when it is open.

        origin: returns the client. A connection that is told its client serves one exchange.
        """
        if connector.is_http2:
            return self._http2.connect(destination, connector, origin)
        connection = self._new(destination, connector)
        return self._begin(connection, connector, origin, not connector.is_for_one_client)

    def connect_alone(
        self, destination: Destination, connector: Connector, origin: OriginOf
    ) -> tuple[ServerConnection, Deferred[Any]]:
        """As `connect`, with a descriptor of its own, whatever it speaks. Return the connection too."""
        connection = self._new(destination, connector)
        return connection, self._begin(connection, connector, origin, False)

    def _new(self, destination: Destination, connector: Connector) -> ServerConnection:
        connection = ServerConnection(self, destination, self._context.wheel)
        if connector.is_for_one_client:
            connection.retire()
        return connection

    def _begin(
        self, connection: ServerConnection, connector: Connector, origin: OriginOf, may_be_kept: bool
    ) -> Deferred[Any]:
        """Begin to connect; fires with the connection. may_be_kept: another one would do that becomes idle."""
        self._descriptors.take_server()
        self._open.add(connection)
        return connector.connect_stream(connection, origin).addErrback(self._not_connected, connection)

    def _not_connected(self, why: Failure, connection: ServerConnection) -> Failure:
        self.closed(connection)
        return why

    def close(self, keep: frozenset[Destination] = frozenset()) -> None:
        """Close the idle connections to all servers but `keep`."""
        self._close_all(self.pool.drain(keep))
        self._http2.close(keep)

    def retire(self, destinations: Collection[Destination]) -> None:
        """Close the idle connections to these servers, and keep none that is in use or being made: an edit has deleted
        them, or changed how they are connected to. So requests need not compare connectors."""
        for connection in self._open:
            if connection.destination in destinations:
                connection.retire()
        self._http2.retire(destinations)
        self._close_all(self.pool.drain(frozenset(self.pool.kept).difference(destinations)))

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
        if connection in self._open:  # else it is carried by one that is
            self._open.discard(connection)
            self._descriptors.give_server()

    def close_later(self, connection: ServerConnection) -> None:
        connection.timer = self._context.wheel.after(self._context.settings.linger_timeout, connection.abort)

    def call_later(self, call: Callable[[], object]) -> None:
        self._context.reactor.callLater(0, call)
