"""Who may administer over a unix socket: by the user that is at the other end, as the system says (unix(7))."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

_PEERCRED = struct.Struct("3i")
_PEERGROUPS = 59  # SO_PEERGROUPS of asm-generic/socket.h
_GROUPS_MOST = 256


class Guard:
    """Root, this process's user, and members of a group may; nobody else."""

    def __init__(self, group: int | None = None) -> None:
        """group: its number; None: there is none."""
        self._group = group

    def refusal(self, transport: Any) -> str | None:
        """Why who is at the other end is turned away; None: he is let in. Over TCP, which is loopback, everybody is."""
        sock = getattr(transport, "socket", None)
        if sock is None or sock.family != socket.AF_UNIX:
            return None
        _, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        if uid in (0, os.getuid()) or (self._group is not None and self._group in (gid, *_groups(sock))):
            return None
        return f"user {uid} may not administer"


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, 4 * _GROUPS_MOST)
    except OSError:  # a kernel before 4.13, or more groups than that
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
