"""A process that reads a log for a replay, which then has a core for itself.

The process is a copy of this one (fork(2)), and sends what it has read through a pipe. The pipe bounds how far it reads
ahead. The kernel kills it when its parent ends.
"""

from __future__ import annotations

import marshal
import os
import pickle
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO, NoReturn

from ktcpvs.errors import Refusal
from ktcpvs.replay.log_reader import LogReader
from ktcpvs.replay.logged_arrival import Row
from ktcpvs.system.process import end_with_parent

MIN_LOG_BYTES = 1 << 17
"""The smallest file that is read in a process of its own: a smaller one is read in the time that the process costs."""

BATCH_ROWS = 512
"""The most requests that are sent at once."""

BATCH_BYTES = 1 << 20
"""The bytes of targets and header lines after which requests are sent, however few."""

_ROWS, _END, _REFUSED = "rows", "end", "refused"
"""The kinds of messages."""

_LENGTH_BYTES = 4
"""Of the length before each message."""


def is_worthwhile(name: str) -> bool:
    """Return whether a log should be read in a process of its own. name: of its file; "-": standard input."""
    if len(os.sched_getaffinity(0)) < 2 or threading.active_count() > 1:  # a copy of a process has no threads
        return False
    if name == "-":
        return True
    try:
        found = os.stat(name)
    except (OSError, ValueError):  # opening it says why
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_size >= MIN_LOG_BYTES


class ReaderProcess:
    """A process that reads a log, and ends when this context manager is left. pid: its number."""

    def __init__(self, reader: LogReader) -> None:
        """reader: what reads the log; once all rows have been read, it has the counts. Raises OSError where no process
        can be started."""
        self._reader = reader
        self._status: int | None = None  # as of os.waitpid, once it has ended
        parent = os.getpid()
        ours, theirs = os.pipe()
        try:
            self.pid = os.fork()
        except OSError:
            os.close(ours)
            os.close(theirs)
            raise
        if not self.pid:
            _run(reader, ours, theirs, parent)
        os.close(theirs)
        self._pipe = open(ours, "rb")  # noqa: SIM115  # __exit__ closes it

    def __enter__(self) -> ReaderProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe.close()
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)  # it may wait for standard input
            self._wait()

    def rows(self) -> Iterator[Row]:
        """Yield what the reader yields. Raises Refusal where the log cannot be read, or the process has ended."""
        log = self._reader.log
        while True:
            kind, value = self._receive()
            if kind == _ROWS:
                log.lines, rows = value
                yield from rows
            elif kind == _END:
                self._reader.adopt(pickle.loads(value))
                self._wait()
                return
            else:
                raise Refusal(value)

    def _receive(self) -> tuple[str, Any]:
        length = int.from_bytes(self._pipe.read(_LENGTH_BYTES), "big")
        message = self._pipe.read(length)
        if not length or len(message) < length:
            raise Refusal(f"{self._reader.log.shown}: the process that reads it {self._ending()}")
        kind, value = marshal.loads(message)
        return kind, value

    def _ending(self) -> str:
        """Wait for the end of the process, and say in words how it has ended."""
        near = f"near line {self._reader.log.lines}"
        code = os.waitstatus_to_exitcode(self._wait())
        if code < 0:
            return f"was ended by signal {-code} ({signal.strsignal(-code)}) {near}; run the command again"
        return f"has ended with status {code} {near}"

    def _wait(self) -> int:
        _, self._status = os.waitpid(self.pid, 0)
        return self._status


# In the process that reads.


def _run(reader: LogReader, theirs: int, ours: int, parent: int) -> NoReturn:
    """Read the log and end the process. theirs, ours: the ends of the pipe. parent: the process that replays."""
    status = 1
    try:
        os.close(theirs)
        end_with_parent(parent)
        with suppress(BrokenPipeError), open(ours, "wb") as pipe:  # the replay has ended
            _send_all(reader, pipe)
        status = 0
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _send_all(reader: LogReader, pipe: BinaryIO) -> None:
    """Send all rows, and the counts at the end; or why the log cannot be read."""
    try:
        for rows in _batches(reader):
            _send(pipe, _ROWS, (reader.log.lines, rows))
    except Refusal as refusal:
        _send(pipe, _REFUSED, str(refusal))
    else:
        _send(pipe, _END, pickle.dumps(reader.counts))


def _batches(reader: LogReader) -> Iterator[list[Row]]:
    rows: list[Row] = []
    size = 0
    for row in reader.rows():
        rows.append(row)
        size += len(row[3]) + len(row[4])  # its target and its header lines
        if len(rows) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield rows
            rows, size = [], 0
    yield rows


def _send(pipe: BinaryIO, kind: str, value: Any) -> None:
    message = marshal.dumps((kind, value))
    pipe.write(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
    pipe.flush()
