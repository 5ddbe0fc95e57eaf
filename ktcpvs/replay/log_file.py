"""The lines of an access log: from a file, compressed or not, or from standard input, in the order of their times."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from random import Random
from typing import Any

from ktcpvs.errors import Refusal, shorten
from ktcpvs.protocols.access_log_reader import BadLine, LoggedRequest, read_line

MAX_LINE_BYTES = 1 << 18
"""The longest line. A longer one is malformed, and is passed over without being held in memory."""

MAX_REORDERED = 10_000
"""The lines that are held to be put into the order in which their requests began: a log is in that of their ends."""

MAX_REORDERED_BYTES = 32 << 20
"""The most bytes of these lines. Fewer lines are held where they are long."""

BLOCK_BYTES = 1 << 17
"""The bytes that are unpacked at once."""

PROGRESS_LINES = 10_000
"""The lines between two reports of progress."""

SEED = 20261127
"""Of the fractions of a second that a log does not have, so that each run has the same."""

_GZIP = b"\x1f\x8b"

Progress = Callable[[int, float | None], object]
"""Called with the number of lines that have been read, and the part of the file, 0 to 1; None: it is unknown."""


class LogFile:
    """Reads a log. lines: that were read. malformed: those that were passed over. first_malformed: the number of the
    first of these and what is wrong with it; None: there is none. late: requests that began before others which had
    been passed on already."""

    def __init__(self, name: str, progress: Progress = lambda lines, part: None) -> None:
        """name: of the file; "-": standard input."""
        self.name = name
        self.lines = self.malformed = self.late = 0
        self.first_malformed: tuple[int, str] | None = None
        self._progress = progress
        self._chance = Random(SEED)

    def requests(self) -> Iterator[LoggedRequest]:
        """Yield the requests in the order in which they began. Those of a log whose times are whole seconds are spread
        over their second. Raises Refusal for a file that cannot be read."""
        held: list[tuple[float, int, LoggedRequest, int]] = []
        held_bytes = 0
        latest = float("-inf")
        for line in self._all_lines():
            self.lines += 1
            try:
                request = read_line(line)
            except BadLine as bad:
                if line.strip():
                    self.note_malformed(str(bad))
                continue
            if not request.is_exact:
                request.began += self._chance.random()
            size = len(line)
            heappush(held, (request.began, self.lines, request, size))
            held_bytes += size
            while len(held) > MAX_REORDERED or held_bytes > MAX_REORDERED_BYTES:
                began, _, first, size = heappop(held)
                held_bytes -= size
                if began < latest:
                    self.late += 1
                else:
                    latest = began
                yield first
        while held:
            yield heappop(held)[2]

    def note_malformed(self, why: str) -> None:
        """Count the last line as malformed."""
        self.malformed += 1
        if self.first_malformed is None:
            self.first_malformed = self.lines, why

    def _all_lines(self) -> Iterator[bytes]:
        try:
            if self.name == "-":
                if sys.stdin is None:
                    raise Refusal("standard input is closed")
                yield from self._lines_of(sys.stdin.buffer, 0)
                return
            with open(self.name, "rb") as file:
                yield from self._lines_of(file, os.fstat(file.fileno()).st_size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Refusal(f"{self.shown}: damaged after line {self.lines}: {error}") from None
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL
            raise Refusal(f"{self.shown}: {getattr(error, 'strerror', None) or error}") from None

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return "<stdin>" if self.name == "-" else shorten(self.name)

    def _lines_of(self, raw: Any, size: int) -> Iterator[bytes]:
        """Yield the lines of a file. size: its bytes; 0: unknown."""
        is_compressed = raw.peek(2)[:2] == _GZIP
        file: Any = raw
        if is_compressed:
            unpacked: Any = gzip.GzipFile(fileobj=raw)
            file = io.BufferedReader(unpacked, BLOCK_BYTES)  # readline of GzipFile is not in C
        count, readline = 0, file.readline
        while line := readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = b"too long"
                while (more := readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                    pass
            count += 1
            if count % PROGRESS_LINES == 0:
                self._progress(count, raw.tell() / size if size else None)
            yield line
