"""Processes, told apart by /proc."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from ktcpvs.system.processes import has_ended, identity


def test_a_process_has_ended_when_it_is_dead_and_when_it_is_reaped() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        name = identity(process.pid)
        assert not has_ended(name)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(name)  # a zombie
    assert has_ended(name)
    assert identity(process.pid) != name


def test_another_process_with_the_same_number_is_another_one() -> None:
    boot, space, number, began = identity(os.getpid()).split()
    assert has_ended(f"{boot} {space} {number} {int(began) - 1}")
    assert not has_ended(f"{boot} {space} {number} {began}")


@pytest.mark.parametrize("text", ["", "x", "a b c d", "a b ² d", "boot pid:[1] PID 1"])
def test_nothing_is_known_of_processes_elsewhere(text: str) -> None:
    assert not has_ended(text.replace("PID", str(os.getpid())))
