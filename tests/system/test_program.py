"""Programs of the daemon: how they end, and their output, however much that is."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
from servers import wait_for
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.system.program import LINES_TIME, MAX_LINES, Program


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("exit 3", "status 3"),
        ("kill -TERM $$", "signal SIGTERM"),
        (f"kill -{signal.SIGRTMIN + 1} $$", f"signal {signal.SIGRTMIN + 1}"),  # which has no name
    ],
)
def test_the_end_of_a_program_is_told_in_words(ending: str, how: str) -> None:
    reactor: Any = MemoryReactorClock()
    lines: list[str] = []
    ended: list[str] = []
    Program(reactor, ["/bin/sh", "-c", f"echo begins; {ending}"], {}, lines.append, ended.append)

    def has_ended() -> list[str]:
        for reader in select.select(reactor.getReaders(), (), (), 0)[0]:
            if reader in reactor.getReaders():  # the end has removed the other one
                reader.doRead()
        return ended

    wait_for(has_ended)
    assert (lines, ended) == (["begins"], [how])
    assert not reactor.getReaders()


def test_a_program_that_cannot_be_watched_is_not_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a sandbox without pidfd_open(2), which no test can enter."""

    numbers: list[int] = []

    def forbidden(pid: int) -> int:
        numbers.append(pid)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    before = os.listdir("/proc/self/fd")
    command = ["/bin/sleep", "1000"]
    with pytest.raises(PermissionError):
        Program(MemoryReactorClock(), command, {}, print, print)
    assert os.listdir("/proc/self/fd") == before
    (number,) = numbers
    assert not os.path.exists(f"/proc/{number}")


# Output.


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
