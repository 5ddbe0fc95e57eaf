"""The HTTP/2 connections of one service to its servers, and which of them carries a further server connection.

A server that accepts no more streams gets another connection. While one is being made, further requests wait for it
instead of making their own. A server with TLS that chooses HTTP/1.1 in ALPN gets a connection for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from ktcpvs.http.http2_limits import http2_limits
from ktcpvs.http.http2_server_connection import HTTP2ServerConnection
from ktcpvs.http.http2_server_transport import Carrier, HTTP2ServerTransport
from ktcpvs.http.server_connection import ConnectionKeeper, ServerConnection
from ktcpvs.model.destination import Destination
from ktcpvs.model.settings import Settings
from ktcpvs.protocols.http2 import Limits
from ktcpvs.protocols.http2.constants import ALPN
from ktcpvs.runtime.context import Context
from ktcpvs.streams.connector import Connector, HTTP2Failed, OriginOf
from ktcpvs.system import log as levels
from ktcpvs.system.timer_wheel import Timer

CHECK_INTERVAL = 5
"""Seconds between two searches for connections that are idle too long, or silent."""

SETTINGS_TIMEOUT_REASON = "the server has sent no settings within {:g} seconds"


class Connections(ConnectionKeeper, Protocol):
    """All server connections of the service."""

    def connect_alone(
        self, destination: Destination, connector: Connector, origin: OriginOf
    ) -> tuple[ServerConnection, Deferred[Any]]:
        """Make a connection with a descriptor of its own. Return it, and a Deferred that fires when it is open."""


Found = HTTP2ServerConnection | ServerConnection
"""The connection for a request that waits for one: it has room, or is its own and speaks HTTP/1.1."""


class _Waiter:
    """A request that waits for a connection to `destination`. is_moved: it has a server connection, which moves to
    another connection of HTTP/2. ready: fires with what it gets."""

    __slots__ = ("attempt", "connector", "destination", "is_moved", "origin", "ready")

    def __init__(
        self, destination: Destination, connector: Connector, origin: OriginOf, is_moved: bool = False
    ) -> None:
        self.is_moved = is_moved
        self.destination = destination
        self.connector = connector
        self.origin = origin
        self.attempt: _Attempt | None = None
        self.ready: Deferred[Found] = Deferred(lambda _: self._cancelled())

    def _cancelled(self) -> None:
        if self.attempt is not None:
            self.attempt.leave(self)


class _Attempt:
    """An attempt to make one connection. waiters: the requests that wait for it."""

    def __init__(self, keeper: HTTP2ServerConnections, context: Context, first: _Waiter, is_shared: bool) -> None:
        """is_shared: other requests may wait for it too."""
        self._keeper = keeper
        self._context = context
        self._connector = first.connector
        self._origin = first.origin
        self._opening: Deferred[Any] | None = None
        self._connection: ServerConnection | None = None
        self._http2: HTTP2ServerConnection | None = None
        self._timer: Timer | None = None
        self.destination = first.destination
        self.is_shared = is_shared
        self.waiters: list[_Waiter] = []
        self.enter(first)

    def enter(self, waiter: _Waiter) -> None:
        """Let one more request wait."""
        waiter.attempt = self
        self.waiters.append(waiter)

    def leave(self, waiter: _Waiter) -> None:
        """A request waits no longer. Without any the attempt is given up."""
        self.waiters.remove(waiter)
        if not self.waiters:
            self._keeper.attempt_ended(self)
            if self._opening is not None:
                self._opening.cancel()
            elif self._http2 is not None:
                self._stop_timer()
                self._http2.abort()

    def begin(self, connections: Connections) -> None:
        self._connection, opening = connections.connect_alone(self.destination, self._connector, self._origin)
        self._opening = opening
        opening.addCallbacks(self._connected, self._not_connected)

    def _connected(self, _: object) -> None:
        self._opening = None
        connection = self._connection
        assert connection is not None
        if not self.waiters:
            connection.abort()
        elif connection.tls is not None and connection.tls.alpn != ALPN:
            self._keeper.http1_chosen(self, connection)
        else:
            seconds = self._connector.timeout
            self._timer = self._context.wheel.after(
                seconds, lambda: self._too_late(SETTINGS_TIMEOUT_REASON.format(seconds))
            )
            self._http2 = HTTP2ServerConnection(self._context, self._keeper, connection, self._keeper.limits, self)

    def _not_connected(self, why: Failure) -> None:
        self._opening = None
        self._keeper.attempt_failed(self, why)

    def _too_late(self, reason: str) -> None:
        if self._http2 is not None:
            self._http2.fail_opening(reason)
            self._http2.abort()

    def settled(self) -> None:
        self._stop_timer()
        if self._http2 is not None:
            self._keeper.opened(self, self._http2)

    def failed(self, reason: str) -> None:
        self._stop_timer()
        self._keeper.attempt_failed(self, Failure(HTTP2Failed(reason)))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class HTTP2ServerConnections:
    """The HTTP/2 connections of one service."""

    def __init__(self, context: Context, settings: Callable[[], Settings], connections: Connections) -> None:
        """settings: returns those in force. connections: all server connections of the service."""
        self._context = context
        self._settings = settings
        self._connections = connections
        self._open: dict[Destination, list[HTTP2ServerConnection]] = {}
        self._attempts: dict[Destination, list[_Attempt]] = {}  # those that are shared, without empty lists
        self._connectors: dict[Destination, tuple[Connector, OriginOf]] = {}  # that were used last
        self._http1: set[Destination] = set()  # servers that have chosen HTTP/1.1
        self._is_checking = False

    def __repr__(self) -> str:
        return f"<HTTP2ServerConnections {sum(map(len, self._open.values()))} to {len(self._open)} servers>"

    @property
    def limits(self) -> Limits:
        """The limits of a new connection."""
        settings = self._settings()
        return http2_limits(settings, settings.http2_server_streams)

    def connections(self, destination: Destination) -> list[HTTP2ServerConnection]:
        """Return those to a server that accept requests."""
        return self._open.get(destination, [])

    def take(self, destination: Destination) -> ServerConnection | None:
        """Return a further server connection that an open connection carries; None if none has room."""
        found = self._with_room(destination) if self._open else None
        return None if found is None else self._carried(found)

    def connect(self, destination: Destination, connector: Connector, origin: OriginOf) -> Deferred[ServerConnection]:
        """As `ServerConnections.connect`. Fails with HTTP2Failed too."""
        if not connector.is_for_one_client:
            self._connectors[destination] = connector, origin
        waiter = _Waiter(destination, connector, origin)
        self._enter(waiter)
        return waiter.ready.addCallback(self._carried)

    def hand_on(self, connection: ServerConnection) -> bool:
        """Give an idle connection that HTTP/2 carries to the first request that waits for another one to its server.
        Return False if none does."""
        for attempt in self._attempts.get(connection.destination, ()):
            waiter = next((one for one in attempt.waiters if not one.is_moved), None)
            if waiter is not None:
                attempt.leave(waiter)
                waiter.attempt = None
                waiter.ready.callback(connection)
                return True
        return False

    def _with_room(self, destination: Destination) -> HTTP2ServerConnection | None:
        """Return the connection to a server that has room and carries the most: the others can end."""
        found = [connection for connection in self._open.get(destination, ()) if connection.has_room]
        return max(found, key=lambda connection: len(connection.transports)) if found else None

    def _carried(self, found: Found) -> ServerConnection:
        """Return a server connection on what a request has got."""
        if isinstance(found, ServerConnection):
            return found
        connection = ServerConnection(self._connections, found.destination, self._context.wheel)
        connection.is_used = found.is_used
        transport = HTTP2ServerTransport(found)
        transport.stream = connection
        connection.makeConnection(transport)
        if found.is_retired:
            connection.retire()
        return connection

    def _enter(self, waiter: _Waiter) -> None:
        """Give a request a connection, or let it wait for one."""
        destination, connector = waiter.destination, waiter.connector
        may_share = not connector.is_for_one_client
        if may_share:
            found = self._with_room(destination)
            if found is not None:
                waiter.attempt = None
                waiter.ready.callback(found)
                return
            attempts = self._attempts.get(destination)
            if attempts is not None and len(attempts[-1].waiters) < self.limits.max_concurrent_streams:
                attempts[-1].enter(waiter)
                return
        is_shared = may_share and destination not in self._http1
        attempt = _Attempt(self, self._context, waiter, is_shared)
        if is_shared:
            self._attempts.setdefault(destination, []).append(attempt)
        attempt.begin(self._connections)

    # Called by attempts.

    def attempt_ended(self, attempt: _Attempt) -> None:
        """Let no further request wait for it."""
        attempts = self._attempts.get(attempt.destination)
        if attempts is not None and attempt in attempts:
            attempts.remove(attempt)
            if not attempts:
                del self._attempts[attempt.destination]

    def attempt_failed(self, attempt: _Attempt, why: Failure) -> None:
        self.attempt_ended(attempt)
        waiters, attempt.waiters = attempt.waiters, []
        for waiter in waiters:
            waiter.attempt = None
            if not waiter.ready.called:
                waiter.ready.errback(why)

    def http1_chosen(self, attempt: _Attempt, connection: ServerConnection) -> None:
        """The server has chosen HTTP/1.1: `connection` is for one request, and the others make their own."""
        self._http1.add(attempt.destination)
        self._serve(attempt, connection, 1)

    def opened(self, attempt: _Attempt, connection: HTTP2ServerConnection) -> None:
        """A connection can be used."""
        capacity = connection.capacity
        if capacity <= 0:
            self.attempt_failed(attempt, Failure(HTTP2Failed("the server accepts no streams")))
            connection.close()
            return
        if attempt.is_shared:
            self._http1.discard(attempt.destination)
            if not connection.is_retired:
                self._open.setdefault(attempt.destination, []).append(connection)
        if not self._is_checking:
            self._is_checking = True
            self._context.wheel.repeat(CHECK_INTERVAL, self._check)
        self._serve(attempt, connection, capacity)

    def _serve(self, attempt: _Attempt, found: Found, count: int) -> None:
        """Give `count` of the requests that wait what was found; the others wait for another attempt."""
        self.attempt_ended(attempt)
        waiters, attempt.waiters = attempt.waiters, []
        for waiter in waiters:
            waiter.attempt = None
        for number, waiter in enumerate(waiters):
            if waiter.ready.called:
                continue
            if number < count:
                waiter.ready.callback(found)
            else:
                self._enter(waiter)

    # Called by connections.

    def ended(self, connection: HTTP2ServerConnection) -> None:
        open_ones = self._open.get(connection.destination)
        if open_ones is not None and connection in open_ones:
            open_ones.remove(connection)
            if not open_ones:
                del self._open[connection.destination]

    def unused(self, connection: HTTP2ServerConnection) -> None:
        if not self._context.settings.pool_size and not connection.streams:
            connection.close()

    def replace(self, connection: HTTP2ServerConnection) -> Deferred[Carrier]:
        known = self._connectors.get(connection.destination)
        if known is None:
            return fail(HTTP2Failed("the connection was made for one client"))
        waiter = _Waiter(connection.destination, *known, is_moved=True)
        self._enter(waiter)
        return waiter.ready.addCallback(_carrier)

    # Changes.

    def close(self, keep: frozenset[Destination] = frozenset()) -> None:
        """Close the connections to all servers but `keep` that have no request in progress."""
        for connection in [one for to, some in self._open.items() if to not in keep for one in some]:
            if not connection.streams:
                self._step("close an idle connection", connection, connection.close)

    def retire(self, destinations: Collection[Destination]) -> None:
        """Begin nothing more on connections to these servers: how they are connected to has changed."""
        for destination in destinations:
            self._http1.discard(destination)
            self._attempts.pop(destination, None)
            self._connectors.pop(destination, None)
            for connection in list(self._open.get(destination, ())):
                self._step("retire a connection", connection, connection.retire)

    def _step(self, what: str, connection: HTTP2ServerConnection, call: Callable[[], None]) -> None:
        self._context.steps.run(f"{what} of HTTP/2 to {connection.destination.address}", call)

    def _check(self) -> bool:
        """Close connections that are idle too long, and ping others that are idle. Return True while there are any."""
        for connection in [one for some in self._open.values() for one in some]:
            if not connection.streams:
                self._step("check a connection", connection, partial(self._check_idle, connection))
        self._is_checking = bool(self._open)
        return self._is_checking

    def _check_idle(self, connection: HTTP2ServerConnection) -> None:
        settings, now = self._settings(), self._context.wheel.now
        interval, silence = settings.http2_ping, now - connection.last_heard
        if now - connection.idle_since >= settings.keepalive_timeout:
            connection.close()
        elif interval and connection.is_pinged and silence >= 2 * interval:
            form = "{server}: an idle connection of HTTP/2 does not answer a PING"
            self._context.log.event(levels.NON_FATAL, form, server=connection.destination.address)
            connection.abort()
        elif interval and not connection.is_pinged and silence >= interval:
            connection.ping()


def _carrier(found: Found) -> Carrier:
    """Return the connection that a request can be moved to. Raises HTTP2Failed if the server speaks HTTP/1.1 now."""
    if isinstance(found, ServerConnection):
        found.close()
        raise HTTP2Failed("the server has chosen HTTP/1.1")
    return found
