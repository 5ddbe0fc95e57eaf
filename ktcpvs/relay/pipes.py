"""The pipes through which spliced bytes go: few, kept, and lent while something is in them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

PIPE_SIZE = 512 << 10
"""What a pipe is to take, in bytes."""

PIPE_LEAST = 32 << 10
"""A pipe that takes less is not worth having, in bytes."""

PIPES_SPARE = 16
"""So many empty pipes are kept."""

PIPES_MOST = 256
"""So many pipes there are at once, each two descriptors; what waits for slow readers beyond that is in memory."""


class Pipe:
    """reader, writer: its descriptors.

    Raises OSError when there are no more, or when this user's pipes have so much that new ones get next to nothing
    (pipe(7), pipe-user-pages-soft).
    """

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        if fcntl.fcntl(self.writer, fcntl.F_GETPIPE_SZ) < PIPE_LEAST:
            self.close()
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """The pipes of all relays. made: how many there are, those in use and those kept."""

    __slots__ = ("_closed", "_most", "_spare", "made")

    def __init__(self, most: int = PIPES_MOST) -> None:
        """most: how many there may be at once."""
        self.made = 0
        self._most = most
        self._spare: list[Pipe] = []
        self._closed = False

    @property
    def lent(self) -> int:
        """How many are in use."""
        return self.made - len(self._spare)

    def take(self) -> Pipe | None:
        """An empty pipe; None when there are too many, or no descriptors for one."""
        if self._spare:
            return self._spare.pop()
        if self.made >= self._most:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self.made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """It is not needed any more, and empty."""
        if len(self._spare) < PIPES_SPARE and not self._closed:
            self._spare.append(pipe)
        else:
            self.drop(pipe)

    def drop(self, pipe: Pipe) -> None:
        """It is not needed any more, and something is in it."""
        pipe.close()
        self.made -= 1

    def close(self) -> None:
        """Keep none from now on; safe to call twice."""
        self._closed = True
        while self._spare:
            self.drop(self._spare.pop())
