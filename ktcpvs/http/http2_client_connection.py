"""A client's HTTP/2 connection, whose streams are client connections that speak HTTP/1.1.

`protocols/http2` reads and writes the frames. Each stream gets a client connection of its own over an `HTTP2Transport`,
so admission, rules, limits, retries and the access log treat it as any other one. A client connection whose stream has
ended as usual is parked, and serves one of the next streams.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from os import urandom
from typing import Any, ClassVar, Protocol

from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.http2_response_heads import ResponseHeads
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.http.http2_transport import HTTP2Transport
from ktcpvs.model.scheduling import Request
from ktcpvs.model.why import of_status
from ktcpvs.protocols import grpc, http2
from ktcpvs.protocols.http1 import BadRequest, error_response
from ktcpvs.protocols.http2.constants import CANCEL, NO_ERROR
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.lingering_close import LingeringClose, Progress
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing

CHECK_INTERVAL = 5
"""Seconds between two checks of the timeouts."""

MAX_REQUESTS_PER_TURN = 32
"""The requests of one client in one turn of the reactor after which the others wait for the next one."""

MAX_DEADLINE = 1e8
"""Seconds: the longest deadline that is kept, three years."""

MAX_PARKED = 32
"""The most client connections of ended streams that are kept for the next streams of an HTTP/2 connection. They are
ended once it has had no stream for CHECK_INTERVAL."""

MAX_EVENTS_PER_TURN = 256
"""The events of one client in one turn of the reactor, after which the others wait for the next one: a frame of ten
bytes is an event too."""

SLICE_SIZE = 8192
"""The most bytes of a client that are handled without a look at the number of events in them."""


MIN_CONDENSED_EVENTS = 16
"""The number of events in a slice from which on requests that are reset among them are not begun, and neighbouring
pieces of a body are passed on as one."""


class StreamCounter(Protocol):
    """Counts the client connections of streams."""

    def count_in(self, connection: HTTP2StreamConnection) -> None:
        """A stream has begun on a connection that has served another one before."""

    def count_out_streams(self, streams: Sequence[HTTP2StreamConnection]) -> None:
        """These streams have ended, and their connections are parked."""


class HTTP2ClientConnection:
    """One HTTP/2 connection of a client.

    protocol: its frames and windows. client: the stream to the client. transports: of the open streams, by number.
    heads: of the service's responses. is_full: the client does not read. is_over: the connection is closed, or about to
    be. error: the code of the client's error that has ended the connection; NO_ERROR: there was none.
    """

    __slots__ = (
        "_answered", "_build", "_context", "_count_in", "_count_out", "_defer", "_ended", "_is_deferred",
        "_is_receiving", "_last_activity", "_names", "_parked", "_pending", "_progress", "_retired_at", "_service",
        "_settings", "_timer", "client", "error", "heads", "is_full", "is_over", "protocol", "transports",
    )  # fmt: skip

    def __init__(
        self,
        service: ServiceContext,
        client: Stream,
        names: tuple[str, str],
        build: Callable[[], HTTP2StreamConnection],
        counter: StreamCounter,
        limits: http2.Limits,
        heads: ResponseHeads,
        poller: SocketPoller | None = None,
        ended: Callable[[HTTP2ClientConnection], object] = nothing,
    ) -> None:
        """client: open. names: of the client, as client_name returns them. build: returns a new client connection,
        whose stream is not connected. counter: of those that are used again. poller: of the servers' sockets; None: the
        reactor has them. ended: called once, when the connection is over."""
        self._service = service
        self._names = names
        self._context = context = service.context
        self._build = build
        self._count_in, self._count_out = counter.count_in, counter.count_out_streams
        self._ended = ended
        soon = partial(context.reactor.callLater, 0)
        self._defer: Callable[[Callable[[], object]], object] = poller.defer if poller is not None else soon
        self._is_receiving = False
        self._is_deferred = False  # `_end_turn` will be called
        self._answered: list[HTTP2Transport] = []  # in this turn
        self._parked: list[HTTP2Transport] = []  # without a stream
        self._settings = service.settings  # those that the timers of the parked ones were started with
        self._pending = b""  # bytes that wait for the next turn
        self._last_activity = context.wheel.now  # the tick at which the last stream ended
        self._progress: Progress | None = None  # of a client that does not read
        self._retired_at: int | None = None  # the tick when the last GOAWAY was sent
        self.client = client
        self.protocol = http2.Server(limits, joins_requests=True)
        self.transports: dict[int, HTTP2Transport] = {}
        self.heads = heads
        self.is_full = self.is_over = False
        self.error = NO_ERROR
        client.dataReceived = self.receive
        client.ended = self._client_ended
        client.lost = self._client_lost
        client.set_backpressure(self)
        self._timer: Any = context.wheel.after(self._check_interval(), self._check_timeouts)
        self.flush_now()

    def __repr__(self) -> str:
        return f"<HTTP2ClientConnection {self.client!r}: {self.protocol!r}>"

    @property
    def peer_address(self) -> SocketAddress:
        return self.client.peer_address

    @property
    def local_address(self) -> SocketAddress:
        return self.client.local_address

    # From the client.

    def receive(self, data: bytes) -> None:
        """The client has sent `data`."""
        if self._pending:
            self._pending += data
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Handle what the client has sent, in slices: when enough requests have begun, or other events come, the
        rest waits for the next turn, so that other clients have theirs. A block that is repeated makes a request of
        some 20 bytes."""
        now, handlers = self._context.wheel.now, self._HANDLERS
        begin = begun = handled = 0
        self._is_receiving = True
        try:
            while begin < len(data) and not self.is_over:
                if begun >= MAX_REQUESTS_PER_TURN or handled >= MAX_EVENTS_PER_TURN:
                    self._read_later(data[begin:])
                    break
                end = begin + SLICE_SIZE
                events = self.protocol.receive(data[begin:end], now)
                handled += len(events)
                for event in http2.condense(events) if len(events) >= MIN_CONDENSED_EVENTS else events:
                    if isinstance(event, http2.RequestReceived):
                        self._request_received(event)
                        begun += 1
                    elif (handler := handlers.get(type(event))) is not None:
                        handler(self, event)
                        begun += isinstance(event, http2.RequestRefused)
                begin = end
        finally:
            self._is_receiving = False
            self.flush_now()
        self._close_if_drained()

    def _read_later(self, data: bytes) -> None:
        self._pending = data
        self.client.pause()
        self.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        data, self._pending = self._pending, b""
        if not self.is_over:
            self._read(data)
            if not self._pending and not self.is_full:
                self.client.resume()

    def _request_received(self, event: http2.RequestReceived) -> None:
        request, stream_id = event.request, event.stream_id
        try:
            head = request.upgrade_head(b64encode(urandom(16))) if request.protocol else event.head
        except BadRequest as bad:
            self._refuse(stream_id, bad.status, str(bad))
            return
        if self._settings is not self._service.settings:
            self._settings = self._service.settings
            self._end_parked()
        if self._parked:
            transport = self._parked.pop()
            transport.begin(stream_id, request, event.end_stream)
            self.transports[stream_id] = transport
            transport.connection.reopen()
            self._count_in(transport.connection)
        else:
            transport = HTTP2Transport(self, self._build())
            transport.begin(stream_id, request, event.end_stream)
            self.transports[stream_id] = transport
            transport.connection.client.makeConnection(transport)
        if b"grpc-timeout:" in request.lines:
            self._start_deadline(transport, request)
        transport.connection.client.dataReceived(head)

    def _start_deadline(self, transport: HTTP2Transport, request: http2.Request) -> None:
        seconds = grpc.read_timeout(request.lines)
        if seconds is not None:
            seconds = min(seconds, MAX_DEADLINE)
            passed = transport.connection.deadline_passed
            transport.deadline = self._context.reactor.callLater(seconds, passed, seconds * 1000)

    def _request_refused(self, event: http2.RequestRefused) -> None:
        self._refuse(event.stream_id, event.status, event.reason)

    def _refuse(self, stream_id: int, status: int, reason: str) -> None:
        """Respond with an error of the switch itself to a request that is no request in HTTP/1."""
        response = error_response(status, reason, keep_alive=True)
        self._note_refusal(status, reason, response)
        head, _, body = response.partition(b"\r\n\r\n")
        self.protocol.send_headers(stream_id, http2.response_list(head + b"\r\n"))
        is_whole = self.protocol.send_data(stream_id, body, end_stream=True) == len(body)
        self.protocol.reset(stream_id, NO_ERROR if is_whole else CANCEL)  # unless both sides have ended it

    def _note_refusal(self, status: int, reason: str, response: bytes) -> None:
        """Count and log a request that has no connection of its own. response: its bytes."""
        service, (name, host) = self._service, self._names
        service.note_refusal(name, status, reason)
        service.counters.requests += 1
        service.counters.ended_out += len(response)
        entry = service.http2_access_log.begin(Request(host, connection=self.client), (0, 0))
        if entry is not None:
            entry.decided(of_status(status))
            entry.refused(status, response)
            entry.end((0, 0), f"{status}: {reason}")

    def _data_received(self, event: http2.DataReceived) -> None:
        transport = self.transports.get(event.stream_id)
        if transport is not None:
            transport.data_received(event)
        else:
            self.protocol.acknowledge(event.stream_id, len(event.data))

    def _trailers_received(self, event: http2.TrailersReceived) -> None:
        transport = self.transports.get(event.stream_id)
        if transport is not None:
            transport.trailers_received(event.lines)

    def _stream_reset(self, event: http2.StreamReset) -> None:
        transport = self.transports.get(event.stream_id)
        if transport is not None:
            transport.reset()

    def _window_opened(self, event: http2.WindowOpened) -> None:
        if event.stream_id:
            transport = self.transports.get(event.stream_id)
            if transport is not None:
                transport.window_opened()
        else:
            self._send_all()

    def _send_all(self) -> None:
        for transport in list(self.transports.values()):
            transport.window_opened()

    def _connection_ended(self, event: http2.ConnectionEnded) -> None:
        self.error = event.code
        self._close()

    # For the transports of its streams.

    def flush(self) -> None:
        """Send the output once the bytes of the client are handled, or at the end of this turn, in which other streams
        may have some too."""
        if not self._is_receiving:
            self._end_turn_later()

    def _end_turn_later(self) -> None:
        if not self._is_deferred:
            self._is_deferred = True
            self._defer(self._end_turn)

    def flush_now(self) -> None:
        """Send the output; while bytes of the client are handled, this waits until they are."""
        if self._is_receiving or self.is_over or not self.protocol.has_output:
            return
        pieces = self.protocol.take_output()
        if len(pieces) == 1:
            self.client.write(pieces[0])
        else:
            self.client.writev(pieces)

    def response_ended(self, transport: HTTP2Transport) -> None:
        self._answered.append(transport)
        self._end_turn_later()

    def _end_turn(self) -> None:
        """Park the transports whose responses have ended in this turn, and send the output."""
        self._is_deferred = False
        answered, self._answered = self._answered, []
        parked = [transport.connection for transport in answered if self._stream_answered(transport)]
        if parked:
            self._count_out(parked)
        if answered:
            self._last_activity = self._context.wheel.now
        self.flush_now()
        if answered:
            self._close_if_drained()

    def _stream_answered(self, transport: HTTP2Transport) -> bool:
        """Park the transport of a stream whose response has been sent, or end it. Return whether it is parked."""
        if self.transports.get(transport.stream_id) is not transport:
            return False  # reset meanwhile
        if transport.is_reusable and len(self._parked) < MAX_PARKED and not self.is_over:
            del self.transports[transport.stream_id]
            transport.park()
            self._parked.append(transport)
            return True
        if transport.stream is not None:
            transport.end()
        return False

    def _end_parked(self) -> None:
        parked, self._parked = self._parked, []
        for transport in parked:
            transport.discard()

    def call_soon(self, call: Callable[[], object]) -> None:
        self._context.reactor.callLater(0, call)

    def discard(self, stream_id: int) -> None:
        """Let the client send what is left of a body for some time, then reset the stream. curl 7.88 drops a response
        that comes together with the reset."""
        if stream_id in self.protocol.streams:
            self._open_window(stream_id)
            self._context.wheel.after(self._service.settings.linger_timeout, lambda: self._end_body(stream_id))

    def _end_body(self, stream_id: int) -> None:
        self.protocol.reset(stream_id, NO_ERROR)
        transport = self.transports.get(stream_id)
        if transport is not None and not self.is_over:
            transport.end()
        self.flush_now()

    def _open_window(self, stream_id: int) -> None:
        """Nobody reads what has come of this body: let the client send the rest."""
        stream = self.protocol.streams.get(stream_id)
        if stream is not None:
            self.protocol.acknowledge(stream_id, stream.held)
            self.flush()

    def stream_over(self, stream_id: int) -> None:
        self._open_window(stream_id)
        self.transports.pop(stream_id, None)
        self._last_activity = self._context.wheel.now
        self._close_if_drained()

    # Back-pressure of the whole connection.

    def pause_writing(self) -> None:
        """The client does not read: send nothing, and read nothing that would have to be answered."""
        self.is_full = True
        self.client.pause()

    def resume_writing(self) -> None:
        self.is_full = False
        self._progress = None
        if not self._pending:
            self.client.resume()
        self._send_all()
        self.flush_now()

    # The end.

    def retire(self) -> None:
        """Accept no further streams; those in flight finish (RFC 9113, section 6.8)."""
        self.protocol.shut_down()
        self._retired_at = self._context.wheel.now
        self.flush_now()
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._is_receiving:
            return  # events that are not handled yet may begin streams, and tell how the connection has ended
        if self.protocol.is_drained and not self.transports:
            self._close()

    def drop(self) -> None:
        """Reset the connection."""
        self.client.abort()

    def _close(self) -> None:
        """Send what is left, and close once the client has read it."""
        if self.is_over:
            return
        self._is_receiving = False
        self.flush_now()
        self.is_over = True
        self._end_streams()
        self._timer.cancel()
        LingeringClose(self.client, self._context.wheel, self._service.settings).linger()
        self._ended(self)

    def _client_ended(self) -> None:
        """The client has sent a FIN: it cannot open a window any more, so nothing can be completed."""
        self._close()

    def _client_lost(self, clean: bool) -> None:
        if not self.is_over:
            self.is_over = True
            self._end_streams()
            self._timer.cancel()
            self._ended(self)

    def _end_streams(self) -> None:
        for transport in list(self.transports.values()):
            transport.reset()
        self._end_parked()

    # Timeouts.

    def _check_interval(self) -> int:
        settings = self._service.settings
        return min(CHECK_INTERVAL, settings.head_timeout, settings.keepalive_timeout)

    def _check_timeouts(self) -> None:
        settings, now = self._service.settings, self._context.wheel.now
        if not self.transports and now - self._last_activity >= CHECK_INTERVAL:
            self._end_parked()
        if self.is_full:
            if self._progress is None:
                self._progress = Progress(self.client, self._context.wheel)
            if settings.read_timeout and self._progress.stalled() >= settings.read_timeout:
                self.drop()
                return
        elif not self.transports and now - self._last_activity >= settings.keepalive_timeout:
            self.protocol.goaway()
            self._close()
            return
        if self._retired_at is not None and now - self._retired_at >= CHECK_INTERVAL:
            self.retire()  # the client has not acknowledged the PING
        if not self.is_over:
            self._timer = self._context.wheel.after(self._check_interval(), self._check_timeouts)

    _HANDLERS: ClassVar[dict[type, Callable[[HTTP2ClientConnection, Any], None]]] = {
        http2.RequestRefused: _request_refused,
        http2.DataReceived: _data_received,
        http2.TrailersReceived: _trailers_received,
        http2.StreamReset: _stream_reset,
        http2.WindowOpened: _window_opened,
        http2.ConnectionEnded: _connection_ended,
    }
