"""The splicing relay: bytes stay in the kernel, moved by splice(2) from socket to pipe and from pipe to socket.

Bytes that a target does not accept stay in the pipe of their direction, and the source is not read until the pipe is
empty: so a direction never holds more than one pipe of bytes. A direction that holds nothing has no pipe. While reads
are small, for which copying costs less, and while there is no free pipe, a direction copies.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack

from twisted.logger import Logger

from ktcpvs.relay.pipes import PIPE_SIZE, Pipe, Pipes
from ktcpvs.relay.socket_relay import Side, SocketRelay
from ktcpvs.streams.detached import DetachedTransport
from ktcpvs.streams.poller import IN, OUT, SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.sockets import EXHAUSTED
from ktcpvs.system.timer_wheel import TimerWheel

_log = Logger(namespace="ktcpvs")

MAX_READS_PER_TURN = 2
"""Reads from one source in one turn; then other connections have their turn."""

COPY_SIZE = 16 << 10
"""The most bytes that are copied at once. A read that returns fewer has emptied the source, and costs less than
splicing."""

FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)


def available() -> str | None:
    """Return None, or the reason why this machine cannot splice. Raises OSError if there are no descriptors left, so
    that nobody knows."""
    if not hasattr(os, "splice") or not hasattr(select, "epoll"):
        return "this Python or its system has no splice(2) or no epoll(7)"
    with ExitStack() as stack:
        try:
            pipe = Pipe()
            stack.callback(pipe.close)
            one, other = map(stack.enter_context, socket.socketpair())
            one.send(b"x")
            os.splice(other.fileno(), pipe.writer, 1, flags=FLAGS)
            os.splice(pipe.reader, other.fileno(), 1, flags=FLAGS)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            return f"splice(2) does not work: {error.strerror}"
    return None


class Direction:
    """From `source` to `target`. bytes: the number relayed. last_data: the tick when the last of them came.

    ended: the source's FIN has been forwarded.
    """

    __slots__ = (
        "bytes", "ended", "from_side", "in_pipe", "is_bulk", "is_read", "last_data", "pending", "pipe", "source",
        "source_ended", "target", "to_side",
    )  # fmt: skip

    def __init__(self, source: Stream, from_side: Side, target: Stream, to_side: Side, now: int) -> None:
        self.source = source
        self.target = target
        self.from_side = from_side
        self.to_side = to_side
        self.bytes = 0
        self.last_data = now
        self.ended = False
        self.is_read = True  # False when its source has ended, or one of the two is closed or being closed
        self.source_ended = False
        self.is_bulk = False  # the last read was a full one
        self.pipe: Pipe | None = None  # while bytes are in it
        self.in_pipe = 0  # bytes
        self.pending = b""  # bytes that are held without a pipe

    @property
    def holds(self) -> bool:
        """Whether bytes were read that the target has not accepted yet."""
        return bool(self.in_pipe or self.pending)

    def __repr__(self) -> str:
        held = self.in_pipe + len(self.pending)
        return f"<Direction of {self.bytes} bytes{f', {held} held' if held else ''}{', ended' if self.ended else ''}>"


class SpliceRelay(SocketRelay):
    """Relays bytes through a pipe, or through this process while reads are small."""

    __slots__ = ("_pipes",)

    def __init__(
        self,
        client: Stream,
        server: Stream,
        wheel: TimerWheel,
        finished: Callable[[], object],
        poller: SocketPoller,
        pipes: Pipes,
    ) -> None:
        """finished: called once, when both directions have ended."""
        super().__init__(client, server, wheel, finished, poller, Direction)
        self._pipes = pipes

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, in either direction."""
        return int(max(self.inward.last_data, self.outward.last_data))

    # The bytes.

    def _ready(self, incoming: Direction, outgoing: Direction, events: int) -> None:
        try:
            if events != IN and (outgoing.in_pipe or outgoing.pending):
                self._write(outgoing)
            if events != OUT and incoming.is_read and not incoming.in_pipe and not incoming.pending:
                self._read(incoming)
        except Exception:
            _log.failure("a relay failed")
            self.inward.source.abort()
            self.outward.source.abort()

    def _read(self, direction: Direction) -> None:
        """Relay from the source, while nothing is held.

        splice(2) stops before urgent data as it does at the end or without data. So recv(2) decides in these cases.
        """
        pipes, from_side = self._pipes, direction.from_side
        pipe = pipes.take() if direction.is_bulk else None
        if pipe is None:
            self._copy(direction)
            return
        for turn in range(MAX_READS_PER_TURN):
            try:
                size = os.splice(from_side.fd, pipe.writer, PIPE_SIZE, flags=FLAGS)
            except BlockingIOError:
                size = 0
            except OSError:
                pipes.give(pipe)
                from_side.transport.broken()
                return
            if not size:
                pipes.give(pipe)
                if not turn:
                    self._copy(direction)
                return
            direction.bytes += size
            direction.last_data = self._wheel.now
            try:
                sent = os.splice(pipe.reader, direction.to_side.fd, size, flags=FLAGS)
            except BlockingIOError:
                sent = 0
            except OSError:
                pipes.drop(pipe)
                self._write_failed(direction)
                return
            if sent < size:
                direction.pipe, direction.in_pipe = pipe, size - sent
                self._update_polling()
                return
            if size < COPY_SIZE:
                direction.is_bulk = False
                break
        pipes.give(pipe)

    def _copy(self, direction: Direction) -> None:
        """`_read` without a pipe."""
        try:
            data = direction.from_side.sock.recv(COPY_SIZE)
        except BlockingIOError:
            return
        except OSError:
            direction.from_side.transport.broken()
            return
        if not data:
            self._source_ended(direction)
            return
        direction.bytes += len(data)
        direction.last_data = self._wheel.now
        direction.is_bulk = len(data) == COPY_SIZE
        try:
            sent = direction.to_side.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._write_failed(direction)
            return
        if sent < len(data):
            direction.pending = data[sent:]
            self._update_polling()

    def _write(self, direction: Direction) -> None:
        """Send as much of the held bytes as the target accepts."""
        pipe, side = direction.pipe, direction.to_side
        try:
            if direction.pending:
                direction.pending = direction.pending[side.sock.send(direction.pending) :]
            elif pipe is not None:
                direction.in_pipe -= os.splice(pipe.reader, side.fd, direction.in_pipe, flags=FLAGS)
        except BlockingIOError:
            return
        except OSError:
            self._write_failed(direction)
            return
        if direction.holds:
            return
        if pipe is not None:
            direction.pipe = None
            self._pipes.give(pipe)
        self._update_polling()
        side.transport.drained()
        if direction.source_ended and side.fd >= 0 and direction.from_side.fd >= 0:
            self._forward_end(direction)

    def _write_failed(self, direction: Direction) -> None:
        """The target cannot be written. First relay what it had sent before."""
        direction.is_read = False
        direction.to_side.write_failed = True
        self._discard(direction)
        self._update_polling()
        back = self.outward if direction is self.inward else self.inward
        if not back.is_read:
            direction.to_side.transport.broken()
        elif not back.holds:
            self._read(back)

    def _discard(self, direction: Direction) -> None:
        """Drop the held bytes."""
        pipe, direction.pipe, direction.in_pipe, direction.pending = direction.pipe, None, 0, b""
        if pipe is not None:
            self._pipes.drop(pipe)

    # The ends.

    def _source_ended(self, direction: Direction) -> None:
        """The source's FIN was read, and nothing is held. After a reset that was already reported, recv(2) returns the
        same."""
        if direction.from_side.write_failed:
            direction.from_side.transport.broken()
            return
        direction.is_read = False
        direction.source_ended = True
        self._update_polling()
        self._forward_end(direction)

    def _forward_end(self, direction: Direction) -> None:
        direction.ended = True
        direction.target.half_close()
        if self.inward.ended and self.outward.ended:
            self._finished()

    def _events(self, incoming: Direction, outgoing: Direction) -> int:
        """Return only the events that are needed now, since epoll keeps reporting a FIN that has been read."""
        events: int = IN if incoming.is_read and not incoming.holds else 0
        return events | OUT if outgoing.holds else events

    # As the owner of the transports.

    def has_unsent(self, transport: DetachedTransport) -> bool:
        _, _, outgoing = self._side_of(transport)
        return bool(outgoing.holds)

    def stop_reading(self, transport: DetachedTransport) -> None:
        _, incoming, _ = self._side_of(transport)
        incoming.is_read = False
        self._update_polling()

    def forget(self, transport: DetachedTransport) -> None:
        side, incoming, outgoing = self._side_of(transport)
        self._remove(side)
        incoming.is_read = outgoing.is_read = False
        self._discard(outgoing)
        self._update_polling()
