"""TCP handshakes in progress, from the kernel over netlink (sock_diag(7))."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

_NETLINK, _SOCK_DIAG, _BY_FAMILY = 16, 4, 20
"""AF_NETLINK, NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY; the socket module has only some of them."""

_REQUEST, _DUMP = 0x001, 0x300
_ERROR, _DONE = 2, 3
_SYN_RECV = 3
_HEADER = struct.Struct("=IHHII")
_ID_START, _ID_SIZE = _HEADER.size + 4, 48
"""Offset and size of struct inet_diag_sockid in a reply: addresses, ports and a cookie."""

_MAX_MESSAGE_BYTES = 1 << 16


def handshakes(listener: socket.socket) -> frozenset[bytes] | None:
    """Return an identifier of each handshake in progress on the port of a TCP listener; None if the kernel refuses.

    It takes a quarter of a millisecond, and more on kernels with much memory for connections.
    """
    query = struct.pack("=BBBxI", int(listener.family), socket.IPPROTO_TCP, 0, 1 << _SYN_RECV)
    query += struct.pack("!HH", listener.getsockname()[1], 0) + bytes(36) + b"\xff" * 8
    try:
        with socket.socket(_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as link:
            link.send(_HEADER.pack(_HEADER.size + len(query), _BY_FAMILY, _REQUEST | _DUMP, 1, 0) + query)
            return frozenset(_replies(link))
    except OSError:
        return None


def _replies(link: socket.socket) -> Iterator[bytes]:
    """Yield the sockid of each reply. Raises OSError if the kernel refuses."""
    while True:
        data = link.recv(_MAX_MESSAGE_BYTES)
        while data:
            size, kind, *_ = _HEADER.unpack_from(data)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", data, _HEADER.size)[0], "sock_diag")
            yield data[_ID_START : _ID_START + _ID_SIZE]
            data = data[(size + 3) & ~3 :]
