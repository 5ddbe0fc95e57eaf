"""The relay whose bytes stay in the kernel: splice(2) from socket to pipe and from pipe to socket.

What a target does not take stays in its direction's pipe, and its source is not read until the pipe is empty: so a
direction never holds more than one pipe. Who holds nothing has no pipe. A direction copies as long as little comes at
once, which costs less, and when no pipe is to be had.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable

from twisted.logger import Logger

from ktcpvs.relay.bare import IN, OUT, BareRelay, Side
from ktcpvs.relay.detach import Detached
from ktcpvs.relay.pipes import PIPE_SIZE, Pipe, Pipes
from ktcpvs.relay.watch import Watch
from ktcpvs.streams.stream import Stream
from ktcpvs.system.timer_wheel import TimerWheel

_log = Logger(namespace="ktcpvs")

ROUNDS = 2
"""How often one source is read in one turn; then the others have their turn."""

LITTLE = 16 << 10
"""Less than that, in bytes, was all that the source had, and is copied at less cost than it is spliced."""

FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)


def available() -> str | None:
    """None, or the reason why there is no such relay here."""
    if not hasattr(os, "splice") or not hasattr(select, "epoll"):
        return "this Python or its system has no splice(2) or no epoll(7)"
    try:
        pipe = Pipe()
    except OSError as error:
        return f"no pipe: {error.strerror}"
    one, other = socket.socketpair()
    try:
        one.send(b"x")
        os.splice(other.fileno(), pipe.writer, 1, flags=FLAGS)
        os.splice(pipe.reader, other.fileno(), 1, flags=FLAGS)
    except OSError as error:
        return f"splice(2) does not work: {error.strerror}"
    finally:
        one.close()
        other.close()
        pipe.close()
    return None


class Direction:
    """From `source` to `target`. bytes: how many went through. seen: the tick when the last of them came.

    ended: the source's end has been carried on.
    """

    __slots__ = (
        "bytes", "copied", "ended", "fin", "from_side", "held", "much", "pipe", "read", "seen", "source", "target",
        "to_side",
    )  # fmt: skip

    def __init__(self, source: Stream, from_side: Side, target: Stream, to_side: Side, now: int) -> None:
        self.source = source
        self.target = target
        self.from_side = from_side
        self.to_side = to_side
        self.bytes = 0
        self.seen = now
        self.ended = False
        self.read = True  # False when its source has ended, or one of the two is gone or being closed
        self.fin = False  # its source has ended
        self.much = False  # more than a little came at once
        self.pipe: Pipe | None = None  # that holds something
        self.held = 0  # how much, in bytes
        self.copied = b""  # what is held without a pipe


class SpliceRelay(BareRelay):
    """Bytes go through a pipe, or through this process while they are few."""

    __slots__ = ("_pipes",)

    def __init__(
        self,
        client: Stream,
        server: Stream,
        wheel: TimerWheel,
        finished: Callable[[], object],
        watch: Watch,
        pipes: Pipes,
    ) -> None:
        """finished: called once, when both directions have ended."""
        super().__init__(client, server, wheel, finished, watch)
        self.inward = Direction(client, self._client, server, self._server, wheel.now)
        self.outward = Direction(server, self._server, client, self._client, wheel.now)
        self._pipes = pipes

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, either way."""
        return int(max(self.inward.seen, self.outward.seen))

    # The bytes.

    def _ready(self, into: Direction, out: Direction, events: int) -> None:
        """into: what comes from a side; out: what goes to it."""
        try:
            if events != IN and (out.held or out.copied):
                self._write(out)
            if events != OUT and into.read and not into.held and not into.copied:
                self._read(into)
        except Exception:
            _log.failure("a relay failed")
            self.inward.source.reset()
            self.outward.source.reset()

    def _read(self, way: Direction) -> None:
        """Nothing is held: carry on what the source has sent.

        splice(2) stops before urgent data, as if there were an end or nothing to read. So neither is believed: recv(2)
        says what is there.
        """
        pipes, from_side = self._pipes, way.from_side
        pipe = pipes.take() if way.much else None
        if pipe is None:
            self._copy(way)
            return
        for turn in range(ROUNDS):
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
                    self._copy(way)
                return
            way.bytes += size
            way.seen = self._wheel.now
            try:
                sent = os.splice(pipe.reader, way.to_side.fd, size, flags=FLAGS)
            except BlockingIOError:
                sent = 0
            except OSError:
                pipes.drop(pipe)
                self._refused(way)
                return
            if sent < size:
                way.pipe, way.held = pipe, size - sent
                self._rewatch()
                return
            if size < LITTLE:
                way.much = False
                break
        pipes.give(pipe)

    def _copy(self, way: Direction) -> None:
        """`_read` without a pipe."""
        try:
            data = way.from_side.sock.recv(LITTLE)
        except BlockingIOError:
            return
        except OSError:
            way.from_side.transport.broken()
            return
        if not data:
            self._source_ended(way)
            return
        way.bytes += len(data)
        way.seen = self._wheel.now
        way.much = len(data) == LITTLE
        try:
            sent = way.to_side.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._refused(way)
            return
        if sent < len(data):
            way.copied = data[sent:]
            self._rewatch()

    def _write(self, way: Direction) -> None:
        """Something is held: send it, or what the target takes of it."""
        pipe, side = way.pipe, way.to_side
        try:
            if way.copied:
                way.copied = way.copied[side.sock.send(way.copied) :]
            elif pipe is not None:
                way.held -= os.splice(pipe.reader, side.fd, way.held, flags=FLAGS)
        except BlockingIOError:
            return
        except OSError:
            self._refused(way)
            return
        if way.held or way.copied:
            return
        if pipe is not None:
            way.pipe = None
            self._pipes.give(pipe)
        self._rewatch()
        side.transport.drained()
        if way.fin and side.fd >= 0 and way.from_side.fd >= 0:
            self._carry_end(way)

    def _refused(self, way: Direction) -> None:
        """The target is gone. What it had said before may not have been read, and is carried on first."""
        way.read = False
        way.to_side.refuses = True
        self._discard(way)
        self._rewatch()
        back = self.outward if way is self.inward else self.inward
        if not back.read:
            way.to_side.transport.broken()
        elif not (back.held or back.copied):
            self._read(back)

    def _discard(self, way: Direction) -> None:
        """Nobody takes what is held."""
        pipe, way.pipe, way.held, way.copied = way.pipe, None, 0, b""
        if pipe is not None:
            self._pipes.drop(pipe)

    # The ends.

    def _source_ended(self, way: Direction) -> None:
        """A FIN, and nothing is held. The system says the same when it has told of a reset before."""
        if way.from_side.refuses:
            way.from_side.transport.broken()
            return
        way.read = False
        way.fin = True
        self._rewatch()
        self._carry_end(way)

    def _carry_end(self, way: Direction) -> None:
        way.ended = True
        way.target.end()
        if self.inward.ended and self.outward.ended:
            self._finished()

    def _events(self, into: Direction, out: Direction) -> int:
        """What is wanted now, and nothing else: an end that was told is told for ever."""
        events: int = IN if into.read and not (into.held or into.copied) else 0
        return events | OUT if out.held or out.copied else events

    # What the transports ask of their engine.

    def holds(self, transport: Detached) -> bool:
        _, _, out = self._of(transport)
        return bool(out.held or out.copied)

    def read_no_more(self, transport: Detached) -> None:
        _, into, _ = self._of(transport)
        into.read = False
        self._rewatch()

    def forget(self, transport: Detached) -> None:
        side, into, out = self._of(transport)
        self._unwatch(side)
        into.read = out.read = False
        self._discard(out)
        self._rewatch()
