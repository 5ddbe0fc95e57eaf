"""Server connections of schedulers that decide per request: in use by one exchange, or idle and kept for the next.

Most recently used first, so that the others grow old and are closed. A connection that its server closed is gone from
the pool at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ktcpvs.http.head_cache import CachedResponse
from ktcpvs.model.destination import Destination
from ktcpvs.runtime.context import Context
from ktcpvs.streams.stream import Stream

if TYPE_CHECKING:
    from ktcpvs.http.exchange import Exchange

SWEEP = 5
"""Seconds between two looks for connections that have been idle too long."""


class ServerStream(Stream):
    """A connection to `destination`. exchange: whose it is now; None while idle. used: it has served before.
    since: the tick when it became idle. known: its last answer, if one like it can be passed on as a whole.
    is_reusable: False once a response has left a doubt where the next one begins."""

    def __init__(self, pool: Pool, destination: Destination) -> None:
        super().__init__()
        self.pool = pool
        self.destination = destination
        self.exchange: Exchange | None = None
        self.used = False
        self.known: CachedResponse | None = None
        self.is_reusable = True
        self.since = 0
        self._late = b""  # what has come and is read in the next turn

    def connectionMade(self) -> None:
        self.lost = self._gone
        self.ended = self._peer_ended
        self.transport.registerProducer(self, True)
        super().connectionMade()

    def resume(self) -> None:
        if not self._late:
            super().resume()

    def read_later(self, data: bytes) -> None:
        """Others have their turn before `data` is read, and nothing more is read meanwhile."""
        self._late += data
        self.pause()
        self.pool.call_later(self._read_now)

    def _read_now(self) -> None:
        data, self._late = self._late, b""
        if self.exchange is not None and data:
            self.exchange.resume_server()
            self.exchange.server_data(data)

    def dataReceived(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()  # nobody asked
            self.pool.forget(self)
        else:
            exchange.server_data(data)

    def _peer_ended(self) -> None:
        if self.exchange is None:
            self.pool.forget(self)
            self.close()
        else:
            self.exchange.server_ended()

    def _gone(self, clean: bool) -> None:
        self.pool.closed()
        while self._late and self.exchange is not None:
            self._read_now()
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            self.pool.forget(self)
        else:
            exchange.server_lost(clean)

    def close(self) -> bool:
        """Send what is buffered, then close; reset a server that does not take it within `linger_timeout` seconds."""
        is_closing = super().close()
        if not is_closing and self.is_open:
            self.pool.close_later(self)
        return is_closing

    # The server takes no more, or again: the client is held back.

    def pauseProducing(self) -> None:
        if self.exchange is not None:
            self.exchange.hold_client(True)

    def resumeProducing(self) -> None:
        if self.exchange is not None:
            self.exchange.hold_client(False)

    def stopProducing(self) -> None:
        """The transport is gone; `lost` tells."""


class Pool:
    """All server connections of one service. open: how many there are, idle ones and those being made included. kept:
    the idle ones, the most recently used last."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.kept: dict[Destination, list[ServerStream]] = {}
        self._sweeping = False
        self.open = 0
        context.descriptors.pools.add(self)

    def opened(self) -> None:
        """One more connection is being made."""
        self.open += 1
        self._context.descriptors.take_server()

    def closed(self) -> None:
        """One of them is closed, or could not be made."""
        self.open -= 1
        self._context.descriptors.give_server()

    def close_later(self, stream: ServerStream) -> None:
        """Reset a connection that is closing, unless it is closed within `linger_timeout` seconds."""
        stream.timer = self._context.wheel.after(self._context.settings.linger_timeout, stream.reset)

    def call_later(self, call: Callable[[], object]) -> None:
        """Call it in the next turn of the reactor."""
        self._context.reactor.callLater(0, call)

    def take(self, destination: Destination, *, is_repeatable: bool) -> ServerStream | None:
        """An idle connection to `destination`; None when there is none.

        is_repeatable: False for a request that must not be lost: it gets no connection whose server has already ended
        it, or said something, which has not been read yet."""
        idle = self.kept.get(destination)
        while idle:
            stream = idle.pop()
            if is_repeatable or not stream.has_input():
                return stream
            stream.close()
        return None

    def put(self, stream: ServerStream) -> None:
        """It is idle now: kept, or closed when there are pool_size of them already."""
        stream.exchange = None
        stream.used = True
        context = self._context
        idle = self.kept.get(stream.destination)
        if idle is None:
            idle = self.kept[stream.destination] = []
        if len(idle) >= context.settings.pool_size:
            stream.close()
            return
        stream.since = context.wheel.now
        idle.append(stream)
        if not self._sweeping:
            self._sweeping = True
            self._context.wheel.repeat(SWEEP, self._sweep)

    def forget(self, stream: ServerStream) -> None:
        """It is idle no longer: its server closed it."""
        idle = self.kept.get(stream.destination)
        if idle is not None and stream in idle:
            idle.remove(stream)

    def idle(self, destination: Destination) -> int:
        """How many idle connections to `destination` there are."""
        return len(self.kept.get(destination, ()))

    def close(self, keep: frozenset[Destination] = frozenset()) -> None:
        """Close the idle connections to all destinations but `keep`."""
        for destination in [known for known in self.kept if known not in keep]:
            for stream in self.kept.pop(destination):
                stream.close()

    def _sweep(self) -> bool:
        """Close what has been idle too long; True while something is kept."""
        oldest = self._context.wheel.now - self._context.settings.keepalive_timeout
        for destination, idle in list(self.kept.items()):
            while idle and idle[0].since < oldest:
                idle.pop(0).close()
            if not idle:
                del self.kept[destination]
        self._sweeping = bool(self.kept)
        return self._sweeping
