"""HTTP/2 streams, one after the other, as the transport of a client connection that speaks HTTP/1.1.

So every stream is an exchange of its own, with the rules, limits, retries and logs of any other: the request arrives as
its head and body in HTTP/1.1, and the response that is written goes out as frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ktcpvs.http.http2_response_heads import KnownHead, ResponseHeads
from ktcpvs.http.http2_sender import StreamSender
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.http.http2_stream_transport import HTTP2StreamTransport
from ktcpvs.protocols import http2
from ktcpvs.protocols.http1 import CHUNKED, BadFrame, BadResponse
from ktcpvs.protocols.http2.constants import INTERNAL_ERROR
from ktcpvs.protocols.http2.downgrade import MAX_RESPONSE_HEAD, RequestWriter, ResponseReader
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing

MAX_JOINED = 16 << 10
"""A longer piece of a response is sent at once, so that little memory is in use; shorter ones of one turn are sent
together."""

BODILESS = frozenset((b"HEAD", b"CONNECT"))
"""Methods whose responses have no body, whatever their head says (RFC 9110, section 6.4.1)."""


class Multiplexer(Protocol):
    """The HTTP/2 connection that carries a stream.

    protocol: its frames and windows. is_full: its client does not read, so nothing may be sent. heads: of the service's
    responses.
    """

    protocol: http2.Server
    is_full: bool
    heads: ResponseHeads

    @property
    def peer_address(self) -> SocketAddress:
        """The address of the client."""

    @property
    def local_address(self) -> SocketAddress:
        """The address that the client has connected to."""

    def flush(self) -> None:
        """Send the output in this turn, together with that of other streams."""

    def flush_now(self) -> None:
        """Send the output, unless bytes of the client are being handled."""

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call in a later turn."""

    def discard(self, stream_id: int) -> None:
        """The response has been sent: discard what is left of the request's body."""

    def response_ended(self, transport: HTTP2Transport) -> None:
        """The response has been sent to its end. At the end of this turn, the transport can serve another stream, or
        is ended."""

    def stream_over(self, stream_id: int) -> None:
        """The transport is over."""


class HTTP2Transport(HTTP2StreamTransport):
    """One stream of a client. It behaves as a socket on which one request comes, and then a FIN.

    connection: of the stream. stream: that of the client connection; None once it is over. stream_id: of the current
    stream, or of the last one. deadline: the call that ends the request; None: there is none.
    """

    __slots__ = (
        "_awaits_upload", "_body_left", "_has_fin", "_input", "_is_closing", "_is_complete",
        "_is_paused", "_is_scheduled", "_method", "_multiplexer", "_reader", "_sender", "_written",
        "connection", "deadline", "stream", "stream_id", "write",
    )  # fmt: skip

    def __init__(self, multiplexer: Multiplexer, connection: HTTP2StreamConnection) -> None:
        super().__init__()
        self._multiplexer = multiplexer
        self._method = b""
        self._written: RequestWriter | None = None  # of the request's body; None: there is none
        # The response: bytes of a body with a known length that are still to come, or what reads another one. Both
        # None: nothing of it has come.
        self._body_left: int | None = None
        self._reader: ResponseReader | None = None
        self._is_complete = False  # the response has been written to its end
        self._input: list[tuple[bytes, int]] = []  # bytes for the owner, and how much of the window they take
        self._sender = StreamSender(multiplexer.protocol, 0)  # of the response
        self._has_fin = False  # the owner is to be told that nothing more comes
        self._awaits_upload = False  # the response has been sent, but the server still reads the request's body
        self._is_paused = self._is_scheduled = self._is_closing = False
        self.connection = connection
        self.stream_id = 0
        self.deadline: Any = None
        self.stream: Stream | None = connection.client
        self.write: Callable[[bytes], object] = self._write

    def begin(self, stream_id: int, request: http2.Request, end_stream: bool) -> None:
        """Carry this stream from now on. end_stream: the request has no body."""
        self.stream_id = self._sender.stream_id = stream_id
        self._method = b"GET" if request.protocol else request.method
        self._written = None if end_stream else RequestWriter(request, end_stream)
        self._body_left = self._reader = None
        self._is_complete = self._sender.is_whole = False

    @property
    def is_reusable(self) -> bool:
        """Whether the transport can carry another stream, after the response has been sent."""
        return (
            not (self._is_closing or self._is_paused or self._is_scheduled or self._has_fin or self._input)
            and self.write is not nothing
            and self.stream is not None
            and self._is_request_over
            and self.connection.is_reusable
        )

    def park(self) -> None:
        """The stream is over; another one may follow."""
        self._cancel_deadline()
        self.connection.park()

    def discard(self) -> None:
        """End a parked transport."""
        stream, self.stream = self.stream, None
        self.write = nothing
        self.clear_backpressure()
        if stream is not None:
            stream.over(True)

    # From the client.

    def received(self, data: bytes, held: int) -> None:
        """Bytes have come for the owner. held: how much of the window they take until the owner has them."""
        if data:
            self._input.append((data, held))
        self._deliver()

    def data_received(self, event: http2.DataReceived) -> None:
        if self._written is not None:
            self.received(self._written.data(event.data, event.end_stream), len(event.data))

    def trailers_received(self, lines: bytes) -> None:
        if self._written is not None:
            self.received(self._written.trailers(lines), 0)

    def reset(self) -> None:
        """The stream is over, by the client's doing or with its connection."""
        self._over(False)

    def window_opened(self) -> None:
        """More of the response can be sent."""
        if self._sender.pieces:
            self._send_buffered()

    def _deliver(self) -> None:
        """Give the owner what has come, unless it has paused reading."""
        while self._input and not self._is_paused and self.stream is not None:
            data, held = self._input.pop(0)
            if held:
                self._multiplexer.protocol.acknowledge(self.stream_id, held)
            self.stream.dataReceived(data)
        if self._awaits_upload and not self._input and self._written is not None and self._written.has_ended:
            self._awaits_upload = False
            self._multiplexer.response_ended(self)
        if self._has_fin and not self._input and not self._is_paused:
            self._deliver_fin()

    def _deliver_fin(self) -> None:
        self._has_fin = False
        if self.stream is not None:
            self.stream.readConnectionLost()

    def end(self) -> None:
        """The response has been sent, and no other stream follows: tell the owner that nothing more comes. An upload
        that its server still reads may go on until the multiplexer resets the stream."""
        self._multiplexer.discard(self.stream_id)
        self._awaits_upload = self.connection.body is not None and self._has_upload
        if not self._awaits_upload:
            self._input.clear()
            self._has_fin = True
            self._schedule()

    @property
    def _has_upload(self) -> bool:
        """Whether bytes of the request's body wait here, or may still come."""
        if self._written is None or self._written.has_ended:
            return bool(self._input)
        return not self._is_request_over

    @property
    def _is_request_over(self) -> bool:
        """Whether the client has ended the stream, or it has been reset."""
        return self.stream_id not in self._multiplexer.protocol.streams

    # To the client.

    def _write(self, data: bytes) -> None:
        if self.stream is None or self._is_complete:
            return
        if self._body_left is not None:
            self._write_body(data)
        elif self._reader is not None:
            self._feed(self._reader, data)
        else:
            self._begin_response(data)

    def _begin_response(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        known = self._find(data[:end]) if end >= 4 else None
        length = known.length if known is not None else None
        may_be_whole = data.endswith(b"\r\n\r\n") if length == CHUNKED else length == len(data) - end
        if may_be_whole and self._respond(data):
            return
        if known is None or length == CHUNKED:
            self._reader = reader = ResponseReader(self._method, MAX_RESPONSE_HEAD)
            self._feed(reader, data)
        else:
            self._write_head(known, data[end:])

    def _respond(self, data: bytes) -> bool:
        """Send a whole response at once; return False if that is not possible now."""
        multiplexer = self._multiplexer
        if multiplexer.is_full or self._sender.pieces:
            return False
        if not multiplexer.protocol.respond(self.stream_id, data, self._method):
            return False
        self._body_left, self._is_complete = 0, True
        self._response_ended()
        if len(data) > MAX_JOINED:
            multiplexer.flush_now()
        return True

    def _writev(self, pieces: Sequence[bytes]) -> None:
        if len(pieces) == 2 and self._body_left is None and self._reader is None and not self._is_complete:
            head, body = pieces
            known = self._find(head)
            if known is not None and known.length != CHUNKED and self.stream is not None:
                self._write_head(known, body)
                return
        self._write(b"".join(pieces))

    def _find(self, head: bytes) -> KnownHead | None:
        """Return what the head of a response means; None for one that has no body, or whose body lasts until the
        connection is closed."""
        return self._multiplexer.heads.find(head) if self._method not in BODILESS else None

    def _write_head(self, known: KnownHead, body: bytes) -> None:
        """Send the head of a response with a length, and the beginning of its body."""
        self._sender.pieces.append(known.headers)
        self._body_left = known.length
        self._write_body(body)

    def _write_body(self, data: bytes) -> None:
        """Send a piece of a body with a known length. Bytes behind its end are dropped."""
        left = self._body_left
        assert left is not None
        if len(data) > left:
            data = data[:left]
        self._body_left = left = left - len(data)
        self._is_complete = not left
        if data:
            self._sender.pieces.append(data)
        self._send_buffered()

    def _feed(self, reader: ResponseReader, data: bytes) -> None:
        try:
            pieces = reader.feed(data)
        except (BadFrame, BadResponse):
            self._over_with_reset(INTERNAL_ERROR)
        else:
            self._is_complete = reader.has_ended
            self._sender.pieces += pieces
            self._send_buffered()

    def _send_buffered(self) -> None:
        """Send what the client's window allows, and tell the owner when to stop and when to go on."""
        sender, multiplexer = self._sender, self._multiplexer
        sender.is_whole = self._is_complete
        if sender.send(multiplexer.is_full) > MAX_JOINED:
            multiplexer.flush_now()
        else:
            multiplexer.flush()
        if sender.pieces or self._is_full:
            self._apply_backpressure()
        if self._is_complete and not sender.pieces:
            sender.end()
            self._response_ended()

    def _response_ended(self) -> None:
        """The response has been sent to its end: nothing more comes from the client on this stream."""
        if self._is_closing:
            self._input.clear()
            self._multiplexer.discard(self.stream_id)
            self._multiplexer.call_soon(lambda: self._over(True))
        else:
            self._multiplexer.response_ended(self)

    # Called by the stream of the owner.

    @property
    def writev(self) -> Callable[[Sequence[bytes]], object]:
        return self._writev

    def half_close(self) -> None:
        self.clear_backpressure()
        self.write = nothing
        self._finish()

    def close(self) -> bool:
        self.clear_backpressure()
        self.write = nothing
        self._is_closing = True
        self._finish()
        is_sent = not self._sender.pieces
        if is_sent:
            self._multiplexer.call_soon(lambda: self._over(True))
        return is_sent

    def _finish(self) -> None:
        """The owner writes no more: end the response, or reset the stream if it is not complete."""
        if self.stream is None or self._is_complete:
            return
        if self._reader is not None and self._reader.close():
            self._is_complete = True
            self._send_buffered()
        else:
            self._over_with_reset(INTERNAL_ERROR)

    def close_with_reset(self) -> bool:
        self.clear_backpressure()
        self._over_with_reset(INTERNAL_ERROR)
        return True

    def abort(self) -> None:
        self._over_with_reset(INTERNAL_ERROR)

    def _over_with_reset(self, code: int) -> None:
        self.write = nothing
        self._sender.pieces.clear()
        self._multiplexer.protocol.reset(self.stream_id, code)
        self._multiplexer.flush()
        self._multiplexer.call_soon(lambda: self._over(False))

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        if self._input or self._has_fin:
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._multiplexer.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        self._deliver()
        self._multiplexer.flush()

    def _over(self, clean: bool) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            self.write = nothing
            self.clear_backpressure()
            self._multiplexer.stream_over(self.stream_id)
            self._cancel_deadline()
            stream.over(clean)

    def _cancel_deadline(self) -> None:
        deadline, self.deadline = self.deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    # State.

    def unsent(self) -> int:
        return self._sender.unsent

    def has_input(self) -> bool:
        return bool(self._input) or self._has_fin

    def has_ended(self) -> bool:
        return self._has_fin

    @property
    def peer_address(self) -> SocketAddress:
        return self._multiplexer.peer_address

    @property
    def local_address(self) -> SocketAddress:
        return self._multiplexer.local_address

    def state(self) -> str:
        return f"stream {self.stream_id}, {self.unsent()} bytes unsent"
