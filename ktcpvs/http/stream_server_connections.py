"""The server connections for streams of one service's HTTP/2 clients: a request may wait for a descriptor for one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.http.descriptor_queue import DescriptorQueue
from ktcpvs.http.pool import FullPool
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
        self._usual_pool = self.pool
        self._full_pool = FullPool(self.pool.kept)  # while a request waits; so `put` costs nothing more otherwise

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a descriptor."""
        return len(self._waiting)

    def _not_kept(self, connection: ServerConnection) -> None:
        """Give an idle connection to a request that waits for a descriptor; close it if none can use it."""
        if self._waiting:
            is_carried = connection not in self._open
            if self._http2.hand_on(connection) if is_carried else self._queue.offer(connection):
                return
        connection.close()

    def _begin(
        self, connection: ServerConnection, connector: Connector, origin: OriginOf, may_be_kept: bool
    ) -> Deferred[Any]:
        if not self._queue.must_wait:
            return super()._begin(connection, connector, origin, may_be_kept)
        self._delayed.add(connection)
        self.pool = self._full_pool
        waiting: Deferred[Any] = self._queue.enter(connection.destination if may_be_kept else None)
        waiting.addBoth(self._waited, connection)
        begin = super()._begin
        return waiting.addCallback(lambda kept: kept or begin(connection, connector, origin, may_be_kept))

    def _waited(self, result: Any, connection: ServerConnection) -> Any:
        self._delayed.discard(connection)
        if not self._waiting:
            self.pool = self._usual_pool
        return result

    def retire(self, destinations: Collection[Destination]) -> None:
        for connection in self._delayed:
            if connection.destination in destinations:
                connection.retire()
        super().retire(destinations)
