"""What the kernel knows of a TCP connection: the parts of struct tcp_info (linux/tcp.h) that are needed here."""

from __future__ import annotations

import socket
import struct

_SIZE = 232
_LAST_DATA_RECV, _NOTSENT, _SENT = 52, 144, 200
_ONE = struct.Struct("=I")
_TWO = struct.Struct("=QQ")


def queued(sock: socket.socket) -> int:
    """Bytes that this side's TCP has been given to send since the connection was made: those sent, each once, and those
    that wait. Raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    sent, again = _TWO.unpack_from(info, _SENT)
    (waiting,) = _ONE.unpack_from(info, _NOTSENT)
    return int(sent - again + waiting)


def silent_for(sock: socket.socket) -> float:
    """Seconds since the last data came, whoever read it. Raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV + 4)
    return int(_ONE.unpack_from(info, _LAST_DATA_RECV)[0]) / 1000
