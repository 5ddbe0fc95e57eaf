"""TCP handshakes that are under way, as the kernel tells them over netlink (sock_diag(7))."""

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
"""Where struct inet_diag_sockid stands in an answer, and how long it is: addresses, ports and a cookie."""

_RECEIVED_AT_ONCE = 1 << 16


def handshakes(listener: socket.socket) -> frozenset[bytes] | None:
    """The handshakes under way on the port of a TCP listener, each by a name that is its own. None: the system does not
    tell. It takes a quarter of a millisecond, and more where the kernel has much memory for connections."""
    asked = struct.pack("=BBBxI", int(listener.family), socket.IPPROTO_TCP, 0, 1 << _SYN_RECV)
    asked += struct.pack("!HH", listener.getsockname()[1], 0) + bytes(36) + b"\xff" * 8
    try:
        with socket.socket(_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as link:
            link.send(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST | _DUMP, 1, 0) + asked)
            return frozenset(_told(link))
    except OSError:
        return None


def _told(link: socket.socket) -> Iterator[bytes]:
    """Raises OSError when the kernel refuses."""
    while True:
        data = link.recv(_RECEIVED_AT_ONCE)
        while data:
            size, kind, *_ = _HEADER.unpack_from(data)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", data, _HEADER.size)[0], "sock_diag")
            yield data[_ID_START : _ID_START + _ID_SIZE]
            data = data[(size + 3) & ~3 :]
