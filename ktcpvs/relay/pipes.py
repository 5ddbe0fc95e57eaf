"""A pool of the pipes through which spliced bytes pass."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

PIPE_SIZE = 512 << 10
"""The size of a pipe, in bytes."""

MIN_PIPE_SIZE = 32 << 10
"""The smallest useful size of a pipe, in bytes."""

MAX_SPARE_PIPES = 16
"""The most empty pipes that are kept."""

MAX_PIPES = 256
"""The most pipes at the same time, each of two descriptors. Bytes for further slow readers are held in memory."""


class Pipe:
    """A pipe. reader, writer: its descriptors.

    Raises OSError if there are no descriptors left, or if this user's pipes use so much memory that new ones are too
    small (pipe(7), pipe-user-pages-soft).
    """

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        if fcntl.fcntl(self.writer, fcntl.F_GETPIPE_SZ) < MIN_PIPE_SIZE:
            self.close()
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """The pipes of all relays. made: their number, in use or spare."""

    __slots__ = ("_closed", "_max_pipes", "_spare", "made")

    def __init__(self, max_pipes: int = MAX_PIPES) -> None:
        """max_pipes: the most at once."""
        self.made = 0
        self._max_pipes = max_pipes
        self._spare: list[Pipe] = []
        self._closed = False

    @property
    def in_use(self) -> int:
        """The number of pipes in use."""
        return self.made - len(self._spare)

    def take(self) -> Pipe | None:
        """Return an empty pipe; None if there are too many, or no descriptors left."""
        if self._spare:
            return self._spare.pop()
        if self.made >= self._max_pipes:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self.made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Return an empty pipe to the pool."""
        if len(self._spare) < MAX_SPARE_PIPES and not self._closed:
            self._spare.append(pipe)
        else:
            self.drop(pipe)

    def drop(self, pipe: Pipe) -> None:
        """Close a pipe that still holds bytes."""
        pipe.close()
        self.made -= 1

    def close(self) -> None:
        """Close the spare pipes, and keep none from now on. Safe to call twice."""
        self._closed = True
        while self._spare:
            self.drop(self._spare.pop())
