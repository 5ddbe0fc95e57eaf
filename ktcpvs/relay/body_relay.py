"""Moves long bodies of HTTP messages from socket to socket by splice(2), so that they are not copied into this process.

The transports of both streams go on as usual. The source's transport reads a small piece of what has come; then the
rest of it, which is still in the socket, is moved through a pipe to the target's socket. So ends and resets come
through the transport, in order, and moved bytes count as a part of the piece before them. splice(2) stops at urgent
data, which the transport's next read skips.

Bytes that the target does not accept at once are copied out of the pipe and buffered by the target's transport, as if
they had been copied from the beginning. So back-pressure and the timeouts of slow readers are the same, and no pipe is
in use between two turns.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from ktcpvs.relay.pipes import Pipe, Pipes
from ktcpvs.relay.splice import FLAGS
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import SMALL_READ_SIZE

MIN_BODY_SIZE = 96 << 10
"""The shortest body that is moved. For one of 64 KiB, which a single read returns, copying costs as much or less."""

MIN_READ_SIZE = SMALL_READ_SIZE // 2
"""After a read of fewer bytes, no more of them are expected in the socket."""

MAX_MOVED_SIZE = 128 << 10
"""The most bytes that are moved at once, which is the most that must be buffered if the target does not accept them."""


class BodyRelay:
    """Moves the bodies of one process."""

    __slots__ = ("_pipes",)

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes

    def pass_on(self, source: Stream, target: Stream, pieces: Sequence[bytes], left: int) -> int:
        """Send `pieces` to `target`, and after them up to `left` bytes that `source` has received and not read yet.
        Return the number of the latter.

        pieces: the last of them ends where the transport of `source` has read up to now.
        """
        sender, receiver = source.transport, target.transport
        if sender is None or receiver is None:
            _write(target, pieces)
            return 0
        reader, writer = sender.input_descriptor(), receiver.output_descriptor()
        can_move = reader >= 0 and writer >= 0
        size = 0
        if can_move and sum(map(len, pieces)) >= MIN_READ_SIZE:
            pipes = self._pipes
            pipe = pipes.take()
            if pipe is None:
                can_move = False
            else:
                with contextlib.suppress(OSError):  # nothing has come, or its transport will report the error
                    size = os.splice(reader, pipe.writer, min(left, MAX_MOVED_SIZE), flags=FLAGS)
                if not size or _empty(pipe, size, target, writer, receiver.send_ahead(pieces)):
                    pipes.give(pipe)
                else:
                    pipes.drop(pipe)
        sender.read_small(can_move)  # what cannot be moved is copied in large pieces
        if not size:
            _write(target, pieces)
        return size


def _empty(pipe: Pipe, size: int, target: Stream, writer: int, is_flushed: bool) -> bool:
    """Send the `size` bytes in `pipe` to `target`. writer: its descriptor. is_flushed: nothing is buffered. Return
    whether the pipe is empty now."""
    if is_flushed:
        with contextlib.suppress(OSError):  # full, or the target's transport will report the error
            size -= os.splice(pipe.reader, writer, size, flags=FLAGS)
    while size:
        try:
            data = os.read(pipe.reader, size)
        except OSError:
            return False
        target.write(data)
        size -= len(data)
    return True


def _write(target: Stream, pieces: Sequence[bytes]) -> None:
    if len(pieces) == 1:
        target.write(pieces[0])
    else:
        target.writev(pieces)
