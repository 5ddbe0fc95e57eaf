"""The process and the user at the other end of a unix socket."""

from __future__ import annotations

import socket
import sys


def peer_process(sock: socket.socket) -> int:
    """Return the process at the other end of a unix socket (unix(7), SO_PEERCRED): for a listener, the one that called
    listen(2) last. 0: unknown."""
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
    except OSError:
        return 0
    return int.from_bytes(credentials, sys.byteorder)


def peer_user(sock: socket.socket) -> int:
    """Return the number of the user at the other end of a unix socket (unix(7), SO_PEERCRED): for a listener, the one
    that called listen(2) last. Raises OSError."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)
