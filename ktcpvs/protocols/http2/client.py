"""The client's end of an HTTP/2 connection: it sends requests to a server."""

from __future__ import annotations

from ktcpvs.protocols.http1 import BadFrame, BadRequest
from ktcpvs.protocols.http2 import fast_path
from ktcpvs.protocols.http2.client_messages import RequestBody, RequestHead, RequestHeads
from ktcpvs.protocols.http2.connection import Connection
from ktcpvs.protocols.http2.constants import (
    ENABLE_PUSH,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM_ID,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
)
from ktcpvs.protocols.http2.errors import HTTP2ConnectionError, HTTP2StreamError, MalformedMessage
from ktcpvs.protocols.http2.events import (
    DataReceived,
    Event,
    InterimReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
    WholeResponse,
)
from ktcpvs.protocols.http2.header_list import HeaderList
from ktcpvs.protocols.http2.limits import Limits
from ktcpvs.protocols.http2.section import FieldSection
from ktcpvs.protocols.http2.stream import StreamState


class Client(Connection):
    """The end that sends requests."""

    __slots__ = ("_has_begun", "_heads", "_joins_responses", "_next_id")

    def __init__(self, limits: Limits, *, joins_responses: bool = False) -> None:
        """joins_responses: a response that has come as a whole is one event, WholeResponse."""
        super().__init__(limits)
        self._joins_responses = joins_responses
        self._heads = RequestHeads()
        self._next_id = 1
        self._has_begun = False  # the server's first frame has come
        self._out.append(PREFACE)
        self._open(
            [
                (ENABLE_PUSH, 0),
                (INITIAL_WINDOW_SIZE, limits.stream_window),
                (MAX_FRAME_SIZE, limits.max_frame_size),
                (MAX_HEADER_LIST_SIZE, limits.max_list_size),
            ]
        )

    @property
    def has_stream_numbers(self) -> bool:
        """Whether there are numbers left for new streams."""
        return self._next_id <= MAX_STREAM_ID

    @property
    def can_open(self) -> bool:
        """Whether the server accepts one more stream now."""
        return (
            not self.is_over
            and not self.has_received_goaway
            and len(self.streams) < self.settings.max_concurrent_streams
            and self._next_id <= MAX_STREAM_ID
        )

    def send_request(self, headers: HeaderList, method: bytes, end_stream: bool) -> int:
        """Begin a request; return its stream. Call it only if `can_open`.

        method: of the request; b"HEAD" says that the response has no body. end_stream: the request has no body.
        """
        stream_id = self._begin(method).stream_id
        self.send_headers(stream_id, headers, end_stream)
        return stream_id

    def request(self, data: bytes, scheme: bytes, is_whole: bool = True) -> int:
        """Begin a request; return its stream. Return 0, having sent nothing, if that is not possible: `data` is not a
        whole request, it is one for a WebSocket, or the windows do not allow its body. Call it only if `can_open`.

        data: in HTTP/1.1, its head and body; without `is_whole` only the head, and the body follows by `send_data`.
        scheme: http or https.
        """
        begun = fast_path.request(self, data, scheme, is_whole)
        if begun is not None:
            return begun
        try:
            head = self.request_head(data, scheme)
            body = RequestBody(head)
            pieces = body.feed(data[head.size :]) if is_whole else []
        except (BadFrame, BadRequest, MalformedMessage):
            return 0
        if head.accept or (is_whole and not body.has_ended):
            return 0
        size = sum(map(len, pieces))
        if size > min(self.settings.initial_window, self.flow_control.send_window):
            return 0
        stream = self._begin(head.method)
        if is_whole:
            trailers = () if body.trailers is None else (body.trailers,)
            self._send_whole(stream, (head.headers, *pieces, *trailers))
        else:
            self.send_headers(stream.stream_id, head.headers)
        return stream.stream_id

    def request_head(self, data: bytes, scheme: bytes) -> RequestHead:
        """Return the head with which `data` begins, ready to be sent. Raises BadRequest, MalformedMessage, BadFrame."""
        return self._heads.read(data, scheme, self.settings.allows_connect)

    def _begin(self, method: bytes) -> StreamState:
        """Open a stream."""
        stream_id = self._next_id
        self._next_id += 2
        stream = StreamState(stream_id, self.settings.initial_window, self.flow_control.stream_window)
        stream.method = method
        self.streams[stream_id] = stream
        return stream

    def receive(self, data: bytes, now: int) -> list[Event]:
        events = super().receive(data, now)
        return self._joined(events) if self._joins_responses and events else events

    def _joined(self, events: list[Event]) -> list[Event]:
        """Return the events with those of each whole response as one, at the place of the last of them."""
        done = fast_path.join_responses(self, events)
        if done is not None:
            return done
        parts: dict[int, list[Event]] = {}
        for event in events:
            if isinstance(event, ResponseReceived) and event.method != b"CONNECT":
                parts[event.stream_id] = [event]
            elif isinstance(event, DataReceived | TrailersReceived | StreamReset) and event.stream_id in parts:
                parts[event.stream_id].append(event)
        last = {id(of_one[-1]): of_one for stream_id, of_one in parts.items() if self._is_whole(stream_id, of_one[-1])}
        if not last:
            return events
        joined = {id(event) for of_one in last.values() for event in of_one}
        out: list[Event] = []
        for event in events:
            if id(event) in last:
                out.append(_whole_response(last[id(event)]))
            elif id(event) not in joined:
                out.append(event)
        return out

    def _is_whole(self, stream_id: int, last: Event) -> bool:
        """Whether a stream is over, and `last`, its last event, is the regular end of its response."""
        if stream_id in self.streams:
            return False
        is_end = isinstance(last, ResponseReceived | DataReceived) and last.end_stream
        return is_end or isinstance(last, TrailersReceived)

    def _read_preface(self, data: bytes) -> int:
        if self._has_begun:
            return 0
        if len(data) <= 3:
            return -1
        self._has_begun = True
        if data[3] != SETTINGS:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "the server's first bytes are not the SETTINGS of HTTP/2")
        return 0

    def _on_section(self, stream_id: int, section: FieldSection, end_stream: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is None or stream.has_ended:
            self._on_closed(stream_id, "HEADERS")
        elif stream.has_response:
            self._on_trailers(stream, section, end_stream)
        elif section.is_too_large:
            raise HTTP2StreamError(PROTOCOL_ERROR, self._too_large())
        else:
            self._on_response(stream, section, end_stream)

    def _on_response(self, stream: StreamState, section: FieldSection, end_stream: bool) -> None:
        response = section.response()
        if response.is_interim:
            if end_stream:
                raise MalformedMessage("an interim response ends the stream")
            self._events.append(InterimReceived(stream.stream_id, response))
            return
        stream.has_response = True
        stream.length = response.length if response.has_body(stream.method) else 0
        if stream.method == b"CONNECT" and response.status < 300:
            stream.length = None
        if end_stream and stream.length:
            raise MalformedMessage("the body is not as long as Content-Length says")
        self._events.append(ResponseReceived(stream.stream_id, response, end_stream, stream.method))
        if end_stream:
            self._peer_ended(stream)

    def _may_have_body(self, stream: StreamState) -> bool:
        return stream.has_response

    def _reset_event(self, stream_id: int, code: int) -> StreamReset:
        reason = "the server has reset the stream"
        return StreamReset(stream_id, code, reason, by_peer=True, is_unprocessed=code == REFUSED_STREAM)

    def _goaway_received(self, last_stream_id: int) -> None:
        """Requests on later streams have not been begun (RFC 9113, section 6.8)."""
        for stream in [stream for stream in self.streams.values() if stream.stream_id > last_stream_id]:
            self._remove(stream)
            reason = "the server has gone away before this request"
            self._events.append(
                StreamReset(stream.stream_id, REFUSED_STREAM, reason, by_peer=True, is_unprocessed=True)
            )

    def _is_idle(self, stream_id: int) -> bool:
        return not stream_id & 1 or stream_id >= self._next_id


def _whole_response(events: list[Event]) -> WholeResponse:
    """Return the event for a whole response. events: those of its stream."""
    begun, *rest = events
    assert isinstance(begun, ResponseReceived)
    content = b"".join([event.data for event in rest if isinstance(event, DataReceived)])
    trailers = b"".join([event.lines for event in rest if isinstance(event, TrailersReceived)])
    return WholeResponse(begun.stream_id, begun.response.message(begun.method, content, trailers))
