"""Lingering close: close a connection so that its peer gets everything that was sent to it (RFC 9112, section 9.6).

When a socket is closed while its peer is still sending, the kernel answers with a reset, and the reset makes the peer's
system drop what the peer has not read yet. So the connection is read for some more time before it is closed, and reset
only if the peer stops reading.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.model.settings import Settings
from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.system.timer_wheel import TimerWheel


class Progress:
    """Tells whether a peer reads what is sent to it, by comparing the unsent bytes at each call."""

    __slots__ = ("_changed_at", "_stream", "_unsent", "_wheel")

    def __init__(self, stream: Stream, wheel: TimerWheel) -> None:
        self._stream = stream
        self._wheel = wheel
        self._unsent = stream.unsent()
        self._changed_at = wheel.now

    def stalled(self) -> int:
        """Return the seconds since the last call at which the peer had read something."""
        unsent, now = self._stream.unsent(), self._wheel.now
        if unsent != self._unsent:
            self._unsent, self._changed_at = unsent, now
        return now - self._changed_at

    def is_reading(self, timeout: int) -> bool:
        """Return whether something is unsent of which the peer has read a part within `timeout` seconds."""
        return self.stalled() < timeout and self._unsent > 0


class LingeringClose:
    """Closes one stream, after its last bytes have been written.

    It reads on for at most `linger_timeout` seconds after the peer's last byte, and at most `linger_time` seconds and
    `linger_size` KiB in all. While bytes are unsent, it waits for at most `read_timeout` seconds (`keepalive_timeout`
    where that is 0) in which the peer reads none of them; then it resets the peer.
    """

    __slots__ = (
        "_began", "_closing", "_discarded", "_finished", "_last_data", "_progress", "_settings", "_stream", "_wheel",
    )  # fmt: skip

    def __init__(
        self, stream: Stream, wheel: TimerWheel, settings: Settings, finished: Callable[[], object] = nothing
    ) -> None:
        """finished: called once, when reading is over and the connection is about to be closed."""
        self._stream = stream
        self._wheel = wheel
        self._settings = settings
        self._finished = finished
        self._progress: Progress | None = None  # made at the first check
        self._began = self._last_data = wheel.now
        self._discarded = 0
        self._closing = False

    def linger(self) -> None:
        """Send a FIN after what was written, read and discard what comes, then close."""
        stream = self._stream
        stream.half_close()
        stream.dataReceived = self._discard
        stream.ended = self.close
        stream.resume()
        self._after(self._check_lingering)

    def close(self) -> None:
        """Close once the peer has read what was written; reset it if it stops reading."""
        self._close(self._stream.close)

    def close_with_reset(self) -> None:
        """As `close`, but end with a reset, because what was sent to the peer is incomplete."""
        self._close(self._stream.close_with_reset)

    def _close(self, close: Callable[[], bool]) -> None:
        if self._closing:
            return
        self._closing = True
        self._stream.dataReceived = self._stream.ended = nothing
        self._finished()
        if not close() and self._stream.is_open:
            self.watch()

    def watch(self) -> None:
        """The stream is being closed: reset the peer if it stops reading."""
        self._closing = True
        self._after(self._check_closed)

    def _discard(self, data: bytes) -> None:
        self._last_data = self._wheel.now
        self._discarded += len(data)
        if self._discarded >> 10 >= self._settings.linger_size:
            self.close()

    def _check_lingering(self) -> None:
        if self._closing or not self._stream.is_open:
            return
        if self._peer_is_sending() or self._peer_is_reading():
            self._after(self._check_lingering)
        else:
            self.close()

    def _peer_is_sending(self) -> bool:
        settings, now = self._settings, self._wheel.now
        has_sent = self._discarded > 0 and now - self._last_data <= settings.linger_timeout
        return has_sent and now - self._began < settings.linger_time

    def _peer_is_reading(self) -> bool:
        if self._progress is None:
            self._progress = Progress(self._stream, self._wheel)
        return self._progress.is_reading(self._settings.read_timeout or self._settings.keepalive_timeout)

    def _check_closed(self) -> None:
        if not self._stream.is_open:
            return
        if self._peer_is_reading():
            self._after(self._check_closed)
        else:
            self._stream.abort()

    def _after(self, call: Callable[[], None]) -> None:
        if self._stream.timer is not None:
            self._stream.timer.cancel()
        self._stream.timer = self._wheel.after(self._settings.linger_timeout, call)


def may_still_send(stream: Stream) -> bool:
    """Return whether a peer that has said everything may still send something: with TLS, it answers the end of the
    other side with a close_notify, or sends one when it has sent its last request. To a socket that is closed, that
    would be data, which the kernel answers with a reset."""
    return stream.tls is not None and not stream.peer_ended


def close_gracefully(stream: Stream | None, wheel: TimerWheel, settings: Settings, clean: bool = True) -> None:
    """Close one side of a relay once its peer has read everything; reset it if the peer stops reading.

    clean: False ends with a reset, because the other side was reset. None, and a stream that is over, are left alone.
    """
    if stream is not None and stream.is_open:
        if clean and may_still_send(stream):
            LingeringClose(stream, wheel, settings).linger()
            return
        stream.dataReceived = stream.ended = nothing
        closes_now = stream.close() if clean else stream.close_with_reset()
        if not closes_now and stream.is_open:
            LingeringClose(stream, wheel, settings).watch()
