"""A program of the daemon: its end, whatever ends it, and its output, however much that is."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from ktcpvs.system.program import LINES_TIME, MAX_LINES, Program


class Readers(Clock):
    """A reactor that reads when it is told to. readers: what it watches."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def read_until(self, is_done: Callable[[], bool]) -> None:
        """Read what can be read until that is so."""
        while not is_done():
            ready, _, _ = select.select(self.readers, [], [], 30)
            assert ready
            for reader in ready:
                reader.doRead()


class Run:
    """A program and what comes of it."""

    def __init__(self, code: str) -> None:
        self.reactor = Readers()
        self.lines: list[str] = []
        self.ends: list[str] = []
        command = [sys.executable, "-c", code]
        self.program = Program(self.reactor, command, os.environ, self.lines.append, self.ends.append)

    def finish(self) -> str:
        """Wait for its end, and return how that was."""
        self.reactor.read_until(lambda: bool(self.ends))
        assert not self.reactor.readers
        (end,) = self.ends
        return end


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, "signal SIGTERM"), (signal.SIGRTMIN + 6, f"signal {signal.SIGRTMIN + 6}")]
)
def test_any_signal_may_end_it(number: int, said: str) -> None:
    """Most real-time signals have no name."""
    assert Run(f"import os; os.kill(os.getpid(), {int(number)})").finish() == said


def test_its_last_line_is_logged() -> None:
    run = Run("print('one'); print('two', end='')")
    assert run.finish() == "status 0"
    assert run.lines == ["one", "two"]


def test_lines_beyond_the_limit_are_counted_at_once() -> None:
    """Each read has tens of thousands of lines; to look at each of them would keep clients waiting."""
    run = Run("import os, time; [os.write(1, b'x\\n' * 16384) for _ in range(16)]; time.sleep(600)")
    run.reactor.read_until(lambda: len(run.lines) >= MAX_LINES)
    calls: list[str] = []

    def count(frame: Any, event: str, argument: Any) -> None:
        calls.append(event)

    for _ in range(4):
        select.select(run.reactor.readers, [], [], 30)
        sys.setprofile(count)
        try:
            run.reactor.readers[0].doRead()
        finally:
            sys.setprofile(None)
    assert len(calls) < 4 * 50, "calls for each read, whatever its lines"
    assert run.lines == ["x"] * MAX_LINES
    run.program.signal(signal.SIGKILL)
    run.finish()
    assert run.lines[MAX_LINES].endswith(" more lines are left out")


def test_lines_are_logged_again_after_a_while() -> None:
    wait = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])"
    run = Run(f"{wait}; print('x\\n' * 1000, flush=True); signal.sigwait([signal.SIGUSR1]); print('later')")
    run.reactor.read_until(lambda: len(run.lines) >= MAX_LINES)
    run.reactor.advance(LINES_TIME)
    run.program.signal(signal.SIGUSR1)
    run.finish()
    assert "later" in run.lines
