"""A process beside the daemon that ends the programs of a daemon that was killed (SIGKILL, out of memory).

The kernel could send a signal to a program whose parent has ended (PR_SET_PDEATHSIG), but not to the processes that the
program has started, and no second one to those that ignore it.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ktcpvs.system import guard_program
from ktcpvs.system.privileges import without_capabilities

END_TIMEOUT = 5.0
"""Seconds for the guard to end after the last program."""


class ProgramGuard:
    """Knows the process groups of all programs that run. Its process starts with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: dict[int, float] = {}

    def add(self, group: int, seconds: float) -> None:
        """A program has started. seconds: how long it may take to end after SIGTERM. Raises OSError if there can be no
        guard."""
        self._groups[group] = seconds
        self._tell(f"+{group} {seconds}\n")

    def remove(self, group: int) -> None:
        """A program has ended. Raises OSError."""
        if self._groups.pop(group, None) is not None:
            self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        """Say it to the process; begin with a new one, which is told all, if there is none or it was killed."""
        if self._process is not None:
            try:
                self._write(line)
                return
            except BrokenPipeError:
                self.close()
        if self._groups:
            with without_capabilities():
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(Path(guard_program.__file__))], stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
                )  # fmt: skip
            self._write("".join(f"+{group} {seconds}\n" for group, seconds in self._groups.items()))

    def _write(self, text: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process, which ends what is left of the programs."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT)
