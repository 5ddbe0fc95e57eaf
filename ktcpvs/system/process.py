"""Other processes: whether a process has ended, and what a process does when its parent ends."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any

from ktcpvs.system.peer import peer_process
from ktcpvs.system.privileges import prctl


def process_of(sock: socket.socket) -> Process | None:
    """Return the process at the other end, to watch it; None: unknown."""
    with contextlib.suppress(OSError):
        return Process(peer_process(sock))
    return None


_PDEATHSIG = 1
"""From linux/prctl.h."""


def end_after_parent(seconds: Callable[[], float]) -> None:
    """Prepare for the end of the parent process: this process is then resumed if it is stopped, and the kernel ends it
    after `seconds()` unless it ends by itself before. Raises OSError.

    The kernel sends SIGCONT (prctl(2), PR_SET_PDEATHSIG) when the *thread* that started this process ends; that thread
    must live as long as its process, as the main thread does. SIGKILL would cut off connections that can drain.
    """
    parent = os.getppid()

    def continued(number: int, frame: Any) -> None:
        if os.getppid() != parent:
            signal.alarm(max(math.ceil(seconds()), 1))

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGCONT, continued)
    prctl(_PDEATHSIG, signal.SIGCONT)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, and end now if it has ended. parent: its number. The
    process that has started this one must have no threads. Raises OSError."""
    prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class Process:
    """One process, which is never confused with a later one of the same number (pidfd_open(2))."""

    def __init__(self, pid: int) -> None:
        """Raises OSError."""
        self._descriptor = os.pidfd_open(pid)

    def has_ended(self) -> bool:
        """Whether the process has ended, even if its parent has not waited for it yet."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            os.close(self._descriptor)
