"""Attach a stream to an accepted socket: to the bare socket if a poller is given, on uvloop's own transport if the
reactor has a uvloop, else on Twisted's."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp, unix

from ktcpvs.streams import bare_transport, uv_transport
from ktcpvs.streams.contract import address_text
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream


def adopt_socket(
    reactor: Any, sock: socket.socket, peer: Any, stream: Stream, poller: SocketPoller | None = None
) -> None:
    """Attach `stream` to an accepted socket, blocking or not. peer: its address, as returned by accept(). poller: polls
    the socket, which then needs no transport of the reactor's.

    This does what reactor.adoptStreamConnection does, but needs no second descriptor, and does not ask the system for
    the address again, which would fail for a client that has already disconnected. `stream.made` has been called when
    it returns. Raises what `stream.made` or the system raises.
    """
    if poller is not None:
        bare_transport.adopt_socket(poller, sock, peer, stream)
        return
    loop = getattr(reactor, "uv", None)
    if loop is not None:
        uv_transport.adopt_socket(loop, sock, peer, stream)
        return
    kind = unix.Server if sock.family == socket.AF_UNIX else tcp.Server
    no_port: Any = None  # Twisted needs its Port only for the log
    stream.makeConnection(kind(sock, stream, peer, no_port, sock.fileno(), reactor))


def socket_address(host: str, port: int) -> tuple[Any, ...]:
    """Return an IP address in the form of accept()."""
    return (host, port, 0, 0) if ":" in host else (host, port)


def client_name(peer: Any) -> tuple[str, str]:
    """Return (address with port, host) of a socket's peer, as text; a unix socket's peer has no address."""
    return (address_text(peer), peer[0]) if isinstance(peer, tuple) else ("unix", "")
