"""The server's end of an HTTP/2 connection: a client sends requests to it."""

from __future__ import annotations

from ktcpvs.protocols.http1 import BadFrame, BadResponse
from ktcpvs.protocols.http2 import fast_path
from ktcpvs.protocols.http2.connection import Connection
from ktcpvs.protocols.http2.constants import (
    ENABLE_CONNECT_PROTOCOL,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM_ID,
    NO_ERROR,
    NO_RFC7540_PRIORITIES,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
)
from ktcpvs.protocols.http2.downgrade import MAX_RESPONSE_HEAD, RequestWriter, ResponseReader
from ktcpvs.protocols.http2.errors import HTTP2ConnectionError, HTTP2StreamError, MalformedMessage
from ktcpvs.protocols.http2.events import PriorityUpdated, RequestReceived, RequestRefused, StreamReset
from ktcpvs.protocols.http2.flood_guard import PRIORITIES
from ktcpvs.protocols.http2.frames import number_of
from ktcpvs.protocols.http2.limits import Limits
from ktcpvs.protocols.http2.section import FieldSection
from ktcpvs.protocols.http2.stream import StreamState

SHUTDOWN_PING = b"shutdown"
"""The PING behind the first GOAWAY of a graceful end: once it is acknowledged, the client has read that GOAWAY."""

MAX_EVENTS_BETWEEN = 256
"""The most events between a request and its body with which both are joined: some clients send the heads of several
requests before the first body."""

MAX_GAPS = 16
"""The most ranges of streams that are remembered since the client has left them out."""


class Server(Connection):
    """The end that gets requests.

    last_stream_id: the last stream that the client has opened. is_closing: a graceful end has begun.
    """

    __slots__ = ("_gaps", "_goaway_id", "_joins_requests", "_preface_bytes", "last_stream_id")

    _is_server = True

    def __init__(self, limits: Limits, *, allows_connect: bool = True, joins_requests: bool = False) -> None:
        """allows_connect: offer extended CONNECT (RFC 8441). joins_requests: a request whose body has come with it in
        one DATA frame is one event."""
        super().__init__(limits)
        self._joins_requests = joins_requests
        self._preface_bytes = 0
        self._goaway_id: int | None = None  # the last stream that is handled, once that is limited
        self._gaps: list[tuple[int, int]] = []
        self.last_stream_id = 0
        settings = [
            (MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams),
            (INITIAL_WINDOW_SIZE, limits.stream_window),
            (MAX_FRAME_SIZE, limits.max_frame_size),
            (MAX_HEADER_LIST_SIZE, limits.max_list_size),
            (NO_RFC7540_PRIORITIES, 1),
        ]
        if allows_connect:
            settings.append((ENABLE_CONNECT_PROTOCOL, 1))
        self._open(settings)

    def reset(self, stream_id: int, code: int) -> None:
        """As `Connection.reset`. INTERNAL_ERROR leaves a stream open whose response is complete, since clients would
        drop the response: its request ends, or the owner resets it with NO_ERROR."""
        stream = self.streams.get(stream_id)
        if code != INTERNAL_ERROR or stream is None or not stream.is_ended:
            super().reset(stream_id, code)

    def _read_preface(self, data: bytes) -> int:
        if self._preface_bytes == len(PREFACE):
            return 0
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "the client's first bytes are not the preface of HTTP/2")
        if len(data) <= len(PREFACE) + 3:
            return -1
        self._preface_bytes = len(PREFACE)
        if data[len(PREFACE) + 3] != SETTINGS:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "the client's first frame is not SETTINGS")
        return len(PREFACE)

    def _data_received(self, stream: StreamState, data: bytes, end_stream: bool) -> None:
        request = None
        if self._joins_requests and end_stream and stream.received == len(data):
            request = self._request_before(stream.stream_id)
        if request is not None:
            request.head += RequestWriter(request.request, False).data(data, True)
            request.end_stream = True
            stream.held -= len(data)
            self._out += self.flow_control.give_back(len(data))
        else:
            super()._data_received(stream, data, end_stream)

    def _request_before(self, stream_id: int) -> RequestReceived | None:
        """Return the event of a request if it has come with the same bytes as what comes now."""
        for event in reversed(self._events[-MAX_EVENTS_BETWEEN:]):
            if isinstance(event, RequestReceived) and event.stream_id == stream_id:
                return event if event.head else None
        return None

    def _on_section(self, stream_id: int, section: FieldSection, end_stream: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, section, end_stream)
            return
        if not stream_id & 1 or stream_id <= self.last_stream_id:
            self._on_closed(stream_id, "HEADERS")
            return
        if stream_id > self.last_stream_id + 2:
            self._gaps = [*self._gaps[1 - MAX_GAPS :], (self.last_stream_id + 2, stream_id - 2)]
        self.last_stream_id = stream_id
        if self._goaway_id is not None and stream_id > self._goaway_id:
            return  # the client has not read our GOAWAY yet, and repeats the request elsewhere
        if len(self.streams) >= self._limits.max_concurrent_streams:
            most = self._limits.max_concurrent_streams
            raise HTTP2StreamError(REFUSED_STREAM, f"more than {most} streams at a time")
        self._guard.useful += 1
        stream = StreamState(stream_id, self.settings.initial_window, self.flow_control.stream_window)
        self.streams[stream_id] = stream
        self._on_request(stream, section, end_stream)
        if end_stream:
            self._peer_ended(stream)

    def _on_request(self, stream: StreamState, section: FieldSection, end_stream: bool) -> None:
        stream_id, most = stream.stream_id, self._limits.max_crumbs
        if section.is_too_large:
            self._events.append(RequestRefused(stream_id, 431, self._too_large(), end_stream))
            return
        request = section.request()
        if request.crumbs > most:
            reason = f"the request has more than {most} Cookie fields"
            self._events.append(RequestRefused(stream_id, 431, reason, end_stream))
            return
        if request.method != b"CONNECT":
            stream.length = request.length
            if end_stream and request.length:
                raise MalformedMessage("the body is not as long as Content-Length says")
        head = b"" if request.protocol else request.head(end_stream)
        self._events.append(RequestReceived(stream_id, request, end_stream, section.sensitive, head))

    def _on_priority_update(self, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) < 4:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "PRIORITY_UPDATE on a stream, or without one")
        self._guard.count(PRIORITIES, self._now)
        prioritized = number_of(payload)[0] & 0x7FFFFFFF
        if not prioritized & 1:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "PRIORITY_UPDATE for a stream that clients cannot open")
        if prioritized in self.streams:
            self._events.append(PriorityUpdated(prioritized, payload[4:]))

    def _reset_event(self, stream_id: int, code: int) -> StreamReset:
        return StreamReset(stream_id, code, "the client has reset the stream", by_peer=True)

    def _goaway_received(self, last_stream_id: int) -> None:
        """Nothing follows: a server opens no streams."""

    def _is_idle(self, stream_id: int) -> bool:
        return (
            not stream_id & 1
            or stream_id > self.last_stream_id
            or any(first <= stream_id <= last for first, last in self._gaps)
        )

    def _is_ignored(self, stream_id: int) -> bool:
        return super()._is_ignored(stream_id) or (self._goaway_id is not None and stream_id > self._goaway_id)

    # Sending.

    def respond(self, stream_id: int, data: bytes, method: bytes) -> bool:
        """Send a whole response, and end our side of the stream. Return False, having sent nothing, if that is not
        possible: `data` is not a whole response, or the windows do not allow its body now.

        data: in HTTP/1.1. method: of the request.
        """
        done = fast_path.respond(self, stream_id, data, method)
        if done is not None:
            return done
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_ended:
            return True
        reader = ResponseReader(method, MAX_RESPONSE_HEAD)
        try:
            pieces = reader.feed(data)
        except (BadFrame, BadResponse):
            return False
        if not reader.has_ended:
            return False
        return self._send_whole(stream, pieces)

    # The graceful end (RFC 9113, section 6.8).

    @property
    def is_closing(self) -> bool:
        return self._goaway_id is not None

    @property
    def is_drained(self) -> bool:
        """Whether a graceful end is complete: no stream is open, and none will be handled any more."""
        return self._goaway_id is not None and self._goaway_id < MAX_STREAM_ID and not self.streams

    def shut_down(self) -> None:
        """End the connection gracefully: ask for no new streams, and refuse them one round trip later.

        The first call sends a GOAWAY that still allows every stream, and a PING. Its acknowledgement, or the next call
        if that does not come in time, sends the one that limits them. Then wait for `is_drained`.
        """
        if self._goaway_id is None:
            super().goaway()
            self._goaway_id = MAX_STREAM_ID
            self.ping(SHUTDOWN_PING)
        elif self._goaway_id == MAX_STREAM_ID:
            self.goaway()

    def _ping_acknowledged(self, payload: bytes) -> None:
        if payload == SHUTDOWN_PING and self._goaway_id == MAX_STREAM_ID:
            self.goaway()
        else:
            super()._ping_acknowledged(payload)

    def goaway(self, code: int = NO_ERROR, reason: str = "") -> None:
        """Tell the client that no later stream than its last one will be handled."""
        if self._goaway_id is None or self._goaway_id > self.last_stream_id:
            self._goaway_id = self.last_stream_id
        super().goaway(code, reason)

    def _last_handled(self) -> int:
        return MAX_STREAM_ID if self._goaway_id is None else self._goaway_id
