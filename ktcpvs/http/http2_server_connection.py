"""An HTTP/2 connection to a server: its streams carry the requests of several server connections.

`protocols/http2` reads and writes the frames. Each server connection has an `HTTP2ServerTransport` on this connection,
and as many of them share it as the server accepts streams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from twisted.internet.defer import Deferred

from ktcpvs.http.http2_request_stream import RequestStream, StreamUser
from ktcpvs.http.http2_server_transport import Carrier, HTTP2ServerTransport
from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.model.destination import Destination
from ktcpvs.protocols import http2
from ktcpvs.protocols.http2.constants import error_name
from ktcpvs.runtime.context import Context
from ktcpvs.streams.contract import SocketAddress

PING_PAYLOAD = b"ktcpvs!\n"


class Opening(Protocol):
    """The attempt to make an HTTP/2 connection."""

    def settled(self) -> None:
        """The server's settings have come: the connection can be used."""

    def failed(self, reason: str) -> None:
        """It cannot be used. reason: in words."""


class HTTP2Keeper(Protocol):
    """The keeper of the HTTP/2 connections of a service."""

    def ended(self, connection: HTTP2ServerConnection) -> None:
        """The connection accepts no more requests, or is over."""

    def unused(self, connection: HTTP2ServerConnection) -> None:
        """The last server connection that it carried is gone."""

    def replace(self, connection: HTTP2ServerConnection) -> Deferred[Carrier]:
        """Find another connection to the same server, or make one."""


class HTTP2ServerConnection:
    """One HTTP/2 connection to a server.

    connection: the stream to the server, which has a descriptor and counts as a server connection. protocol: its frames
    and windows. transports: of the server connections that it carries. streams: those in progress, by number. scheme:
    of the requests. is_full: the server does not read. is_over: it is closed. is_retired: an edit has changed how
    connections are made, or the server was told its client: it carries no further server connections. is_used: it has
    carried a request. idle_since: the tick when the last stream ended. last_heard: the tick when bytes last came.
    """

    __slots__ = (
        "_context", "_dirty", "_is_flush_scheduled", "_is_receiving", "_keeper", "_max_streams", "_opening",
        "connection", "idle_since", "is_full", "is_over", "is_pinged", "is_retired", "is_used", "last_heard",
        "protocol", "scheme", "streams", "transports",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        keeper: HTTP2Keeper,
        connection: ServerConnection,
        limits: http2.Limits,
        opening: Opening,
    ) -> None:
        """connection: open. limits: of what the server may send; `max_concurrent_streams` limits ours too. opening:
        what waits for the server's settings."""
        self._context = context
        self._keeper = keeper
        self._opening: Opening | None = opening
        self._max_streams = limits.max_concurrent_streams
        self.scheme = b"https" if connection.tls is not None else b"http"
        self._is_receiving = self._is_flush_scheduled = False
        self._dirty: dict[RequestStream, None] = {}  # streams with something for their users
        self.connection = connection
        self.protocol = http2.Client(limits, joins_responses=True)
        self.transports: dict[HTTP2ServerTransport, None] = {}
        self.streams: dict[int, RequestStream] = {}
        self.is_full = self.is_over = self.is_used = self.is_pinged = False
        self.is_retired = not connection.is_reusable
        self.idle_since = self.last_heard = context.wheel.now
        connection.dataReceived = self.receive
        connection.ended = self._server_ended
        connection.lost = self._server_lost
        connection.set_backpressure(self)
        self.flush()

    def __repr__(self) -> str:
        return f"<HTTP2ServerConnection {self.destination.address}: {self.protocol!r}>"

    @property
    def destination(self) -> Destination:
        return self.connection.destination

    @property
    def peer_address(self) -> SocketAddress:
        return self.connection.peer_address

    @property
    def local_address(self) -> SocketAddress:
        return self.connection.local_address

    @property
    def can_open(self) -> bool:
        return self.protocol.can_open and not self.is_over

    @property
    def capacity(self) -> int:
        """The most server connections that it can carry at once."""
        protocol = self.protocol
        if self.is_over or protocol.has_received_goaway or not protocol.has_stream_numbers:
            return 0
        return min(protocol.settings.max_concurrent_streams, self._max_streams)

    @property
    def has_room(self) -> bool:
        """Whether it can carry one more."""
        return not self.is_retired and self.protocol.can_open and len(self.transports) < self.capacity

    # From the server.

    def receive(self, data: bytes) -> None:
        """The server has sent `data`."""
        now, handlers = self._context.wheel.now, self._HANDLERS
        self.last_heard, self.is_pinged = now, False
        self._is_receiving = True
        try:
            for event in self.protocol.receive(data, now):
                handler = handlers.get(type(event))
                if handler is not None and not self.is_over:
                    handler(self, event)
            self._deliver()
            self._close_if_unused()
        finally:
            self._is_receiving = False
            self._write()

    def _deliver(self) -> None:
        """Pass on what has come, once for each stream: a response that came as a whole is forwarded as a whole."""
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for request in dirty:
                request.deliver()

    def _settings_received(self, event: http2.SettingsReceived) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.settled()

    def _whole_received(self, event: http2.WholeResponse) -> None:
        request = self.streams.pop(event.stream_id, None)
        if request is not None:
            self._dirty.pop(request, None)
            self.idle_since = self.last_heard
            request.whole_received(event)

    def _interim_received(self, event: http2.InterimReceived) -> None:
        request = self.streams.get(event.stream_id)
        if request is not None:
            request.interim_received(event)
            self._dirty[request] = None

    def _response_received(self, event: http2.ResponseReceived) -> None:
        request = self.streams.get(event.stream_id)
        if request is not None:
            request.response_begun(event)
            self._dirty[request] = None

    def _data_received(self, event: http2.DataReceived) -> None:
        request = self.streams.get(event.stream_id)
        if request is not None:
            request.data_received(event)
            self._dirty[request] = None
        else:
            self.protocol.acknowledge(event.stream_id, len(event.data))

    def _trailers_received(self, event: http2.TrailersReceived) -> None:
        request = self.streams.get(event.stream_id)
        if request is not None:
            request.trailers_received(event)
            self._dirty[request] = None

    def _stream_reset(self, event: http2.StreamReset) -> None:
        request = self.streams.get(event.stream_id)
        if request is not None:
            if request in self._dirty:
                del self._dirty[request]
                request.deliver()  # what came before the reset
            request.reset_received(event)

    def _window_opened(self, event: http2.WindowOpened) -> None:
        if event.stream_id:
            request = self.streams.get(event.stream_id)
            if request is not None:
                request.send_buffered()
        else:
            self._send_all()

    def _send_all(self) -> None:
        for request in list(self.streams.values()):
            request.send_buffered()

    def _goaway_received(self, event: http2.GoAwayReceived) -> None:
        """The server finishes the streams in progress. What is idle here would be refused."""
        self.fail_opening(f"the server has gone away: {error_name(event.code)}")
        self._keeper.ended(self)
        for transport in list(self.transports):
            if transport.is_idle:
                transport.connection_lost(True, "")
            elif isinstance(transport.stream, ServerConnection):
                transport.stream.retire()
        self._close_if_unused()

    def _connection_ended(self, event: http2.ConnectionEnded) -> None:
        """The server has violated the protocol."""
        reason = f"{error_name(event.code)}: {event.reason}"
        form = "HTTP/2 to {server}: {reason}"
        self._context.log.fault(form, str(self.destination.address), reason, server=self.destination.address)
        self.fail_opening(reason)
        self.close()

    # For the transports.

    def begin(self, user: StreamUser, data: bytes) -> RequestStream:
        request = RequestStream(self, user, data)
        self.streams[request.stream_id] = request
        self.is_used = True
        self.flush()
        return request

    def add(self, transport: HTTP2ServerTransport) -> None:
        self.transports[transport] = None

    def remove(self, transport: HTTP2ServerTransport) -> None:
        self.transports.pop(transport, None)
        if not self.transports:
            self._keeper.unused(self)
            self._close_if_unused()

    def replace(self, transport: HTTP2ServerTransport) -> Deferred[Carrier]:
        return self._keeper.replace(self)

    def call_soon(self, call: Callable[[], object]) -> None:
        self._context.reactor.callLater(0, call)

    # For the streams.

    def stream_over(self, stream_id: int) -> None:
        self.streams.pop(stream_id, None)
        self.idle_since = self._context.wheel.now
        self._close_if_unused()

    def flush(self) -> None:
        """Send the output: at once for a lone stream, else at the end of this turn, together with that of others."""
        if self._is_receiving or self.is_over or self._is_flush_scheduled or not self.protocol.has_output:
            return
        if len(self.streams) > 1:
            self._is_flush_scheduled = True
            self.call_soon(self._flush_now)
        else:
            self._write()

    def _flush_now(self) -> None:
        self._is_flush_scheduled = False
        self._write()

    def _write(self) -> None:
        pieces = self.protocol.take_output()
        if not self.is_over and pieces:
            if len(pieces) == 1:
                self.connection.write(pieces[0])
            else:
                self.connection.writev(pieces)

    # Back-pressure of the whole connection.

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self._send_all()

    # The end.

    def ping(self) -> None:
        """Ask the server for an answer, whatever it is."""
        self.is_pinged = True
        self.protocol.ping(PING_PAYLOAD)
        self.flush()

    def retire(self) -> None:
        """Carry no further server connections; those in progress finish, and idle ones are closed by the caller."""
        self.is_retired = True
        self._keeper.ended(self)
        for transport in list(self.transports):
            if isinstance(transport.stream, ServerConnection):
                transport.stream.retire()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        is_ending = self.is_retired or self.protocol.has_received_goaway
        if is_ending and self._opening is None and not self.transports and not self.streams:
            self.close()

    def close(self) -> None:
        """End the connection with a GOAWAY; what is in progress is lost."""
        if self.is_over:
            return
        if not self.protocol.is_over:
            self.protocol.goaway()
        self._write()
        self._end(True, "")
        self.connection.close()

    def abort(self) -> None:
        """Reset the connection."""
        if not self.is_over:
            self._end(False, "")
            self.connection.abort()

    def _server_ended(self) -> None:
        """The server has sent a FIN: nothing can be completed."""
        if not self.is_over:
            self.fail_opening("the server has closed the connection before its settings")
            self._end(True, "")
        self.connection.close()

    def _server_lost(self, clean: bool) -> None:
        failure = self.connection.failure
        if not self.is_over:
            reason = f"TLS: {failure}" if failure else "the server has closed the connection before its settings"
            self.fail_opening(reason)
            self._end(clean, failure)
        self.connection.closed()

    def _end(self, clean: bool, failure: str) -> None:
        self.is_over = True
        self._keeper.ended(self)
        self.streams.clear()
        self._dirty.clear()
        for transport in list(self.transports):
            transport.connection_lost(clean, failure)

    def fail_opening(self, reason: str) -> None:
        """If the connection is not used yet: it will not be. reason: in words."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.failed(reason)

    _HANDLERS: ClassVar[dict[type, Callable[[HTTP2ServerConnection, Any], None]]] = {
        http2.SettingsReceived: _settings_received,
        http2.WholeResponse: _whole_received,
        http2.InterimReceived: _interim_received,
        http2.ResponseReceived: _response_received,
        http2.DataReceived: _data_received,
        http2.TrailersReceived: _trailers_received,
        http2.StreamReset: _stream_reset,
        http2.WindowOpened: _window_opened,
        http2.GoAwayReceived: _goaway_received,
        http2.ConnectionEnded: _connection_ended,
    }
