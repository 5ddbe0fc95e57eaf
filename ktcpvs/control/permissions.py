"""Who may administer over a unix socket: by the user that is at the other end, as the system says (unix(7))."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

_PEERCRED = struct.Struct("3i")
_PEERGROUPS = 59  # SO_PEERGROUPS of asm-generic/socket.h
_GROUPS_MOST = 256


class Permissions:
    """Root, this process's user, and members of a group may; nobody else."""

    def __init__(self, group: int | None = None) -> None:
        """group: its number; None: there is none."""
        self._group = group

    def refusal(self, transport: Any) -> str | None:
        """Why who is at the other end is turned away; None: he is let in. Over TCP everybody is who comes so far: it is
        loopback, or he has shown a certificate."""
        sock = _unix_socket(transport)
        if sock is None:
            return None
        uid, gid = _user(sock)
        if uid in (0, os.getuid()) or (self._group is not None and self._group in (gid, *_groups(sock))):
            return None
        return f"user {uid} may not administer"

    def who(self, transport: Any) -> str:
        """Who is at the other end, for the log; over TCP on loopback nobody knows."""
        sock = _unix_socket(transport)
        return f"user {_user(sock)[0]}" if sock is not None else "somebody on this machine"


def _unix_socket(transport: Any) -> socket.socket | None:
    sock: socket.socket | None = getattr(transport, "socket", None)
    return sock if sock is not None and sock.family == socket.AF_UNIX else None


def _user(sock: socket.socket) -> tuple[int, int]:
    """His number, and that of his group."""
    _, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return uid, gid


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, 4 * _GROUPS_MOST)
    except OSError:  # a kernel before 4.13, or more groups than that
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
