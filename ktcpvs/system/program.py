"""A program that the daemon runs: in a session and a process group of its own, with its output in the daemon's log."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.system.privileges import without_capabilities

READ_SIZE = 1 << 16
MAX_LINE = 1000
"""The most bytes of a line of output that are logged."""

MAX_LINES = 100
"""The most lines of output that are logged in LINES_TIME seconds; the others are counted."""

LINES_TIME = 10.0


@implementer(IReadDescriptor)
class _Readable:
    """A descriptor that the reactor watches."""

    def __init__(self, descriptor: int, ready: Callable[[], object]) -> None:
        self._descriptor = descriptor
        self._ready = ready

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        self._ready()

    def connectionLost(self, reason: Failure) -> None:
        pass

    def logPrefix(self) -> str:
        return "program"


class Program:
    """One run of a program. ended: called once with how it has ended, in words, when it and its output are over."""

    def __init__(
        self,
        reactor: Any,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_line: Callable[[str], object],
        ended: Callable[[str], object],
    ) -> None:
        """Start it. log_line: called with each line of its output. Raises OSError."""
        self._reactor = reactor
        self._log_line = log_line
        self._ended = ended
        self._output = b""
        self._lines = 0  # that have been logged since `_lines_from`
        self._dropped = 0
        self._lines_from = reactor.seconds()
        with without_capabilities():
            self._process = subprocess.Popen(
                command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # as in a sandbox that forbids it: nobody would notice the end of the program
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()
            raise
        self._readers = [_Readable(self._pipe, self._read), _Readable(self._pidfd, self._exited)]
        for reader in self._readers:
            reactor.addReader(reader)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the program."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self._reactor.removeReader(self._readers[0])  # it has closed its output, and runs on
            return
        *lines, rest = (self._output + data).split(b"\n")
        self._output = rest[:MAX_LINE]
        for line in lines:
            self._log(line)

    def _log(self, line: bytes) -> None:
        now = self._reactor.seconds()
        if now - self._lines_from >= LINES_TIME:
            self._tell_dropped()
            self._lines, self._lines_from = 0, now
        self._lines += 1
        if self._lines > MAX_LINES:
            self._dropped += 1
        elif line.strip():
            self._log_line(line[:MAX_LINE].decode("utf-8", "replace"))

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._log_line(f"{dropped} more lines are left out")

    def _exited(self) -> None:
        """The process has ended. What is left of its group ends too."""
        status = self._process.poll()
        if status is None:
            return
        self.signal(signal.SIGKILL)
        for reader in self._readers:
            self._reactor.removeReader(reader)
        self._read_rest()
        os.close(self._pidfd)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._ended(f"status {status}" if status >= 0 else f"signal {_signal_name(-status)}")

    def _read_rest(self) -> None:
        """Log what the pipe still has: why the program has ended is often the last line."""
        with suppress(BlockingIOError):
            data = os.read(self._pipe, READ_SIZE)
            for line in (self._output + data).split(b"\n"):
                self._log(line)
        self._tell_dropped()


def _signal_name(number: int) -> str:
    """Return the name of a signal; its number, where it has none, as most of the real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
