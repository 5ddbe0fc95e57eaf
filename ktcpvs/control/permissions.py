"""Permission to administer over a unix socket, by the user that the kernel reports for the peer (unix(7))."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

_PEERCRED = struct.Struct("3i")
_PEERGROUPS = 59  # SO_PEERGROUPS of asm-generic/socket.h
_MAX_GROUPS = 256


class Permissions:
    """Permits root, the user of this process, and the members of one group."""

    def __init__(self, group: int | None = None) -> None:
        """group: its number; None: no group."""
        self._group = group

    def refusal(self, transport: Any) -> str | None:
        """Return why the peer may not administer; None: it may.

        Over TCP every peer may: it has connected over loopback, or has shown a certificate.
        """
        sock = _unix_socket(transport)
        if sock is None:
            return None
        uid, gid = _peer_credentials(sock)
        if uid in (0, os.getuid()) or (self._group is not None and self._group in (gid, *_peer_groups(sock))):
            return None
        return f"user {uid} may not administer"

    def peer_name(self, transport: Any) -> str:
        """Return the peer's user, for the log. Over TCP on loopback the user is unknown."""
        sock = _unix_socket(transport)
        return f"user {_peer_credentials(sock)[0]}" if sock is not None else "a user of this machine"


def _unix_socket(transport: Any) -> socket.socket | None:
    sock: socket.socket | None = getattr(transport, "socket", None)
    return sock if sock is not None and sock.family == socket.AF_UNIX else None


def _peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """Return the numbers of the peer's user and group."""
    _, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return uid, gid


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:  # a kernel before 4.13, or more groups than that
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
