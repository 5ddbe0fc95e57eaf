"""Preconnections: connections to servers that are open before a client needs them (the option `preconnect`).

A client whose server has one waits for no connect. They are for services whose clients are relayed as a whole: each
serves one client, and another one is made in its place. Their streams are paused, so that what a server sends before it
has a client, such as a greeting, waits in the kernel for that client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from twisted.python.failure import Failure

from ktcpvs.dispatch.service_context import ServiceContext, no_preconnection
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model.destination import Destination
from ktcpvs.runtime.context import Context
from ktcpvs.streams.connect import Connecting
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.system import log as levels
from ktcpvs.system.network_errors import network_reason

CHECK_INTERVAL = 0
"""Seconds between two checks: the next tick of the wheel."""

MAX_ATTEMPTS_PER_CHECK = 256
"""The most connections that a service begins in one check, so that many servers do not hold up its clients."""


class Preconnection:
    """One connection to `destination`: under way, idle, or closing.

    stream: its stream, once it is open; None again when a client has it or it is closed. since: the tick when it was
    opened. attempt: None unless it is under way.
    """

    __slots__ = ("_owner", "attempt", "destination", "since", "stream")

    def __init__(self, owner: Preconnections, destination: Destination) -> None:
        self._owner = owner
        self.destination = destination
        self.stream: Stream | None = None
        self.since = 0
        self.attempt: Connecting | None = None

    def connected(self, stream: Stream) -> None:
        """The server has accepted the connection."""
        stream.pause()
        stream.ended, stream.lost = self._ended, self._lost
        self.attempt, self.stream = None, stream
        self._owner.connected(self)

    def not_connected(self, why: Failure) -> None:
        """The attempt has failed, or was cancelled."""
        self.attempt = None
        self._owner.not_connected(self, why)

    @property
    def is_usable(self) -> bool:
        """Whether the server has neither ended nor reset the connection. On a unix socket, a greeting cannot be told
        from an end."""
        stream = self.stream
        if stream is None or not stream.is_open or stream.is_gone() or stream.has_ended():
            return False
        return not (stream.is_unix and stream.has_input())

    def give(self) -> Stream:
        """Return the stream, which is read again, for a client that sets its callbacks in the same turn."""
        stream, self.stream = self.stream, None
        assert stream is not None  # only an idle connection is given away
        stream.ended = stream.lost = nothing
        stream.resume()
        return stream

    def _ended(self) -> None:
        self._owner.discard(self)

    def _lost(self, clean: bool) -> None:
        self.stream = None
        self._owner.lost(self)


class Preconnections:
    """The preconnections of one service, in this process."""

    def __init__(self, service: ServiceContext, find_poller: Callable[[], SocketPoller | None]) -> None:
        """find_poller: returns what watches their sockets; None: transports of the reactor do."""
        self._service = service
        self._context: Context = service.context
        self._find_poller = find_poller
        self._idle: dict[Destination, deque[Preconnection]] = {}  # the oldest first, without empty ones
        self._pending: dict[Destination, list[Preconnection]] = {}  # those under way, without empty ones
        self._failing: set[Destination] = set()  # whose last attempt has failed
        self._is_on = False
        self._is_repeating = False
        self._context.descriptors.pools.add(self)

    def __repr__(self) -> str:
        idle, pending = sum(map(len, self._idle.values())), sum(map(len, self._pending.values()))
        return f"<Preconnections of {self._service.ident}: {idle} idle, {pending} under way>"

    def idle(self, destination: Destination) -> int:
        """Return the number of idle connections to `destination`."""
        return len(self._idle.get(destination, ()))

    # Clients.

    def take(self, destination: Destination) -> Stream | None:
        """Return an open stream to `destination` for a client that has a lease of it, and begin to replace it; None
        without one. The stream has no callbacks yet: the caller sets them before the next turn."""
        idle = self._idle.get(destination)
        while idle:
            connection = idle[0]
            self._remove(connection)
            if not connection.is_usable:
                self._close(connection)
                continue
            stream = connection.give()
            self._context.descriptors.give_server()  # it is one of the client's descriptors now
            destination.reused += 1
            if destination not in self._failing:
                self._connect(destination, 1)
            return stream
        if destination.maxconn:
            self._trim(destination)  # the client's own connection takes the place of one that is under way
        return None

    # Changes.

    def start(self) -> None:
        """The service listens: connect to its servers."""
        self._is_on = True
        self.configure()

    def stop(self) -> None:
        """The service accepts no clients any more: close all, and make no more."""
        self._is_on = False
        self.configure()

    def configure(self) -> None:
        """Apply another configuration, or what has changed in the state of servers."""
        for destination in {*self._idle, *self._pending}:
            self._trim(destination)
        self._failing &= self._service.selector.usable
        wants = self._is_on and self._service.config.preconnect > 0
        self._service.take_preconnected = self.take if wants else no_preconnection
        if wants and not self._is_repeating:
            self._is_repeating = self._check()
            if self._is_repeating:
                self._context.wheel.repeat(CHECK_INTERVAL, self._check)

    def retire(self, destinations: Collection[Destination]) -> None:
        """Close those to these servers: connections to them are made in another way from now on."""
        for destination in destinations:
            self._close_all(destination)

    def close(self) -> None:
        """Close all; the next check makes new ones if the service still listens and there are descriptors."""
        for destination in {*self._idle, *self._pending}:
            self._close_all(destination)

    # How many there are.

    def _allowed(self, destination: Destination) -> int:
        """Return how many connections to `destination` may be idle or under way now."""
        service = self._service
        selector, wanted = service.selector, service.config.preconnect
        if not wanted or not self._is_on or service.unit == EACH_REQUEST:
            return 0
        if destination not in selector.usable or destination in selector.excluded or not destination.weight:
            return 0
        if destination.maxconn:
            # Other processes do not tell how many they have ready, so a limit for all of them cannot be kept.
            room = 0 if destination.is_shared else destination.maxconn - destination.active
            wanted = max(min(wanted, room), 0)
        return wanted if wanted and not service.connector(destination).is_for_one_client else 0

    def _count(self, destination: Destination) -> int:
        return self.idle(destination) + len(self._pending.get(destination, ()))

    def _trim(self, destination: Destination) -> None:
        """Close the connections that `destination` has too many of."""
        surplus = self._count(destination) - self._allowed(destination)
        pending = self._pending.get(destination, ())
        for connection in [*reversed(pending), *self._idle.get(destination, ())][: max(surplus, 0)]:
            self._close(connection)

    def _check(self) -> bool:
        """Replace connections that have ended or are too old, and add those that are missing. Return True while there
        may be any."""
        service = self._service
        self._is_repeating = self._is_on and service.config.preconnect > 0
        oldest = self._context.wheel.now - service.config.preconnect_timeout
        for destination, idle in list(self._idle.items()):
            for connection in [one for one in idle if one.since < oldest or not one.is_usable]:
                self._close(connection)
            self._trim(destination)
        if not self._is_repeating or not self._context.is_accepting:
            return self._is_repeating
        left = MAX_ATTEMPTS_PER_CHECK
        for destination in service.selector.usable:
            if left <= 0:
                break
            left -= self._connect(destination, left)
        return True

    def _connect(self, destination: Destination, most: int) -> int:
        """Begin at most `most` of the connections to `destination` that are missing. Return how many that were. After a
        failure, one attempt at a time finds out whether the server accepts connections again."""
        missing = min(self._allowed(destination) - self._count(destination), most)
        if destination in self._failing:
            missing = min(missing, 0 if destination in self._pending else 1)
        for begun in range(missing):
            if not self._context.descriptors.are_free:
                return begun
            self._begin(destination)
        return max(missing, 0)

    # Single connections.

    def _begin(self, destination: Destination) -> None:
        poller = self._find_poller()
        self._context.descriptors.take_server()
        connection = Preconnection(self, destination)
        self._pending.setdefault(destination, []).append(connection)
        connector = self._service.connector(destination)
        attempt = connector.begin(Stream(), connection.connected, connection.not_connected, poller)
        if connection in self._pending.get(destination, ()):  # it has not failed at once
            connection.attempt = attempt

    def _remove(self, connection: Preconnection) -> bool:
        """Forget that it is idle or under way. Return whether it was."""
        for kept in self._idle, self._pending:
            some = kept.get(connection.destination)
            if some is not None and connection in some:
                some.remove(connection)
                if not some:
                    del kept[connection.destination]
                return True
        return False

    def _close_all(self, destination: Destination) -> None:
        for connection in [*self._pending.get(destination, ()), *self._idle.get(destination, ())]:
            self._close(connection)

    def _close(self, connection: Preconnection) -> None:
        self._remove(connection)
        stream = connection.stream
        if connection.attempt is not None:
            connection.attempt.cancel()
        elif stream is not None and not stream.close() and stream.is_open:
            stream.timer = self._context.wheel.after(self._service.settings.linger_timeout, stream.abort)

    # Called by connections.

    def connected(self, connection: Preconnection) -> None:
        destination = connection.destination
        connection.since = self._context.wheel.now
        self._failing.discard(destination)
        if not self._remove(connection):  # it was closed while it was under way
            self._close(connection)
            return
        self._idle.setdefault(destination, deque()).append(connection)

    def not_connected(self, connection: Preconnection, why: Failure) -> None:
        self._context.descriptors.give_server()
        destination = connection.destination
        if not self._remove(connection) or destination in self._failing:
            return
        self._failing.add(destination)
        form = "service {ident}: server {server} not connected ahead of clients: {why}"
        values = {"ident": self._service.ident, "server": destination.address, "why": network_reason(why)}
        self._context.log.event(levels.NON_FATAL, form, **values)

    def discard(self, connection: Preconnection) -> None:
        """The server has sent its FIN."""
        if self._remove(connection):
            self._close(connection)

    def lost(self, connection: Preconnection) -> None:
        self._remove(connection)
        self._context.descriptors.give_server()
