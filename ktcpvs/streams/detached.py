"""The transport of a stream whose bytes a relay engine moves: the engine has the bare socket, the transport no bytes.

The former transport closes its descriptor while a duplicate is open, so the peer notices nothing. Received bytes stay
in the kernel. Unsent bytes of the former transport would be lost, so nothing may be buffered.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ktcpvs.streams.contract import BackpressuredWriter, NotDetachable, StreamEvents
from ktcpvs.streams.transport import SocketTransport, reset_on_close


class DetachedOwner(Protocol):
    """The relay that moves the bytes of detached streams."""

    def has_unsent(self, transport: DetachedTransport) -> bool:
        """Return whether bytes for it are unsent. The owner calls its `drained` when they are sent."""

    def stop_reading(self, transport: DetachedTransport) -> None:
        """The stream's owner is closing it: drop all further bytes of its peer."""

    def forget(self, transport: DetachedTransport) -> None:
        """Its descriptor is about to be closed."""


class DetachedTransport(SocketTransport):
    """Carries everything of a stream except its bytes, which `owner` moves.

    As with other transports, the end is reported in a later turn, not within a call of the stream's owner. stream: None
    before `attach`, and when the stream is over.
    """

    __slots__ = (
        "_aborted",
        "_call_soon",
        "_closing",
        "_half_closed",
        "_owner",
        "_sends_fin",
        "_sock",
        "stream",
        "write",
    )

    def __init__(self, owner: DetachedOwner, call_soon: Callable[[Callable[[], object]], object]) -> None:
        """call_soon: calls its argument in the reactor's next turn."""
        self.stream: Any = None
        self.write: Callable[[bytes], object] = _refuse_to_write
        self._sock: Any = None
        self._owner: DetachedOwner | None = owner  # None after `forget`
        self._call_soon = call_soon
        self._half_closed = False  # our FIN is sent, or will be when the engine has sent everything
        self._closing = False
        self._aborted = False
        self._sends_fin = True  # before closing

    def attach(self, stream: StreamEvents, sock: socket.socket) -> None:
        """Carry `stream` from now on. sock: its socket, which this transport closes."""
        self._sock = sock
        self.stream = stream
        self.stream.transport = self
        stream.write = _refuse_to_write

    # Called by the engine.

    def drained(self) -> None:
        """All bytes for the peer have been sent."""
        if self._closing:
            self._leave()
        elif self._half_closed:
            self._shut_down(socket.SHUT_WR)

    def broken(self) -> None:
        """The system reports that the connection is closed. The stream is notified at once."""
        if self.stream is not None:
            self._over(False)

    # Called by the stream and its owner.

    @property
    def writev(self) -> Callable[[Sequence[bytes]], object]:
        return _refuse_to_write

    def half_close(self) -> None:
        if self._half_closed or self._owner is None or self._closing:
            return
        self._half_closed = True
        if not self._owner.has_unsent(self):
            self._shut_down(socket.SHUT_WR)

    def close(self) -> bool:
        if self._closing or self._owner is None:
            return False
        self._closing = True
        self._owner.stop_reading(self)
        if self._owner.has_unsent(self):
            return False
        self._leave()
        return True

    def close_with_reset(self) -> bool:
        if not self.is_unix:
            reset_on_close(self._sock)
            self._sends_fin = False
        return self.close()

    def abort(self) -> None:
        if self._aborted or self.stream is None:
            return
        self._aborted = True
        reset_on_close(self._sock)
        self._leave()

    def pause(self) -> None:
        """Do nothing: the engine reads when the other side has room."""

    def resume(self) -> None:
        """Do nothing, as `pause`."""

    def set_backpressure(self, writer: BackpressuredWriter) -> None:
        """Do nothing: nothing is written."""

    def clear_backpressure(self) -> None:
        """Do nothing, as `set_backpressure`."""

    def buffered(self) -> int:
        """Return 0: unsent bytes belong to the engine."""
        return 0

    def detach_obstacle(self) -> NotDetachable | None:
        return NotDetachable.NO_SOCKET

    def release(self) -> None:
        """Never called: a detached stream cannot be detached again."""
        raise RuntimeError("a detached stream cannot be detached again")

    def getHandle(self) -> Any:
        """The socket."""
        return self._sock

    def state(self) -> str:
        if self.stream is None:
            return "closed"
        if self._aborted or self._closing:
            return "aborted, detached" if self._aborted else "closing, detached"
        return "half-closed, detached" if self._half_closed else "open, detached"

    # The end.

    def _leave(self) -> None:
        if self._owner is not None:
            self._forget()
            self._call_soon(self._close)

    def _forget(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.forget(self)

    def _close(self) -> None:
        if self.stream is None:
            return
        if self._sends_fin and not (self._aborted or self._half_closed):
            self._shut_down(socket.SHUT_RDWR)  # close(2) sends no FIN if bytes are unread
        self._over(not self._aborted)

    def _over(self, clean: bool) -> None:
        self._forget()
        stream, self.stream = self.stream, None
        self._sock.close()
        if stream is not None:
            stream.over(clean)

    def _shut_down(self, how: int) -> None:
        with contextlib.suppress(OSError):  # the peer has already closed it: reading will report that
            self._sock.shutdown(how)


def _refuse_to_write(_: object) -> None:
    """Raise: bytes of the stream's owner would mix with those that the engine moves."""
    raise RuntimeError("a detached stream cannot be written to: its engine moves the bytes")
