"""The flow-control windows of an HTTP/2 connection and of its streams (RFC 9113, section 5.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ktcpvs.protocols.http2.constants import DEFAULT_WINDOW, FLOW_CONTROL_ERROR, MAX_WINDOW, PROTOCOL_ERROR
from ktcpvs.protocols.http2.errors import HTTP2ConnectionError, HTTP2StreamError
from ktcpvs.protocols.http2.frames import window_update_frame
from ktcpvs.protocols.http2.limits import Limits
from ktcpvs.protocols.http2.stream import StreamState


class FlowControl:
    """The windows of one end of a connection, for both directions. Methods that open a window of ours return the
    WINDOW_UPDATE frames that tell the peer.

    send_window: bytes of DATA that the peer accepts on all streams together. receive_window: those that it may still
    send. stream_window: bytes that it may send on a new stream. is_blocked: a stream waits until `send_window` grows.
    """

    __slots__ = (
        "_credit", "_is_settled", "_limits", "is_blocked", "receive_window", "send_window", "stream_window",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._credit = 0  # bytes that were passed on, and the peer was not told about
        self._is_settled = False  # the peer has acknowledged our settings
        self.is_blocked = False
        self.send_window = DEFAULT_WINDOW
        self.receive_window = DEFAULT_WINDOW
        self.stream_window = DEFAULT_WINDOW  # until the peer has acknowledged our settings

    # Receiving.

    def open(self) -> tuple[bytes, ...]:
        """Make the connection's window as large as its limit, if that is above the default."""
        more = self._limits.connection_window - DEFAULT_WINDOW
        if more <= 0:
            return ()
        self.receive_window += more
        return (window_update_frame(0, more),)

    def settle(self, streams: Iterable[StreamState]) -> tuple[bytes, ...]:
        """The peer has acknowledged our settings: new and open streams have the window that these name."""
        if self._is_settled:
            return ()
        self._is_settled = True
        change = self._limits.stream_window - self.stream_window
        self.stream_window = self._limits.stream_window
        updates = []
        for stream in streams:
            stream.receive_window += change
            if stream.credit and not stream.has_ended:
                updates.append(
                    _announce(stream)
                )  # a smaller window could stay closed: it was not half of the larger one
        return tuple(updates)

    def receive(self, size: int) -> None:
        """`size` bytes of DATA have come on any stream. Raises HTTP2ConnectionError."""
        self.receive_window -= size
        if self.receive_window < 0:
            raise HTTP2ConnectionError(FLOW_CONTROL_ERROR, "DATA exceeds the window of the connection")

    def give_back(self, size: int) -> tuple[bytes, ...]:
        """The connection's window may grow by `size`, which the peer is told when there is enough of it."""
        credit = self._credit = self._credit + size
        if not credit or credit < self._limits.connection_window >> 1:
            return ()
        self.receive_window += credit
        self._credit = 0
        return (window_update_frame(0, credit),)

    def give_back_on(self, stream: StreamState, size: int) -> tuple[bytes, ...]:
        """The windows of a stream and of the connection may grow by `size`."""
        updates = self.give_back(size)
        if not stream.has_ended:
            stream.credit += size
            if stream.credit >= self.stream_window >> 1:
                return (*updates, _announce(stream))
        return updates

    # Sending.

    def update(self, increment: int) -> bool:
        """The peer opens the connection's window; return whether that ends a wait. Raises HTTP2ConnectionError."""
        if not increment:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "the window of the connection is opened by 0 bytes")
        self.send_window += increment
        if self.send_window > MAX_WINDOW:
            raise HTTP2ConnectionError(FLOW_CONTROL_ERROR, f"the window of the connection exceeds {MAX_WINDOW}")
        was_blocked, self.is_blocked = self.is_blocked, False
        return was_blocked

    def update_stream(self, stream: StreamState, increment: int) -> bool:
        """The peer opens the window of a stream; return whether that ends a wait. Raises HTTP2StreamError."""
        if not increment:
            raise HTTP2StreamError(PROTOCOL_ERROR, "a window is opened by 0 bytes")
        stream.send_window += increment
        if stream.send_window > MAX_WINDOW:
            raise HTTP2StreamError(FLOW_CONTROL_ERROR, f"the window of the stream exceeds {MAX_WINDOW}")
        return _ends_wait(stream)

    def change_initial_window(self, change: int, streams: Iterable[StreamState]) -> Iterator[StreamState]:
        """SETTINGS_INITIAL_WINDOW_SIZE of the peer differs by `change`: change the windows of open streams, and yield
        those that waited and may send now. Raises HTTP2ConnectionError."""
        for stream in streams:
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise HTTP2ConnectionError(FLOW_CONTROL_ERROR, f"the window of a stream exceeds {MAX_WINDOW}")
            if _ends_wait(stream):
                yield stream

    def available(self, stream: StreamState) -> int:
        """Return how many bytes may be sent on a stream now. A stream's window can be negative (section 6.9.2), which
        allows what takes no space: an empty DATA frame that ends the stream."""
        return max(min(stream.send_window, self.send_window), 0)

    def allow(self, stream: StreamState, size: int) -> int:
        """Return how many of `size` bytes may be sent now. If not all may, the stream waits from now on."""
        allowed = self.available(stream)
        if size <= allowed:
            return size
        if stream.send_window <= self.send_window:
            stream.is_blocked = True
        else:
            self.is_blocked = True
        return allowed

    def send(self, stream: StreamState, size: int) -> None:
        """`size` bytes of DATA are sent."""
        stream.send_window -= size
        self.send_window -= size


def _announce(stream: StreamState) -> bytes:
    """Open the window of a stream by its credit."""
    update = window_update_frame(stream.stream_id, stream.credit)
    stream.receive_window += stream.credit
    stream.credit = 0
    return update


def _ends_wait(stream: StreamState) -> bool:
    """Whether a stream waited, and need not any more."""
    if not stream.is_blocked or stream.send_window <= 0:
        return False
    stream.is_blocked = False
    return True
