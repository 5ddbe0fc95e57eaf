"""Other processes: whose connection a unix socket is, and whether a process has ended."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys


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
