"""Streams in memory: two ends of a connection without sockets, for tests of the owners of streams.

clock = twisted.internet.task.Clock()
ours, theirs = Stream(), Stream()
join_in_memory(ours, theirs, lambda call: clock.callLater(0, call))
ours.write(b"hello")
clock.advance(0)  # theirs.dataReceived(b"hello")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from ktcpvs.streams.contract import NotDetachable, SocketAddress
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import StreamTransport, nothing, open_state

_log = Logger(namespace="ktcpvs")

KERNEL_BUFFER = 64 << 10
"""The size of the peer's receive buffer, in bytes; bytes beyond that are buffered at the sender."""

MAX_BUFFERED = 64 << 10
"""Bytes buffered above which back-pressure is applied."""

CallSoon = Callable[[Callable[[], object]], object]
"""Calls its argument in a later turn."""


def join_in_memory(
    one: Stream,
    other: Stream,
    call_soon: CallSoon,
    addresses: tuple[SocketAddress, SocketAddress] = (("127.0.0.1", 4711), ("127.0.0.1", 80)),
) -> None:
    """Connect two streams with each other. addresses: of `one` and `other`."""
    first = MemoryTransport(one, call_soon, addresses[0], addresses[1])
    second = MemoryTransport(other, call_soon, addresses[1], addresses[0])
    first.peer, second.peer = second, first
    one.makeConnection(first)
    other.makeConnection(second)


class MemoryTransport(StreamTransport):
    """One end. It behaves as TCP does: written bytes arrive in a later turn; a FIN follows the data, a reset does not
    wait for it.

    peer: the other end. arrived: bytes that this end has received and not read.
    """

    def __init__(self, stream: Stream, call_soon: CallSoon, local: SocketAddress, remote: SocketAddress) -> None:
        self.stream: Stream | None = stream
        self.peer: MemoryTransport | None = None
        self.write: Callable[[bytes], object] = self._write
        self.arrived = bytearray()
        self._buffered = bytearray()
        self._call_soon = call_soon
        self._local = local
        self._remote = remote
        self._writer = None
        self._is_full = False
        self._is_scheduled = False
        self._paused = False
        self._half_closed = False
        self._fin_sent = False
        self._fin_received = False
        self._fin_reported = False
        self._closing = False
        self._resets = False  # the close is to be a reset
        self._aborted = False
        self._reset = False  # by the peer

    # Called by the stream.

    def _write(self, data: bytes) -> None:
        if self.stream is None or self._half_closed or self._closing or self._aborted:
            return
        self._buffered += data
        if len(self._buffered) > MAX_BUFFERED and not self._is_full:
            self._send()
            if len(self._buffered) > MAX_BUFFERED:
                self._set_full(True)
        self._schedule()

    @property
    def writev(self) -> Callable[[Sequence[bytes]], object]:
        return lambda pieces: self.write(b"".join(pieces))

    def half_close(self) -> None:
        self.clear_backpressure()
        self.write = nothing
        self._half_closed = True
        self._schedule()

    def close(self) -> bool:
        self.clear_backpressure()
        self.write = nothing
        if self._closing or self._aborted:
            return False
        self._closing = True
        self._send()
        self._schedule()
        return not self._buffered

    def close_with_reset(self) -> bool:
        self._resets = True
        return self.close()

    def abort(self) -> None:
        self.write = nothing
        self._aborted = True
        self._buffered.clear()
        self._schedule()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._schedule()

    def unsent(self) -> int:
        return len(self._buffered) + (len(self.peer.arrived) if self.peer is not None else 0)

    def is_gone(self) -> bool:
        return self._reset

    def has_input(self) -> bool:
        return bool(self.arrived) or self._reset or (self._fin_received and not self._fin_reported)

    def has_ended(self) -> bool:
        return self._fin_received

    def take_input(self, size: int) -> bytes | None:
        taken = bytes(self.arrived[:size])
        del self.arrived[:size]
        if taken and self.peer is not None:
            self.peer._drained()
        return taken or None

    @property
    def peer_address(self) -> SocketAddress:
        return self._remote

    @property
    def local_address(self) -> SocketAddress:
        return self._local

    def detach_obstacle(self) -> NotDetachable | None:
        return NotDetachable.NO_SOCKET

    def release(self) -> None:
        """Raise: there is no socket."""
        raise RuntimeError("a stream in memory cannot be detached")

    def getHandle(self) -> Any:
        """None: there is no socket."""

    def state(self) -> str:
        if self._aborted or self._closing:
            return "aborted" if self._aborted else "closing"
        return open_state(self._half_closed, self._fin_reported, self._paused, self._is_full)

    # Events in later turns.

    def _schedule(self) -> None:
        if not self._is_scheduled and self.stream is not None:
            self._is_scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        try:
            self._do_what_is_due()
        except Exception:
            _log.failure("a stream failed")
            self.abort()

    def _do_what_is_due(self) -> None:
        """Do everything that is due in this turn: end, send, read."""
        stream = self.stream
        if stream is None:
            return
        if self._aborted:
            self._over(False, reset=True)
            return
        if self.peer is None and self._buffered:  # a closed peer answers data with a reset
            data = bytes(self.arrived)
            self.arrived.clear()
            if data and not self._closing:
                stream.dataReceived(data)
            self._over(False)
            return
        self._send()
        if self._half_closed and not self._buffered:
            self._send_fin()
        if self._closing:
            if not self._buffered:
                self._over(True, reset=self._resets)
            return
        self._read()

    def _send(self) -> None:
        """Fill the peer's receive buffer."""
        peer = self.peer
        if peer is None or not self._buffered:
            return
        room = KERNEL_BUFFER - len(peer.arrived)
        if room > 0:
            peer.arrived += self._buffered[:room]
            del self._buffered[:room]
            peer._schedule()

    def _send_fin(self) -> None:
        if not self._fin_sent and self.peer is not None:
            self._fin_sent = self.peer._fin_received = True
            self.peer._schedule()

    def _read(self) -> None:
        """Deliver the bytes that have arrived, unless reading is paused, and then the FIN or the reset."""
        stream = self.stream
        if self._paused or stream is None:
            return
        if self.arrived:
            data = bytes(self.arrived)
            self.arrived.clear()
            if self.peer is not None:
                self.peer._drained()
            stream.dataReceived(data)
            self._schedule()
        elif self._reset:
            self._over(False)
        elif self._fin_received and not self._fin_reported:
            self._fin_reported = True
            stream.readConnectionLost()

    def _drained(self) -> None:
        """The peer has read: its receive buffer has room."""
        self._send()
        if self._is_full and not self._buffered:
            self._set_full(False)
        self._schedule()

    def _over(self, clean: bool, reset: bool = False) -> None:
        """End. reset: the peer gets a reset instead of a FIN."""
        peer, self.peer = self.peer, None
        stream, self.stream = self.stream, None
        self.write = nothing
        self.clear_backpressure()
        if peer is not None:
            peer.peer = None
            if reset:
                peer._reset = True
            else:
                peer._fin_received = True
            peer._schedule()
        if stream is not None:
            stream.over(clean)
