"""A TCP sender that retransmits bytes in packets with other boundaries, as after a presumed packet loss.

TCP_REPAIR (tcp(7)) replaces the sender's socket by a second one, whose sequence number is lower.
"""

from __future__ import annotations

import socket
import struct

from servers import LOOPBACK

REPAIR, REPAIR_QUEUE, QUEUE_SEQ, REPAIR_OPTIONS, TIMESTAMP, REPAIR_WINDOW = 19, 20, 21, 22, 24, 29
ON, OFF_IN_SILENCE = 1, -1
RECEIVED, SENT = 1, 2
MSS, WINDOW_SCALE, SACK_PERMITTED, TIMESTAMPS = 2, 3, 4, 8
SO_RCVBUFFORCE = 33
LARGEST = 65483
"""The longest segment on the loopback interface."""

ROOM = 4 << 20
"""The receiver's window, in bytes. A smaller one would make small packets."""


def make_room(listener: socket.socket) -> None:
    """Set the window of sockets that will be accepted. Must be called before `takes_back`."""
    listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)


def takes_back(sock: socket.socket, count: int) -> socket.socket:
    """Close `sock` and return a socket of the same connection that has not sent the last `count` bytes.

    What is sent next must begin with these bytes, which the peer already has, and must be longer.
    """
    sock.setsockopt(socket.IPPROTO_TCP, REPAIR, ON)
    received, sent = (_sequence(sock, queue) for queue in (RECEIVED, SENT))
    window = sock.getsockopt(socket.IPPROTO_TCP, REPAIR_WINDOW, 20)
    timestamp = sock.getsockopt(socket.IPPROTO_TCP, TIMESTAMP)
    scales = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[6]
    here, there = sock.getsockname(), sock.getpeername()
    sock.close()  # without a packet, since it is in repair mode
    new = _bound(here)
    _begins(new, there, received, sent - count, window, (scales & 15, scales >> 4))
    new.setsockopt(socket.IPPROTO_TCP, TIMESTAMP, timestamp)
    _works(new)
    return new


def connected_at(sequence: int) -> tuple[socket.socket, socket.socket]:
    """Make a connection whose first byte, in both directions, has that sequence number. Return both ends."""
    one, other = _bound((LOOPBACK, 0)), _bound((LOOPBACK, 0))
    sequence &= 0xFFFFFFFF
    window = struct.pack("5I", sequence, ROOM, ROOM, ROOM, sequence)
    for sock, peer in (one, other), (other, one):
        _begins(sock, peer.getsockname(), sequence, sequence, window, (10, 10))
    for sock in one, other:
        _works(sock)
    return one, other


def _bound(address: tuple[str, int]) -> socket.socket:
    """Return a bound socket in repair mode."""
    sock = socket.socket()
    sock.settimeout(10)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    make_room(sock)
    sock.setsockopt(socket.IPPROTO_TCP, REPAIR, ON)
    sock.bind(address)
    return sock


def _begins(
    sock: socket.socket, peer: tuple[str, int], received: int, sent: int, window: bytes, scales: tuple[int, int]
) -> None:
    """Connect a socket without sending a packet. received, sent: the next sequence numbers."""
    for queue, number in (RECEIVED, received), (SENT, sent):
        sock.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, queue)
        sock.setsockopt(socket.IPPROTO_TCP, QUEUE_SEQ, struct.pack("I", number & 0xFFFFFFFF))
    sock.connect(peer)
    known = (MSS, LARGEST), (WINDOW_SCALE, scales[0] | scales[1] << 16), (SACK_PERMITTED, 0), (TIMESTAMPS, 0)
    sock.setsockopt(socket.IPPROTO_TCP, REPAIR_OPTIONS, b"".join(struct.pack("II", *option) for option in known))
    sock.setsockopt(socket.IPPROTO_TCP, REPAIR_WINDOW, window)


def _works(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")  # makes the kernel compute the segment size again
    sock.setsockopt(socket.IPPROTO_TCP, REPAIR, OFF_IN_SILENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _sequence(sock: socket.socket, queue: int) -> int:
    sock.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, queue)
    return sock.getsockopt(socket.IPPROTO_TCP, QUEUE_SEQ) & 0xFFFFFFFF
