"""The kernel's view of a TCP connection: parts of struct tcp_info (linux/tcp.h), and the next sequence number."""

from __future__ import annotations

import errno
import os
import socket
import struct

from ktcpvs.system.sockets import read_urgent_in_place, unread

_SIZE = 232
_LAST_DATA_RECV, _NOTSENT, _SENT = 52, 144, 200
_ONE = struct.Struct("=I")
_TWO = struct.Struct("=QQ")


def queued(sock: socket.socket) -> int:
    """Return the bytes that were queued for sending since the connection was established: those sent, without
    retransmissions, and those that wait. Raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    sent, again = _TWO.unpack_from(info, _SENT)
    (waiting,) = _ONE.unpack_from(info, _NOTSENT)
    return int(sent - again + waiting)


def not_sent(sock: socket.socket) -> int:
    """Return the bytes in the send queue that have not been sent yet. Raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _NOTSENT + 4)
    return int(_ONE.unpack_from(info, _NOTSENT)[0])


_TCP_RMEM = "/proc/sys/net/ipv4/tcp_rmem"
_USUAL_LARGEST = 6 << 20


def largest_receive_buffer() -> int:
    """Return the largest receive buffer of a socket, in bytes (tcp(7), tcp_rmem); Linux's default if it cannot be
    read."""
    try:
        with open(_TCP_RMEM, encoding="ascii") as file:
            return int(file.read().split()[2])
    except (OSError, ValueError, IndexError):
        return _USUAL_LARGEST


def silent_for(sock: socket.socket) -> float:
    """Return the seconds since the last data came, whether this process or the kernel read it. Raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV + 4)
    return int(_ONE.unpack_from(info, _LAST_DATA_RECV)[0]) / 1000


_REPAIR, _REPAIR_QUEUE, _QUEUE_SEQ = 19, 20, 21
_ON, _OFF_IN_SILENCE, _RECEIVED = 1, -1, 1
_ATTEMPTS = 100


def next_sequence(sock: socket.socket) -> int:
    """Return the TCP sequence number of the byte that the next read returns. Nothing may read meanwhile.

    This needs CAP_NET_ADMIN (tcp(7), TCP_REPAIR). From now on urgent data is read in its place; otherwise the number of
    unread bytes would be unknown. Raises OSError: EAGAIN if bytes keep coming.
    """
    read_urgent_in_place(sock)
    shared = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    sock.setsockopt(socket.IPPROTO_TCP, _REPAIR, _ON)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _REPAIR_QUEUE, _RECEIVED)
        for _ in range(_ATTEMPTS):
            before = unread(sock)
            end = sock.getsockopt(socket.IPPROTO_TCP, _QUEUE_SEQ)
            if unread(sock) == before:
                return (end - before) & 0xFFFFFFFF
    finally:
        sock.setsockopt(socket.IPPROTO_TCP, _REPAIR, _OFF_IN_SILENCE)
        if shared:  # TCP_REPAIR has cleared it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
