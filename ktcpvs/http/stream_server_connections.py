"""The server connections for streams of one service's HTTP/2 clients: a request may wait for a descriptor for one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.http.descriptor_queue import DescriptorQueue
from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.http.server_connections import ServerConnections
from ktcpvs.model.destination import Destination
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import StreamDescriptors
from ktcpvs.streams.connector import Connector, OriginOf


class StreamServerConnections(ServerConnections):
    """The server connections for streams. They are apart from those of clients of HTTP/1, so that their number is
    known."""

    def __init__(self, context: Context, settings: Callable[[], Settings], descriptors: StreamDescriptors) -> None:
        """settings: returns those in force. descriptors: of these connections."""
        super().__init__(context, settings)
        self._descriptors = descriptors
        self._queue = DescriptorQueue(context, descriptors, settings)
        self._waiting = self._queue.waiting
        self._delayed: set[ServerConnection] = set()  # not begun: each waits for a descriptor

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a descriptor."""
        return len(self._waiting)

    def put(self, connection: ServerConnection) -> None:
        """Keep an idle connection, unless a request waits for a descriptor: it gets the connection or its
        descriptor."""
        if not self._waiting:
            ServerConnections.put(self, connection)
            return
        connection.exchange = None
        connection.is_used = True
        if connection not in self._open:  # HTTP/2 carries it
            if not self._http2.hand_on(connection):
                ServerConnections.put(self, connection)
        elif not self._queue.offer(connection):
            connection.close()

    def _begin(
        self, connection: ServerConnection, connector: Connector, origin: OriginOf, may_be_kept: bool
    ) -> Deferred[Any]:
        if not self._queue.must_wait:
            return super()._begin(connection, connector, origin, may_be_kept)
        self._delayed.add(connection)
        waiting: Deferred[Any] = self._queue.enter(connection.destination if may_be_kept else None)
        waiting.addBoth(self._waited, connection)
        begin = super()._begin
        return waiting.addCallback(lambda kept: kept or begin(connection, connector, origin, may_be_kept))

    def _waited(self, result: Any, connection: ServerConnection) -> Any:
        self._delayed.discard(connection)
        return result

    def retire(self, destinations: Collection[Destination]) -> None:
        for connection in self._delayed:
            if connection.destination in destinations:
                connection.retire()
        super().retire(destinations)
