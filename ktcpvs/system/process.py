"""Other processes: whose connection a unix socket is, and whether a process has ended."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from ktcpvs.system.privileges import prctl


def peer_process(sock: socket.socket) -> int:
    """The process at the other end (unix(7), SO_PEERCRED); of a listener's, the one that called listen(2) last. 0: that
    is not known."""
    try:
        said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
    except OSError:
        return 0
    return int.from_bytes(said, sys.byteorder)


def peer_user(sock: socket.socket) -> int:
    """The number of the user at the other end (unix(7), SO_PEERCRED); a listener's is who called listen(2) last. Raises
    OSError."""
    said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(said[4:8], sys.byteorder)


def process_of(sock: socket.socket) -> Process | None:
    """The same, to be watched; None: that is not known."""
    with contextlib.suppress(OSError):
        return Process(peer_process(sock))
    return None


_PDEATHSIG = 1
"""Of linux/prctl.h."""


def end_after_parent(seconds: Callable[[], float]) -> None:
    """When the process that has started this one ends, this one is continued if it was stopped, and is ended by the
    kernel after `seconds()` unless it has ended by itself before.

    The kernel sends SIGCONT (prctl(2), PR_SET_PDEATHSIG) when the *thread* ends that has started this process; it must
    be one that lives as long as its process, as the main thread does. SIGKILL would cut off connections that can
    drain. Raises OSError.
    """
    parent = os.getppid()

    def continued(number: int, frame: Any) -> None:
        if os.getppid() != parent:
            signal.alarm(max(math.ceil(seconds()), 1))

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGCONT, continued)
    prctl(_PDEATHSIG, signal.SIGCONT)


class Process:
    """One process, and no other that gets its number later (pidfd_open(2))."""

    def __init__(self, pid: int) -> None:
        """Raises OSError."""
        self._descriptor = os.pidfd_open(pid)

    def has_ended(self) -> bool:
        """True also while nobody has asked how it ended."""
        asked = select.poll()
        asked.register(self._descriptor, select.POLLIN)
        return bool(asked.poll(0))

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            os.close(self._descriptor)
