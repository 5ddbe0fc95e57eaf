"""One HTTP/2 stream as the transport of a client connection that speaks HTTP/1.1.

So every stream is an exchange of its own, with the rules, limits, retries and logs of any other: the request arrives as
its head and body in HTTP/1.1, and the response that is written goes out as frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ktcpvs.http.http2_sender import StreamSender
from ktcpvs.http.http2_stream_transport import HTTP2StreamTransport
from ktcpvs.protocols import http2
from ktcpvs.protocols.http1 import BadFrame, BadResponse
from ktcpvs.protocols.http2.constants import INTERNAL_ERROR
from ktcpvs.protocols.http2.downgrade import MAX_RESPONSE_HEAD, RequestWriter, ResponseReader
from ktcpvs.streams.contract import BackpressuredWriter, SocketAddress
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing

MAX_BUFFERED = 64 << 10
"""Bytes of a response that wait for the client's window, above which the server is not read."""


class Multiplexer(Protocol):
    """The HTTP/2 connection that carries a stream.

    protocol: its frames and windows. is_full: its client does not read, so nothing may be sent.
    """

    protocol: http2.Server
    is_full: bool

    @property
    def peer_address(self) -> SocketAddress:
        """The address of the client."""

    @property
    def local_address(self) -> SocketAddress:
        """The address that the client has connected to."""

    def flush(self) -> None:
        """Send the output, now or at the end of this turn."""

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call in a later turn."""

    def discard(self, stream_id: int) -> None:
        """The response has been sent: discard what is left of the request's body."""

    def stream_over(self, stream_id: int) -> None:
        """The transport is over."""


class HTTP2Transport(HTTP2StreamTransport):
    """One stream of a client. It behaves as a socket on which one request comes, and then a FIN.

    stream: that of the client connection; None once it is over. deadline: the call that ends the request; None: there
    is none.
    """

    __slots__ = (
        "_has_fin", "_input", "_is_buffer_full", "_is_closing", "_is_paused", "_is_scheduled", "_multiplexer",
        "_reader", "_sender", "_stream_id", "_writer", "_written", "deadline", "stream", "write",
    )  # fmt: skip

    def __init__(self, multiplexer: Multiplexer, stream_id: int, request: http2.Request, end_stream: bool) -> None:
        """end_stream: the request has no body."""
        method = b"GET" if request.protocol else request.method
        self._multiplexer = multiplexer
        self._stream_id = stream_id
        self._written = RequestWriter(request, end_stream)
        self._reader = ResponseReader(method, MAX_RESPONSE_HEAD)
        self._input: list[tuple[bytes, int]] = []  # bytes for the owner, and how much of the window they take
        self._sender = StreamSender(multiplexer.protocol, stream_id)  # of the response
        self._has_fin = False  # the owner is to be told that nothing more comes
        self._is_paused = self._is_scheduled = self._is_buffer_full = self._is_closing = False
        self._writer: BackpressuredWriter | None = None
        self.deadline: Any = None
        self.stream: Stream | None = None
        self.write: Callable[[bytes], object] = self._write

    # From the client.

    def received(self, data: bytes, held: int) -> None:
        """Bytes have come for the owner. held: how much of the window they take until the owner has them."""
        if data:
            self._input.append((data, held))
        self._deliver()

    def data_received(self, event: http2.DataReceived) -> None:
        self.received(self._written.data(event.data, event.end_stream), len(event.data))

    def trailers_received(self, lines: bytes) -> None:
        self.received(self._written.trailers(lines), 0)

    def reset(self) -> None:
        """The stream is over, by the client's doing or with its connection."""
        self._over(False)

    def window_opened(self) -> None:
        """More of the response can be sent."""
        self._send_buffered()

    def _deliver(self) -> None:
        """Give the owner what has come, unless it has paused reading."""
        while self._input and not self._is_paused and self.stream is not None:
            data, held = self._input.pop(0)
            if held:
                self._multiplexer.protocol.acknowledge(self._stream_id, held)
            self.stream.dataReceived(data)
        if self._has_fin and not self._input and not self._is_paused:
            self._deliver_fin()

    def _deliver_fin(self) -> None:
        self._has_fin = False
        if self.stream is not None:
            self.stream.readConnectionLost()

    # To the client.

    def _write(self, data: bytes) -> None:
        if self.stream is None or self._reader.has_ended:
            return
        try:
            pieces = self._reader.feed(data)
        except (BadFrame, BadResponse):
            self._over_with_reset(INTERNAL_ERROR)
        else:
            self._sender.pieces += pieces
            self._send_buffered()

    def _send_buffered(self) -> None:
        """Send what the client's window allows, and tell the owner when to stop and when to go on."""
        sender = self._sender
        sender.is_whole = self._reader.has_ended
        sender.send(self._multiplexer.is_full)
        self._apply_backpressure()
        if sender.is_done:
            self._response_ended()
        self._multiplexer.flush()

    def _apply_backpressure(self) -> None:
        size = self._sender.unsent
        if size > MAX_BUFFERED and not self._is_buffer_full:
            self._is_buffer_full = True
            if self._writer is not None:
                self._writer.pause_writing()
        elif self._is_buffer_full and size <= MAX_BUFFERED >> 2:
            self._is_buffer_full = False
            if self._writer is not None:
                self._writer.resume_writing()

    def _response_ended(self) -> None:
        """The response has been sent to its end: nothing more comes from the client on this stream."""
        self._sender.end()
        self._multiplexer.discard(self._stream_id)
        self._input.clear()
        if self._is_closing:
            self._multiplexer.call_soon(lambda: self._over(True))
        else:
            self._has_fin = True
            self._schedule()

    # Called by the stream of the owner.

    @property
    def writev(self) -> Callable[[Sequence[bytes]], object]:
        return lambda pieces: self.write(b"".join(pieces))

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
        if self.stream is None or self._reader.has_ended:
            return
        if self._reader.close():
            self._reader.has_ended = True
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
        self._multiplexer.protocol.reset(self._stream_id, code)
        self._multiplexer.flush()
        self._multiplexer.call_soon(lambda: self._over(False))

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._multiplexer.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        self._deliver()
        self._multiplexer.flush()

    def set_backpressure(self, writer: BackpressuredWriter) -> None:
        self._writer = writer
        if self._is_buffer_full:
            writer.pause_writing()

    def clear_backpressure(self) -> None:
        self._writer = None

    def _over(self, clean: bool) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            self.write = nothing
            self.clear_backpressure()
            self._multiplexer.stream_over(self._stream_id)
            if self.deadline is not None and self.deadline.active():
                self.deadline.cancel()
            stream.over(clean)

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
        return f"stream {self._stream_id}, {self.unsent()} bytes unsent"
