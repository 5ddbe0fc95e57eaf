"""Attach a stream to an accepted socket: on uvloop's own transport if the reactor has a uvloop, else on Twisted's."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp, unix

from ktcpvs.streams import uv_transport
from ktcpvs.streams.contract import address_text
from ktcpvs.streams.stream import Stream


def adopt_socket(reactor: Any, sock: socket.socket, peer: Any, stream: Stream) -> None:
    """Attach `stream` to an accepted socket, blocking or not. peer: its address, as returned by accept().

    This does what reactor.adoptStreamConnection does, but needs no second descriptor, and does not ask the system for
    the address again, which would fail for a client that has already disconnected. `stream.made` has been called when
    it returns. Raises what `stream.made` or the system raises.
    """
    loop = getattr(reactor, "uv", None)
    if loop is not None:
        uv_transport.adopt_socket(loop, sock, peer, stream)
        return
    kind = unix.Server if sock.family == socket.AF_UNIX else tcp.Server
    no_port: Any = None  # Twisted needs its Port only for the log
    stream.makeConnection(kind(sock, stream, peer, no_port, sock.fileno(), reactor))


def client_name(peer: Any) -> tuple[str, str]:
    """Return (address with port, host) of a socket's peer, as text; a unix socket's peer has no address."""
    return (address_text(peer), peer[0]) if isinstance(peer, tuple) else ("unix", "")
