"""The transport of a server connection whose requests are streams of an HTTP/2 connection.

It behaves as a socket to a server of HTTP/1.1 that keeps its connections: each request that is written becomes a
stream, and its response comes back as the bytes of HTTP/1.1. So the exchange and the pool of idle connections serve
HTTP/2 as they serve HTTP/1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.http.http2_request_stream import RequestStream, StreamUser
from ktcpvs.http.http2_stream_transport import HTTP2StreamTransport
from ktcpvs.protocols.http1 import BadFrame, BadRequest
from ktcpvs.protocols.http2 import MalformedMessage
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing

MAX_RESENT = 2
"""The most repetitions of a request that the server has not begun with, or that its connection cannot carry, before its
server connection counts as lost."""


class Carrier(Protocol):
    """The HTTP/2 connection whose streams carry the requests. can_open: the server accepts one more stream now."""

    @property
    def can_open(self) -> bool: ...

    @property
    def peer_address(self) -> SocketAddress: ...

    @property
    def local_address(self) -> SocketAddress: ...

    def begin(self, user: StreamUser, data: bytes) -> RequestStream:
        """Begin a request. data: begins with its whole head. Raises BadRequest, BadFrame or MalformedMessage."""

    def replace(self, transport: HTTP2ServerTransport) -> Deferred[Carrier]:
        """Find another connection for this transport, or make one: its request cannot be sent on this one."""

    def add(self, transport: HTTP2ServerTransport) -> None:
        """Carry the requests of a transport."""

    def remove(self, transport: HTTP2ServerTransport) -> None:
        """Carry them no more."""

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call in a later turn."""


class HTTP2ServerTransport(HTTP2StreamTransport):
    """The transport of a server connection whose requests a connection of HTTP/2 carries, one at a time. stream: the
    server connection; None once it is over. is_idle: no request is in progress."""

    __slots__ = (
        "_carrier", "_is_paused", "_is_scheduled", "_moving", "_request", "_resent", "_response",
        "_unsent", "failure", "stream", "write",
    )  # fmt: skip

    def __init__(self, carrier: Carrier) -> None:
        super().__init__()
        self._carrier = carrier
        self._request: RequestStream | None = None
        self._response = b""  # a whole one that waits until it is read
        self._unsent: bytes | None = None  # a request that waits for another connection
        self._moving: Deferred[Any] | None = None  # fires when that is there
        self._resent = 0  # how often the current request was sent again
        self._is_paused = self._is_scheduled = False
        self.failure = ""
        self.stream: Stream | None = None
        self.write: Callable[[bytes], object] = self._write
        carrier.add(self)

    @property
    def is_idle(self) -> bool:
        return self._request is None and self._unsent is None and not self._response

    # The request.

    def _write(self, data: bytes) -> None:
        request = self._request
        if request is not None and not request.is_written:
            self._continue(request, data)
            return
        if request is not None:  # its response is complete by its Content-Length, but its stream has not ended yet
            self._request = None
            self._resent = 0
            request.let_end()
        if self._unsent is None:
            self._begin(data)
        else:
            self._unsent += data
            self._apply_backpressure()

    def _begin(self, data: bytes) -> None:
        if not self._carrier.can_open:
            self._send_again(data)
            return
        try:
            request = self._request = self._carrier.begin(self, data)
        except (BadRequest, BadFrame, MalformedMessage):
            self._over_soon(False)
        else:
            if request.unsent or self._is_full:
                self._apply_backpressure()

    def _continue(self, request: RequestStream, data: bytes) -> None:
        try:
            request.write(data)
        except BadFrame:
            self._cancel()
            self._over_soon(False)
            return
        if request.has_ended and request.is_written and self._request is request:
            self._leave(request)
        self._apply_backpressure()

    def _leave(self, request: RequestStream) -> None:
        """The current request is over for us."""
        self._request = None
        self._resent = 0
        request.leave()

    def _cancel(self) -> None:
        """Abandon the request in progress."""
        request, self._request, self._response = self._request, None, b""
        if request is not None:
            request.cancel()
        moving, self._moving, self._unsent = self._moving, None, None
        if moving is not None:
            moving.cancel()

    def body_sent(self) -> None:
        self._apply_backpressure()

    # A request that this connection cannot carry.

    def request_refused(self, data: bytes | None) -> None:
        self._request = None
        if data is None:
            self._over(False)
        else:
            self._send_again(data)

    def _send_again(self, data: bytes) -> None:
        if self._resent >= MAX_RESENT:
            self._over_soon(False)
            return
        self._resent += 1
        self._unsent = data
        moving = self._moving = self._carrier.replace(self)
        moving.addCallbacks(self._moved, self._not_moved)

    def _moved(self, carrier: Carrier) -> None:
        self._moving = None
        data, self._unsent = self._unsent, None
        if self.stream is None or data is None:
            return
        if carrier is not self._carrier:
            self._carrier.remove(self)
            self._carrier = carrier
            carrier.add(self)
        self._begin(data)

    def _not_moved(self, why: Failure) -> None:
        self._moving = self._unsent = None
        self._over_soon(False)

    # The response.

    def whole_response_received(self, data: bytes) -> None:
        self._request = None
        self._resent = 0
        if self._is_paused:
            self._response = data
        elif self.stream is not None:
            self.stream.dataReceived(data)

    def _deliver_whole(self) -> None:
        """Give the owner a whole response that has waited."""
        data, self._response = self._response, b""
        if data and self.stream is not None:
            self.stream.dataReceived(data)

    def response_received(self) -> None:
        request, stream = self._request, self.stream
        if request is None or stream is None or self._is_paused:
            return
        data = request.take()
        has_ended, is_tunnel = request.has_ended, request.is_tunnel
        if has_ended and not is_tunnel and request.is_written:
            self._leave(request)
        if data:
            stream.dataReceived(data)
        if has_ended and is_tunnel:
            stream.readConnectionLost()

    def stream_reset(self) -> None:
        self._request = None
        self._over(False)

    def connection_lost(self, clean: bool, failure: str) -> None:
        """The HTTP/2 connection is over. failure: of TLS; "": there was none."""
        self._deliver_whole()
        self.failure = failure
        request, self._request = self._request, None
        if request is not None:
            request.user = None
        self._over(clean)

    # Called by the stream of the owner.

    @property
    def writev(self) -> Callable[[Sequence[bytes]], object]:
        return lambda pieces: self.write(b"".join(pieces))

    def half_close(self) -> None:
        self.clear_backpressure()
        self.write = nothing
        if self._request is not None and self._request.is_tunnel:
            self._request.end()

    def close(self) -> bool:
        self.clear_backpressure()
        self.write = nothing
        request = self._request
        unsent = self.unsent()
        if request is not None and request.is_tunnel:
            self._request = None
            request.end()
            request.leave()
        else:
            self._cancel()
        self._over_soon(True)
        return not unsent

    def close_with_reset(self) -> bool:
        self.abort()
        return True

    def abort(self) -> None:
        self.clear_backpressure()
        self.write = nothing
        self._cancel()
        self._over_soon(False)

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        if (self._request is not None or self._response) and not self._is_scheduled:
            self._is_scheduled = True
            self._carrier.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        if self._response and not self._is_paused:
            self._deliver_whole()
        else:
            self.response_received()

    def _over_soon(self, clean: bool) -> None:
        self.write = nothing
        self._carrier.call_soon(lambda: self._over(clean))

    def _over(self, clean: bool) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            self.write = nothing
            self.clear_backpressure()
            self._carrier.remove(self)
            stream.over(clean)

    # State.

    @property
    def is_moving(self) -> bool:
        """Whether its request waits for another connection, so that the end of this one does not concern it."""
        return self._moving is not None

    def unsent(self) -> int:
        waiting = len(self._unsent) if self._unsent is not None else 0
        return waiting + (self._request.unsent if self._request is not None else 0)

    def has_input(self) -> bool:
        return bool(self._response) or (self._request is not None and self._request.held > 0)

    def has_ended(self) -> bool:
        request = self._request
        return request is not None and request.is_tunnel and request.has_ended

    @property
    def peer_address(self) -> SocketAddress:
        return self._carrier.peer_address

    @property
    def local_address(self) -> SocketAddress:
        return self._carrier.local_address

    def state(self) -> str:
        return "idle" if self.is_idle else f"a request in progress, {self.unsent()} bytes unsent"
