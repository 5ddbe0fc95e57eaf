"""The client's end of an HTTP/2 connection: it sends requests to a server."""

from __future__ import annotations

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
from ktcpvs.protocols.http2.events import InterimReceived, ResponseReceived, StreamReset
from ktcpvs.protocols.http2.header_list import HeaderList
from ktcpvs.protocols.http2.limits import Limits
from ktcpvs.protocols.http2.section import FieldSection
from ktcpvs.protocols.http2.stream import StreamState


class Client(Connection):
    """The end that sends requests."""

    __slots__ = ("_has_begun", "_next_id")

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
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
            and self.has_stream_numbers
        )

    def send_request(self, headers: HeaderList, method: bytes, end_stream: bool) -> int:
        """Begin a request; return its stream. Call it only if `can_open`.

        method: of the request; b"HEAD" says that the response has no body. end_stream: the request has no body.
        """
        stream_id = self._next_id
        self._next_id += 2
        stream = StreamState(stream_id, self.settings.initial_window, self._stream_window)
        stream.method = method
        self.streams[stream_id] = stream
        self.send_headers(stream_id, headers, end_stream)
        return stream_id

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
        self._events.append(ResponseReceived(stream.stream_id, response, end_stream))
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
