"""Base class of relays on bare sockets: both streams are detached, and a poller reports which sockets are ready."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.poller import SocketPoller
from ktcpvs.streams.detached import DetachedTransport
from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.system.timer_wheel import TimerWheel


class Side:
    """One of the two connections. fd: its socket's descriptor; -1: it is closed. events: those that are polled.

    write_failed: it can no longer be written, and has not been read to its end yet.
    """

    __slots__ = ("events", "fd", "relay", "sock", "transport", "write_failed")

    def __init__(self, relay: SocketRelay, transport: DetachedTransport) -> None:
        self.relay: SocketRelay | None = relay  # while it is polled
        self.transport = transport
        self.sock: socket.socket
        self.fd = -1
        self.events = 0
        self.write_failed = False

    def ready(self, events: int) -> None:
        """Some of the polled events have occurred."""
        if self.relay is not None:
            self.relay.side_ready(self, events)


MakeDirection = Callable[[Stream, Side, Stream, Side, int], Any]
"""Makes a direction of a source with its side, a target with its side, and the tick now."""


class SocketRelay(ABC):
    """Joins two open streams; `inward` goes from the client to the server, `outward` back.

    Both streams are detached, and this is their Engine. A direction has `source` and `target`, streams; `bytes`: the
    number relayed; `last_data`: the tick when the last came; `pending`: bytes read and not yet written.
    """

    __slots__ = ("_client", "_finished", "_poller", "_server", "_wheel", "inward", "outward")

    def __init__(
        self,
        client: Stream,
        server: Stream,
        wheel: TimerWheel,
        finished: Callable[[], object],
        poller: SocketPoller,
        direction: MakeDirection,
    ) -> None:
        """finished: called once, when both directions have ended."""
        self._client = Side(self, DetachedTransport(self, poller.call_soon))
        self._server = Side(self, DetachedTransport(self, poller.call_soon))
        self.inward = direction(client, self._client, server, self._server, wheel.now)
        self.outward = direction(server, self._server, client, self._client, wheel.now)
        self._wheel = wheel
        self._finished = finished
        self._poller = poller

    @abstractmethod
    def _ready(self, incoming: Any, outgoing: Any, events: int) -> None:
        """A side is ready. incoming: the direction from it; outgoing: the direction to it."""

    def side_ready(self, side: Side, events: int) -> None:
        """One of the two sides is ready."""
        if side is self._client:
            self._ready(self.inward, self.outward, events)
        else:
            self._ready(self.outward, self.inward, events)

    @abstractmethod
    def _events(self, incoming: Any, outgoing: Any) -> int:
        """Return the events for which a side must be polled now; 0: it is not polled."""

    @abstractmethod
    def has_unsent(self, transport: DetachedTransport) -> bool:
        """As an Engine."""

    @abstractmethod
    def stop_reading(self, transport: DetachedTransport) -> None:
        """As an Engine."""

    @abstractmethod
    def forget(self, transport: DetachedTransport) -> None:
        """As an Engine."""

    def continue_from(self, before: CopyRelay) -> None:
        """Continue the byte counts of `before`."""
        for direction, copied in (self.inward, before.inward), (self.outward, before.outward):
            direction.bytes, direction.last_data = copied.bytes, copied.last_data

    def start(self, waiting: bytes = b"", answer: bytes = b"") -> None:
        """Begin. waiting: the bytes already received from the client, which are sent to the server first; answer: those
        from the server.

        Neither stream may have a `detach_obstacle`. Raises OSError if there are no descriptors left; then nothing has
        changed.
        """
        client, server = self.inward.source, self.outward.source
        self.inward.pending, self.outward.pending = waiting, answer
        client_sock = client.duplicate_socket()
        try:
            server_sock = server.duplicate_socket()
            try:
                self._begin(self._client, client_sock, self.inward, self.outward)
                self._begin(self._server, server_sock, self.outward, self.inward)
            except BaseException:
                server_sock.close()
                raise
        except BaseException:
            self._poller.unregister(client_sock.fileno())
            client_sock.close()
            raise
        client.detach(self._client.transport, client_sock)
        server.detach(self._server.transport, server_sock)
        for direction in self.inward, self.outward:
            direction.bytes += len(direction.pending)
            direction.source.dataReceived = direction.source.ended = nothing

    def _begin(self, side: Side, sock: socket.socket, incoming: Any, outgoing: Any) -> None:
        events = self._events(incoming, outgoing)
        if events:
            self._poller.register(sock.fileno(), events, side.ready)
        side.sock, side.fd, side.events = sock, sock.fileno(), events

    def _update_polling(self) -> None:
        """Poll both sides for the events that are needed now."""
        self._poll(self._client, self.inward, self.outward)
        self._poll(self._server, self.outward, self.inward)

    def _poll(self, side: Side, incoming: Any, outgoing: Any) -> None:
        if side.fd < 0:
            return
        events = self._events(incoming, outgoing)
        if events == side.events:
            return
        if not events:
            self._poller.unregister(side.fd)
        elif side.events:
            self._poller.modify(side.fd, events)
        else:
            self._poller.register(side.fd, events, side.ready)
        side.events = events

    def _remove(self, side: Side) -> None:
        """Stop polling a side that is closed."""
        if side.events:
            self._poller.unregister(side.fd)
        side.fd, side.events, side.relay = -1, 0, None

    def _side_of(self, transport: DetachedTransport) -> tuple[Side, Any, Any]:
        """Return the side of a transport, the direction from it and the direction to it."""
        if transport is self._client.transport:
            return self._client, self.inward, self.outward
        return self._server, self.outward, self.inward

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.inward.source} and {self.outward.source}>"
