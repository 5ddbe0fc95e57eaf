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
    """The HTTP/2 connection that carries a stream. is_full: the server does not read, so no body may be sent."""

    protocol: http2.Client
    is_full: bool

    def flush(self) -> None:
        """Send the output, now or soon."""

    def stream_over(self, stream_id: int) -> None:
        """The stream is over."""


class StreamUser(Protocol):
    """The owner of a request."""

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

    user: what is told of the response; None once nothing more of it is needed. response: what has come of it.
    """

    __slots__ = ("_body", "_carrier", "_is_dropped", "_kept", "_sender", "response", "stream_id", "user")

    def __init__(self, carrier: StreamCarrier, user: StreamUser, head: RequestHead, data: bytes) -> None:
        """data: begins with the head, and with what is known of the body. Raises BadFrame."""
        self._carrier = carrier
        self.user: StreamUser | None = user
        self.response = ResponseWriter(head)
        self._is_dropped = False  # nothing more of the request is sent
        self._kept: bytes | None = data if len(data) <= MAX_REPEATABLE_BYTES else None
        self._body: RequestBody | None = None  # reads the rest of the request; None: all of it was written at once
        self._sender: StreamSender | None = None  # sends the rest; None: all of it was sent at once
        if len(data) == head.total:
            self._begin_whole(head, data)
        else:
            self._begin(head, data)

    def _begin_whole(self, head: RequestHead, data: bytes) -> None:
        """Send a request that is complete, nearly always all of it."""
        carrier, protocol = self._carrier, self._carrier.protocol
        if not head.length:
            self.stream_id = protocol.send_request(head.headers, head.method, True)
            return
        content = data[head.size :]
        stream_id = self.stream_id = protocol.send_request(head.headers, head.method, False)
        sent = 0 if carrier.is_full else protocol.send_data(stream_id, content, end_stream=True)
        if sent < len(content):
            self._sender = sender = StreamSender(protocol, stream_id)
            sender.is_whole = True
            sender.pieces.append(content[sent:])

    def _begin(self, head: RequestHead, data: bytes) -> None:
        """Send the beginning of a request."""
        carrier = self._carrier
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

    def interim_received(self, event: http2.InterimReceived) -> None:
        self._kept = None
        self.response.interim(event.response)

    def response_begun(self, event: http2.ResponseReceived) -> None:
        self._kept = None
        self.response.begin(event.response, event.end_stream)

    def data_received(self, event: http2.DataReceived) -> None:
        self.response.data(event.data, event.end_stream)

    def trailers_received(self, event: http2.TrailersReceived) -> None:
        self.response.trailers(event.lines)

    def deliver(self) -> None:
        """Tell the user of what has come, or drop it without one."""
        if self.user is not None:
            self.user.response_received()
        else:
            self.take()

    def take(self) -> bytes:
        """Return what has come of the response; the server may send as much more."""
        held = self.response.held
        data = self.response.take()
        if held:
            self._carrier.protocol.acknowledge(self.stream_id, held)
            self._carrier.flush()
        return data

    def reset_received(self, event: http2.StreamReset) -> None:
        """The stream is over. After a whole response this only says that no more of the request is needed (RFC 9113,
        section 8.1)."""
        user = self.user
        self._drop_request()
        if self.response.has_ended and user is not None:
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
        self._carrier.protocol.reset(self.stream_id, NO_ERROR if self.response.has_ended else CANCEL)
        self._carrier.stream_over(self.stream_id)
        self._carrier.flush()

    def cancel(self) -> None:
        """Neither the request nor its response is needed any more."""
        self.user = None
        self._drop_request()
        self.discard()
