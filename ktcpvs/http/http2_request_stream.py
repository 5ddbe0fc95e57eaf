"""One request to a server on a stream of an HTTP/2 connection, and its response."""

from __future__ import annotations

from typing import Protocol

from ktcpvs.http.http2_sender import StreamSender
from ktcpvs.protocols import http2
from ktcpvs.protocols.http2.client_messages import RequestBody, RequestHead, ResponseWriter
from ktcpvs.protocols.http2.constants import CANCEL, NO_ERROR

MAX_REPEATABLE_BYTES = 65536
"""The longest request, with the part of its body that was written, that is kept until its response begins, so that it
can be sent again if the server has not begun with it."""


class StreamCarrier(Protocol):
    """The HTTP/2 connection that carries a stream.

    is_full: the server does not read, so no body may be sent. scheme: of its requests, http or https.
    """

    protocol: http2.Client
    is_full: bool
    scheme: bytes

    def flush(self) -> None:
        """Send the output, now or soon."""

    def stream_over(self, stream_id: int) -> None:
        """The stream is over."""


class StreamUser(Protocol):
    """The owner of a request."""

    def whole_response_received(self, data: bytes) -> None:
        """The response has come as a whole, and the stream is over. data: it, with the interim responses before it."""

    def response_received(self) -> None:
        """More of the response can be taken. May be called although there is nothing."""

    def request_refused(self, data: bytes | None) -> None:
        """The server has not begun with the request, and never will. data: what was written of it, from the beginning;
        None: it is not kept any more."""

    def stream_reset(self) -> None:
        """The stream has ended before the response was complete."""

    def body_sent(self) -> None:
        """Some of what was buffered has been sent."""


class RequestStream:
    """One stream: takes the request as bytes of HTTP/1.1, sends it, and collects the response as bytes of HTTP/1.1.

    Most requests are sent at once and as a whole, and so are their responses received: `protocols/http2` does all of
    that. The others are read and written in pieces here.

    user: what is told of the response; None once nothing more of it is needed.
    """

    __slots__ = ("_body", "_carrier", "_is_dropped", "_kept", "_response", "_sender", "stream_id", "user")

    def __init__(self, carrier: StreamCarrier, user: StreamUser, data: bytes) -> None:
        """data: begins with the request's head, and with what is known of its body. Raises BadRequest, BadFrame,
        MalformedMessage."""
        self._carrier = carrier
        self.user: StreamUser | None = user
        self._body: RequestBody | None = None  # reads the rest of the request; None: it was written as a whole
        self._sender: StreamSender | None = None  # sends the rest of it; None: it was sent as a whole
        self._response: ResponseWriter | None = None  # of a response that comes in pieces
        self._is_dropped = False  # nothing more of the request is sent
        self._kept: bytes | None = data if len(data) <= MAX_REPEATABLE_BYTES else None
        self.stream_id = 0
        if not carrier.is_full and self._kept is not None:
            self.stream_id = carrier.protocol.request(data, carrier.scheme)
        if not self.stream_id:
            self._begin(carrier.protocol.request_head(data, carrier.scheme), data)

    def _begin(self, head: RequestHead, data: bytes) -> None:
        """Send the beginning of a request."""
        carrier = self._carrier
        self._response = ResponseWriter(head)
        self._body = body = RequestBody(head)
        pieces = body.feed(data[head.size :]) if len(data) > head.size else []
        is_whole = body.has_ended and not pieces and body.trailers is None
        self.stream_id = carrier.protocol.send_request(head.headers, head.method, is_whole)
        self._sender = sender = StreamSender(carrier.protocol, self.stream_id)
        sender.is_whole = is_whole
        if not is_whole:
            self._send(body, sender, pieces)

    # The request.

    def write(self, data: bytes) -> None:
        """Take more of the request. Raises BadFrame."""
        body, sender = self._body, self._sender
        if body is None or sender is None or body.has_ended:
            return
        kept = self._kept
        if kept is not None:
            self._kept = kept + data if len(kept) + len(data) <= MAX_REPEATABLE_BYTES else None
        pieces = body.feed(data)
        if not self._is_dropped:
            self._send(body, sender, pieces)

    def end(self) -> None:
        """The sender of a WebSocket has ended."""
        body, sender = self._body, self._sender
        if body is None or sender is None:
            return
        body.close()
        if not self._is_dropped:
            self._send(body, sender, [])

    def _send(self, body: RequestBody, sender: StreamSender, pieces: list[bytes]) -> None:
        sender.pieces += pieces
        if body.has_ended and not sender.is_whole:
            sender.is_whole = True
            if body.trailers is not None:
                sender.pieces.append(body.trailers)
        self.send_buffered()

    def send_buffered(self) -> None:
        """Send what the server's window allows."""
        sender = self._sender
        if sender is None:
            return
        is_sent = sender.send(self._carrier.is_full) > 0
        if sender.is_done:
            sender.end()
            if self.user is None:
                self.discard()
        if is_sent and self.user is not None:
            self.user.body_sent()
        self._carrier.flush()

    @property
    def is_written(self) -> bool:
        """Whether the whole request has been taken."""
        return self._body is None or self._body.has_ended

    @property
    def unsent(self) -> int:
        """The bytes of the body that wait for the server's window."""
        return self._sender.unsent if self._sender is not None else 0

    # The response.

    @property
    def is_tunnel(self) -> bool:
        """Whether the response accepts a WebSocket."""
        return self._response is not None and self._response.is_tunnel

    @property
    def has_ended(self) -> bool:
        """Whether the response is complete."""
        return self._response is not None and self._response.has_ended

    @property
    def held(self) -> int:
        """The bytes of DATA that wait here."""
        return self._response.held if self._response is not None else 0

    def _writer(self) -> ResponseWriter:
        """Return what writes a response that comes in pieces. Until it begins, the request is kept."""
        response = self._response
        if response is None:
            assert self._kept is not None  # as when the request was sent as a whole
            carrier = self._carrier
            response = self._response = ResponseWriter(carrier.protocol.request_head(self._kept, carrier.scheme))
        self._kept = None
        return response

    def whole_received(self, event: http2.WholeResponse) -> None:
        """The response has come as a whole, and the stream is over."""
        interim = self._response.take() if self._response is not None else b""
        if self.user is not None:
            self.user.whole_response_received(interim + event.data if interim else event.data)

    def interim_received(self, event: http2.InterimReceived) -> None:
        self._writer().interim(event.response)

    def response_begun(self, event: http2.ResponseReceived) -> None:
        self._writer().begin(event.response, event.end_stream)

    def data_received(self, event: http2.DataReceived) -> None:
        self._writer().data(event.data, event.end_stream)

    def trailers_received(self, event: http2.TrailersReceived) -> None:
        self._writer().trailers(event.lines)

    def deliver(self) -> None:
        """Tell the user of what has come, or drop it without one."""
        if self.user is not None:
            self.user.response_received()
        else:
            self.take()

    def take(self) -> bytes:
        """Return what has come of the response; the server may send as much more."""
        response = self._response
        if response is None:
            return b""
        held = response.held
        data = response.take()
        if held:
            self._carrier.protocol.acknowledge(self.stream_id, held)
            self._carrier.flush()
        return data

    def reset_received(self, event: http2.StreamReset) -> None:
        """The stream is over. After a whole response this only says that no more of the request is needed (RFC 9113,
        section 8.1)."""
        user = self.user
        self._drop_request()
        if self.has_ended and user is not None:
            user.body_sent()
            return
        self.user = None
        self._carrier.stream_over(self.stream_id)
        if user is None:
            return
        if event.is_unprocessed:
            user.request_refused(self._kept)
        else:
            user.stream_reset()

    def _drop_request(self) -> None:
        """Send nothing more of the request; what is still written of it is read to its end."""
        self._is_dropped = True
        if self._sender is not None:
            self._sender.pieces.clear()

    # The end.

    def leave(self) -> None:
        """The response is complete and taken, and the whole request is written: send what is left of it."""
        self.user = None
        if self._is_dropped or self._sender is None or self._sender.is_done:
            self.discard()

    def discard(self) -> None:
        """End the stream, if the server has not."""
        self._carrier.protocol.reset(self.stream_id, NO_ERROR if self.has_ended else CANCEL)
        self._carrier.stream_over(self.stream_id)
        self._carrier.flush()

    def cancel(self) -> None:
        """Neither the request nor its response is needed any more."""
        self.user = None
        self._drop_request()
        self.discard()
