"""A process that ends after its parent, in any state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from servers import wait_for

CHILD = """
import time
from ktcpvs.system.process import end_after_parent
end_after_parent(lambda: 0.5)
print("ready", flush=True)
while {busy}:
    pass
time.sleep(600)
"""

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("busy", [False, True], ids=["it waits", "it never comes to an end"])
@pytest.mark.parametrize("stopped", [False, True], ids=["it runs", "it is stopped"])
def test_it_ends_after_its_parent(busy: bool, stopped: bool) -> None:
    program = [sys.executable, "-c", PARENT, CHILD.format(busy=busy)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline().strip() for _ in range(2)}
        (number,) = said - {"ready"}
        child = int(number)
        try:
            if stopped:
                os.kill(child, signal.SIGSTOP)
            assert not is_gone(child)
            parent.kill()
            parent.wait()
            wait_for(lambda: is_gone(child), "the child to end", timeout=30)
        finally:
            if not is_gone(child):
                os.kill(child, signal.SIGKILL)


def test_a_paused_process_is_not_ended() -> None:
    """Other programs, such as a shell, send SIGCONT too."""
    code = CHILD.format(busy=False).replace("600", "3")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGSTOP)
        child.send_signal(signal.SIGCONT)
        assert child.wait(30) == 0
