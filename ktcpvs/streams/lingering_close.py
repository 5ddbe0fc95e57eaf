"""Closing a connection so that its peer gets everything that was sent to it (RFC 9112, section 9.6).

A socket that is closed while its peer still sends answers with a reset, and a reset makes the peer's system throw away
what the peer has not read yet. So the connection is read on for a while; and a peer that stops taking is reset.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.runtime.context import Context
from ktcpvs.streams.stream import Stream, nothing


class Progress:
    """Whether a peer takes what is sent to it."""

    __slots__ = ("_stream", "_taken_at", "_unsent", "_wheel")

    def __init__(self, stream: Stream, context: Context) -> None:
        self._stream = stream
        self._wheel = context.wheel
        self._unsent = stream.unsent()
        self._taken_at = self._wheel.now

    def stalled(self) -> int:
        """Seconds since the last look at which some of it had been taken."""
        unsent, now = self._stream.unsent(), self._wheel.now
        if unsent != self._unsent:
            self._unsent, self._taken_at = unsent, now
        return now - self._taken_at

    def is_taking(self, patience: int) -> bool:
        """True while there is something left to take, and some of it was taken within `patience` seconds."""
        return self.stalled() < patience and self._unsent > 0


class LingeringClose:
    """Ends one client connection; made when its last response has been written.

    Bounds: `linger_timeout` seconds after the peer's last byte, `linger_time` seconds and `linger_size` KiB in all; and
    while something is left to take, `read_timeout` seconds without progress, `keepalive_timeout` where that is 0.
    """

    __slots__ = ("_began", "_closing", "_context", "_discarded", "_finished", "_heard", "_progress", "_stream")

    def __init__(self, stream: Stream, context: Context, finished: Callable[[], object] = nothing) -> None:
        """finished: called once, when reading on is over and the connection is about to be closed."""
        self._stream = stream
        self._context = context
        self._finished = finished
        self._progress: Progress | None = None  # made at the first look
        self._began = self._heard = context.wheel.now
        self._discarded = 0
        self._closing = False

    def linger(self) -> None:
        """Send a FIN behind what was written; read on and discard; then close."""
        stream = self._stream
        stream.end()
        stream.dataReceived = self._discard
        stream.ended = self.close
        stream.resume()
        self._after(self._look)

    def close(self) -> None:
        """Close once the peer has taken what was written; reset it if it stops taking."""
        self._close(self._stream.close)

    def close_with_reset(self) -> None:
        """The same, but end with a reset: what was written is not all that there should be."""
        self._close(self._stream.close_with_reset)

    def _close(self, close: Callable[[], bool]) -> None:
        if self._closing:
            return
        self._closing = True
        self._stream.dataReceived = self._stream.ended = nothing
        self._finished()
        if not close() and self._stream.is_open:
            self._after(self._look_whether_gone)

    def _discard(self, data: bytes) -> None:
        self._heard = self._context.wheel.now
        self._discarded += len(data)
        if self._discarded >> 10 >= self._context.settings.linger_size:
            self.close()

    def _look(self) -> None:
        if self._closing or not self._stream.is_open:
            return
        if self._is_sending() or self._is_taking():
            self._after(self._look)
        else:
            self.close()

    def _is_sending(self) -> bool:
        settings, now = self._context.settings, self._context.wheel.now
        still = self._discarded > 0 and now - self._heard <= settings.linger_timeout
        return still and now - self._began < settings.linger_time

    def _is_taking(self) -> bool:
        settings = self._context.settings
        if self._progress is None:
            self._progress = Progress(self._stream, self._context)
        return self._progress.is_taking(settings.read_timeout or settings.keepalive_timeout)

    def _look_whether_gone(self) -> None:
        if not self._stream.is_open:
            return
        if self._is_taking():
            self._after(self._look_whether_gone)
        else:
            self._stream.reset()

    def _after(self, call: Callable[[], None]) -> None:
        if self._stream.timer is not None:
            self._stream.timer.cancel()
        self._stream.timer = self._context.wheel.after(self._context.settings.linger_timeout, call)


def close_gracefully(stream: Stream | None, context: Context, clean: bool = True) -> None:
    """Close one side of a relay once its peer has taken all; reset it if the peer stops taking.

    clean: False ends with a reset, since the other side was reset. None, and a stream that is over, are left alone.
    """
    if stream is not None and stream.is_open:
        closing = LingeringClose(stream, context)
        if clean:
            closing.close()
        else:
            closing.close_with_reset()
