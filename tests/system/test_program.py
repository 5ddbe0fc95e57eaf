"""Programs of the daemon: how they end."""

from __future__ import annotations

import os
import select
import signal
from typing import Any

import pytest
from servers import wait_for
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.system.program import Program


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
