"""An HTTP/2 connection (RFC 9113): its frames in and out, which clients and servers have in common.

It is sans-IO. The owner gives it the bytes that come and gets events, calls methods to send, and takes the output.

    events = connection.receive(data, now)
    ...
    for piece in connection.take_output(): transport.write(piece)

Bodies are not buffered here. A received piece counts against the peer's windows until the owner calls `acknowledge`;
`send_data` sends what the peer's windows allow and says how much that was. The output grows with what is received, so
the owner must not read while the peer does not: that bounds it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from ktcpvs.protocols.http2 import fast_path
from ktcpvs.protocols.http2.constants import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_HEADER_BYTES,
    FRAME_SIZE_ERROR,
    HAS_PRIORITY,
    NO_ERROR,
    PADDED,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
)
from ktcpvs.protocols.http2.errors import HPACKError, HTTP2ConnectionError, HTTP2StreamError, MalformedMessage
from ktcpvs.protocols.http2.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    GoAwayReceived,
    PingAcknowledged,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
    WindowOpened,
)
from ktcpvs.protocols.http2.field_block import FieldBlock
from ktcpvs.protocols.http2.flood_guard import (
    EMPTY_FRAMES,
    PINGS,
    PRIORITIES,
    RESETS,
    SETTINGS_FRAMES,
    SMALL_WINDOWS,
    STREAM_ERRORS,
    UNKNOWN_FRAMES,
    WINDOW_UPDATES,
    FloodGuard,
)
from ktcpvs.protocols.http2.flow_control import FlowControl
from ktcpvs.protocols.http2.frames import (
    SETTINGS_ACK,
    data_header,
    goaway_frame,
    header_frames,
    iter_settings,
    number_of,
    ping_frame,
    reset_frame,
    settings_frame,
    unpack_header,
)
from ktcpvs.protocols.http2.header_list import HeaderList
from ktcpvs.protocols.http2.hpack import Encoder
from ktcpvs.protocols.http2.limits import Limits
from ktcpvs.protocols.http2.peer_settings import PeerSettings
from ktcpvs.protocols.http2.request import read_trailers
from ktcpvs.protocols.http2.section import FieldSection
from ktcpvs.protocols.http2.stream import StreamState

MIN_WINDOWED_PIECE = 256
"""Bytes: pieces of bodies that are smaller because of the peer's window are counted, since each costs a frame."""

MAX_REMEMBERED_RESETS = 128
"""The most streams that we have reset lately and whose late frames are ignored."""

MAX_JOINED_DATA = 4096
"""The most bytes of a piece that are copied behind its frame header; a longer one is a piece of its own."""

MAX_JOINED_OUTPUT = 8192
"""The most bytes of an output that is copied together."""

MAX_DEBUG_BYTES = 256
"""The most bytes of a GOAWAY's debug data that are kept."""


class Connection(ABC):
    """One end of a connection, without what only a server or only a client does: see `Server` and `Client`.

    streams: the open ones, by number. settings: of the peer. flow_control: the windows. is_over: a connection error has
    ended it; nothing is received or sent any more. has_received_goaway: the peer accepts no more streams.
    """

    __slots__ = (
        "_closed_by_us", "_encoder", "_events", "_field_block", "_guard", "_limits", "_now", "_out", "_received",
        "flow_control", "has_received_goaway", "is_over", "settings", "streams",
    )  # fmt: skip

    _is_server = False

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._encoder = Encoder()
        self._guard = FloodGuard(limits)
        self._field_block = FieldBlock(limits, self._guard)
        self._received = b""  # the beginning of a frame
        self._events: list[Event] = []
        self._out: list[bytes] = []
        self._now = 0
        self._closed_by_us: dict[int, None] = {}  # streams that we have reset, oldest first
        self.streams: dict[int, StreamState] = {}
        self.settings = PeerSettings()
        self.flow_control = FlowControl(limits)
        self.is_over = self.has_received_goaway = False

    def _open(self, settings: list[tuple[int, int]]) -> None:
        """Send our settings, and open the connection's window."""
        self._out.append(settings_frame(settings))
        self._out += self.flow_control.open()

    def __repr__(self) -> str:
        state = "over" if self.is_over else f"{len(self.streams)} streams"
        windows = self.flow_control
        return f"<{type(self).__name__} {state}, may send {windows.send_window}, may receive {windows.receive_window}>"

    @property
    def glitches(self) -> int:
        """The count of frames that ask for nothing, since the connection began."""
        return self._guard.glitches

    @property
    def held_bytes(self) -> int:
        """The bytes that wait here: of a frame or a field block that is not complete, and of the output."""
        return len(self._received) + self._field_block.held_bytes + sum(map(len, self._out))

    # Receiving.

    def receive(self, data: bytes, now: int) -> list[Event]:
        """Take bytes from the peer; return what they mean. now: seconds of any clock that does not go back.

        After an error of the peer that ends the connection, the last event is ConnectionEnded.
        """
        self._now = now
        events: list[Event] = []
        self._events = events
        if self.is_over:
            return events
        if self._received:
            data = self._received + data
        try:
            position = self._read_preface(data)
            if position >= 0:
                position = self._read_frames(data, position)
                self._received = data[position:] if position < len(data) else b""
            else:
                self._received = data
        except HTTP2ConnectionError as error:
            self._fail(error)
        return events

    def _read_preface(self, data: bytes) -> int:
        """Return where the frames begin; -1 while the preface is not complete. Raises HTTP2ConnectionError."""
        return 0

    def _read_frames(self, data: bytes, position: int) -> int:
        """Read all complete frames; return where the first incomplete one begins."""
        end, largest = len(data), self._limits.max_frame_size
        handlers = self._HANDLERS
        while True:
            try:
                position = fast_path.read_frames(self, data, position)
            except HPACKError as error:
                raise HTTP2ConnectionError(COMPRESSION_ERROR, str(error)) from None
            if end - position < FRAME_HEADER_BYTES:
                break
            high, low, kind, flags, stream_id = unpack_header(data, position)
            length = high << 16 | low
            if length > largest:
                raise HTTP2ConnectionError(
                    FRAME_SIZE_ERROR, f"a frame has {length} bytes; SETTINGS_MAX_FRAME_SIZE is {largest}"
                )
            begin = position + FRAME_HEADER_BYTES
            position_after = begin + length
            if position_after > end:
                break
            stream_id &= 0x7FFFFFFF
            if self._field_block.stream_id is not None and (
                kind != CONTINUATION or stream_id != self._field_block.stream_id
            ):
                raise HTTP2ConnectionError(PROTOCOL_ERROR, "another frame is between those of a field block")
            payload = data[begin:position_after]
            position = position_after
            try:
                if kind <= CONTINUATION:
                    handlers[kind](self, stream_id, flags, payload)
                elif kind == PRIORITY_UPDATE:
                    self._on_priority_update(stream_id, payload)
                else:
                    self._guard.count(UNKNOWN_FRAMES, self._now)
            except HTTP2StreamError as error:
                self._reset_failed(stream_id, error)
        return position

    def _fail(self, error: HTTP2ConnectionError) -> None:
        """End the connection because of an error of the peer."""
        if self.is_over:
            return
        self.goaway(error.code, error.reason)
        self.is_over = True
        self.streams.clear()
        self._received = b""
        self._field_block.clear()
        self._events.append(ConnectionEnded(error.code, error.reason))

    def _reset_failed(self, stream_id: int, error: HTTP2StreamError) -> None:
        """Reset a stream because of an error of the peer. Raises HTTP2ConnectionError if that happens too often."""
        if self._is_idle(stream_id):  # there is nothing that could be reset
            raise HTTP2ConnectionError(error.code, error.reason)
        is_open = stream_id in self.streams
        self._close_with_reset(stream_id, error.code)
        if is_open:
            self._events.append(StreamReset(stream_id, error.code, error.reason, by_peer=False))
        self._guard.count(STREAM_ERRORS, self._now)

    # DATA.

    def _on_data(self, stream_id: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self.flow_control.receive(size)
        stream = self.streams.get(stream_id)
        if flags & PADDED:
            payload = _without_padding(payload)
        if stream is None or stream.has_ended:
            self._out += self.flow_control.give_back(size)
            self._on_closed(stream_id, "DATA")
            return
        stream.receive_window -= size
        content = len(payload)
        stream.received += content
        end_stream = bool(flags & END_STREAM)
        self._check_body(stream, size, end_stream)
        stream.held += content
        if size > content:
            self._out += self.flow_control.give_back_on(stream, size - content)
        if not content and not end_stream:
            self._guard.count(EMPTY_FRAMES, self._now)
            return
        self._data_received(stream, payload, end_stream)
        if end_stream:
            self._peer_ended(stream)

    def _data_received(self, stream: StreamState, data: bytes, end_stream: bool) -> None:
        """A piece of a body has come, which is held until the owner acknowledges it."""
        self._events.append(DataReceived(stream.stream_id, data, end_stream))

    def _check_body(self, stream: StreamState, size: int, end_stream: bool) -> None:
        """Check a piece of a body, `size` bytes with its padding. Raises HTTP2StreamError."""
        why = ""
        if stream.receive_window < 0:
            code, why = FLOW_CONTROL_ERROR, "DATA exceeds the window of the stream"
        elif not self._may_have_body(stream):
            code, why = PROTOCOL_ERROR, "DATA before the head of the response, or where there can be none"
        elif stream.length is not None and (
            stream.received > stream.length or (end_stream and stream.received != stream.length)
        ):
            code, why = PROTOCOL_ERROR, "the body is not as long as Content-Length says"
        if why:
            self._out += self.flow_control.give_back(size)
            raise HTTP2StreamError(code, why)

    def _may_have_body(self, stream: StreamState) -> bool:
        """Whether DATA may come on a stream now."""
        return True

    def acknowledge(self, stream_id: int, size: int) -> None:
        """The owner has passed on `size` bytes of a body: the peer may send as many more."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return  # what it held was given back when it ended
        size = min(size, stream.held)
        if size:
            stream.held -= size
            self._out += self.flow_control.give_back_on(stream, size)

    # Field blocks.

    def _on_headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not stream_id:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & PADDED:
            payload = _without_padding(payload)
        depends_on_itself = False
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise HTTP2ConnectionError(FRAME_SIZE_ERROR, "HEADERS are too short for their priority")
            depends_on_itself = number_of(payload)[0] & 0x7FFFFFFF == stream_id
            payload = payload[5:]
        self._field_block.begin(stream_id, bool(flags & END_STREAM), depends_on_itself)
        self._on_fragment(stream_id, flags, payload)

    def _on_continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        if self._field_block.stream_id is None:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._on_fragment(stream_id, flags, payload)

    def _on_fragment(self, stream_id: int, flags: int, fragment: bytes) -> None:
        block = self._field_block
        if not flags & END_HEADERS:
            block.append(fragment, self._now)
            return
        self._take_section(stream_id, block.finish(fragment), block.end_stream)
        if block.depends_on_itself:
            raise HTTP2StreamError(PROTOCOL_ERROR, "the stream depends on itself")

    def _take_section(self, stream_id: int, section: FieldSection, end_stream: bool) -> None:
        try:
            self._on_section(stream_id, section, end_stream)
        except MalformedMessage as malformed:
            raise HTTP2StreamError(PROTOCOL_ERROR, str(malformed)) from None

    def _section_received(self, stream_id: int, section: FieldSection, end_stream: bool) -> None:
        """The fast path has decoded an unusual section. Raises HTTP2ConnectionError."""
        try:
            self._take_section(stream_id, section, end_stream)
        except HTTP2StreamError as error:
            self._reset_failed(stream_id, error)

    @abstractmethod
    def _on_section(self, stream_id: int, section: FieldSection, end_stream: bool) -> None:
        """A header section has come. Raises MalformedMessage, HTTP2StreamError, HTTP2ConnectionError."""

    def _on_trailers(self, stream: StreamState, section: FieldSection, end_stream: bool) -> None:
        if stream.has_ended:
            raise HTTP2StreamError(STREAM_CLOSED, "HEADERS behind the end of the stream")
        if not end_stream:
            raise HTTP2StreamError(PROTOCOL_ERROR, "trailers that do not end the stream")
        if section.is_too_large:
            raise HTTP2StreamError(PROTOCOL_ERROR, self._too_large())
        if stream.length is not None and stream.received != stream.length:
            raise HTTP2StreamError(PROTOCOL_ERROR, "the body is not as long as Content-Length says")
        self._events.append(TrailersReceived(stream.stream_id, read_trailers(section.fields)))
        self._peer_ended(stream)

    def _too_large(self) -> str:
        limits = self._limits
        return f"the header list has more than {limits.max_list_size} bytes or {limits.max_fields} fields"

    # Other frames.

    def _on_priority(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not stream_id:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._guard.count(PRIORITIES, self._now)
        if len(payload) != 5:
            raise HTTP2StreamError(FRAME_SIZE_ERROR, "PRIORITY must have 5 bytes")
        if number_of(payload)[0] & 0x7FFFFFFF == stream_id:
            raise HTTP2StreamError(PROTOCOL_ERROR, "the stream depends on itself")

    def _on_reset(self, stream_id: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise HTTP2ConnectionError(FRAME_SIZE_ERROR, "RST_STREAM must have 4 bytes")
        if self._is_idle(stream_id):
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "RST_STREAM on stream 0, or on one that was never open")
        stream = self.streams.get(stream_id)
        if self._is_server and (stream is None or not stream.is_ended):
            self._guard.count(RESETS, self._now)
        if stream is not None:
            (code,) = number_of(payload)
            self._remove(stream)
            self._events.append(self._reset_event(stream_id, code))

    @abstractmethod
    def _reset_event(self, stream_id: int, code: int) -> StreamReset:
        """The event for a stream that the peer has reset."""

    def _on_settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise HTTP2ConnectionError(FRAME_SIZE_ERROR, "SETTINGS must have 6 bytes for each setting, their ACK none")
        self._guard.count(SETTINGS_FRAMES, self._now)
        if flags & ACK:
            self._out += self.flow_control.settle(self.streams.values())
            return
        settings = self.settings
        before = settings.initial_window
        for identifier, value in iter_settings(payload):
            settings.apply(identifier, value, not self._is_server)
        self._encoder.set_table_size(settings.table_size)
        self._out.append(SETTINGS_ACK)
        if settings.initial_window != before:
            change = settings.initial_window - before
            for stream in self.flow_control.change_initial_window(change, self.streams.values()):
                self._window_opened(stream.stream_id, stream.send_window)
        self._events.append(SettingsReceived())

    def _on_push(self, stream_id: int, flags: int, payload: bytes) -> None:
        raise HTTP2ConnectionError(PROTOCOL_ERROR, "PUSH_PROMISE, which is not allowed here")

    def _on_ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise HTTP2ConnectionError(FRAME_SIZE_ERROR, "PING must have 8 bytes")
        self._guard.count(PINGS, self._now)
        if flags & ACK:
            self._ping_acknowledged(payload)
        else:
            self._out.append(ping_frame(payload, is_ack=True))

    def _ping_acknowledged(self, payload: bytes) -> None:
        self._events.append(PingAcknowledged(payload))

    def _on_goaway(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise HTTP2ConnectionError(FRAME_SIZE_ERROR, "GOAWAY must have at least 8 bytes")
        if self.has_received_goaway:  # the first one is the ordinary end of a connection
            self._guard.count(UNKNOWN_FRAMES, self._now)
        self.has_received_goaway = True
        last, code = number_of(payload)[0] & 0x7FFFFFFF, number_of(payload, 4)[0]
        self._events.append(GoAwayReceived(last, code, payload[8 : 8 + MAX_DEBUG_BYTES]))
        self._goaway_received(last)

    @abstractmethod
    def _goaway_received(self, last_stream_id: int) -> None:
        """The peer handles no later stream of ours."""

    def _on_window_update(self, stream_id: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise HTTP2ConnectionError(FRAME_SIZE_ERROR, "WINDOW_UPDATE must have 4 bytes")
        self._guard.count(WINDOW_UPDATES, self._now)
        increment = number_of(payload)[0] & 0x7FFFFFFF
        windows = self.flow_control
        if not stream_id:
            if windows.update(increment):
                self._window_opened(0, windows.send_window)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise HTTP2ConnectionError(PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never open")
        elif windows.update_stream(stream, increment):
            self._window_opened(stream_id, stream.send_window)

    def _window_opened(self, stream_id: int, window: int) -> None:
        """A window has opened for which the owner waits. stream_id: 0 for that of the connection."""
        if window < MIN_WINDOWED_PIECE:
            self._guard.count(SMALL_WINDOWS, self._now)
        self._events.append(WindowOpened(stream_id))

    def _on_priority_update(self, stream_id: int, payload: bytes) -> None:
        raise HTTP2ConnectionError(PROTOCOL_ERROR, "PRIORITY_UPDATE, which only clients send")

    # Streams that are over.

    @abstractmethod
    def _is_idle(self, stream_id: int) -> bool:
        """Whether a stream was never open."""

    def _on_closed(self, stream_id: int, what: str) -> None:
        """DATA or HEADERS came on a stream that the peer has ended, or that is not open. Late frames of streams that we
        have reset are ignored."""
        if stream_id in self.streams:
            raise HTTP2StreamError(STREAM_CLOSED, f"{what} behind the end of the stream")
        if self._is_idle(stream_id):
            raise HTTP2ConnectionError(PROTOCOL_ERROR, f"{what} on stream 0, or on one that was never open")
        if not self._is_ignored(stream_id):
            raise HTTP2ConnectionError(STREAM_CLOSED, f"{what} on a closed stream")

    def _is_ignored(self, stream_id: int) -> bool:
        """Whether the frames of a stream that is not open are ignored, since the peer may not know that yet."""
        return stream_id in self._closed_by_us

    def _peer_ended(self, stream: StreamState) -> None:
        stream.has_ended = True
        if stream.is_ended:
            self._remove(stream)

    def _remove(self, stream: StreamState) -> None:
        """Forget a stream that is over, and give back what the owner has not acknowledged."""
        del self.streams[stream.stream_id]
        if stream.held:
            self._out += self.flow_control.give_back(stream.held)

    def _close_with_reset(self, stream_id: int, code: int) -> None:
        self._out.append(reset_frame(stream_id, code))
        closed = self._closed_by_us
        if len(closed) >= MAX_REMEMBERED_RESETS:
            del closed[next(iter(closed))]
        closed[stream_id] = None
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._remove(stream)

    # Sending. A stream that is over is ignored: its StreamReset may be among the events that the owner has not seen.

    def take_output(self) -> list[bytes]:
        """Return the bytes to send, in pieces, and forget them. A short output is one piece, for one write."""
        out, self._out = self._out, []
        return [b"".join(out)] if len(out) > 1 and sum(map(len, out)) <= MAX_JOINED_OUTPUT else out

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    def send_headers(self, stream_id: int, headers: HeaderList, end_stream: bool = False) -> None:
        """Send a header section: of a response, interim or final, or the trailers."""
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_ended:
            return
        self._guard.useful += 1
        block = self._encoder.encode(headers)
        self._out.append(header_frames(block, stream_id, end_stream, self.settings.max_frame_size))
        if end_stream:
            self._we_ended(stream)

    def send_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> int:
        """Send as much of a body as the windows allow; return how many bytes that was.

        If it is less than all, WindowOpened says when to go on. end_stream: the body ends with `data`, which holds only
        if all of it was sent.
        """
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_ended:
            return len(data)
        size = self.flow_control.allow(stream, len(data))
        end_stream = end_stream and size == len(data)
        if size or end_stream:
            self._write_data(stream, data, size, end_stream)
        return size

    def _send_whole(self, stream: StreamState, pieces: Sequence[HeaderList | bytes]) -> bool:
        """Send a whole message, unless the windows do not allow its body now; return whether it was sent."""
        size = sum([len(piece) for piece in pieces if isinstance(piece, bytes)])
        if size > self.flow_control.available(stream):
            return False
        last = len(pieces) - 1
        for number, piece in enumerate(pieces):
            if isinstance(piece, bytes):
                self.send_data(stream.stream_id, piece, number == last)
            else:
                self.send_headers(stream.stream_id, piece, number == last)
        return True

    def _write_data(self, stream: StreamState, data: bytes, size: int, end_stream: bool) -> None:
        out, stream_id, most = self._out, stream.stream_id, self.settings.max_frame_size
        self.flow_control.send(stream, size)
        self._guard.useful += 1
        if size <= MAX_JOINED_DATA:
            piece = data if size == len(data) else data[:size]
            out.append(data_header(size, stream_id, end_stream) + piece)
        else:
            for begin in range(0, size, most):
                after = min(begin + most, size)
                out.append(data_header(after - begin, stream_id, end_stream and after == size))
                out.append(data[begin:after] if after - begin < len(data) else data)
        if end_stream:
            self._we_ended(stream)

    def _we_ended(self, stream: StreamState) -> None:
        stream.is_ended = True
        if stream.has_ended:
            self._remove(stream)

    def reset(self, stream_id: int, code: int) -> None:
        """End a stream before its end. code: such as CANCEL, INTERNAL_ERROR; NO_ERROR after a whole response whose
        request's body is not needed."""
        if stream_id in self.streams:
            self._close_with_reset(stream_id, code)

    def ping(self, payload: bytes) -> None:
        """Send a PING, to which PingAcknowledged is the answer. payload: eight bytes."""
        self._out.append(ping_frame(payload, is_ack=False))

    def goaway(self, code: int = NO_ERROR, reason: str = "") -> None:
        """Tell the peer that no further stream of it will be handled."""
        self._out.append(goaway_frame(self._last_handled(), code, reason))

    def _last_handled(self) -> int:
        """The last stream of the peer that is handled."""
        return 0

    _HANDLERS: ClassVar[Sequence[Callable[[Connection, int, int, bytes], None]]] = (
        _on_data,
        _on_headers,
        _on_priority,
        _on_reset,
        _on_settings,
        _on_push,
        _on_ping,
        _on_goaway,
        _on_window_update,
        _on_continuation,
    )
    """The handler of each frame type; no role overrides them."""


def _without_padding(payload: bytes) -> bytes:
    """Return the payload of a padded frame without its padding (RFC 9113, section 6.1)."""
    if not payload:
        raise HTTP2ConnectionError(FRAME_SIZE_ERROR, "a padded frame has no byte for its padding")
    end = len(payload) - payload[0]
    if end < 1:
        raise HTTP2ConnectionError(PROTOCOL_ERROR, "the padding is as long as the frame, or longer")
    return payload[1:end]
