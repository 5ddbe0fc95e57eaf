"""Accept connections, and attach streams to them: to the bare socket if a poller is given, on uvloop's own transport if
the reactor has a uvloop, else on Twisted's."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp, unix

from ktcpvs.streams import compiled, uv_transport
from ktcpvs.streams.bare_transport import BareTransport
from ktcpvs.streams.contract import address_text
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.sockets import plain_socket_class

accept = compiled.accept_descriptor
"""Called with a listening socket and its family. Accepts one connection, and returns its descriptor and its peer's
address; None: nobody waits. Raises OSError."""


def adopt_descriptor(
    reactor: Any, descriptor: int, family: int, peer: Any, stream: Stream, poller: SocketPoller | None = None
) -> None:
    """As `adopt_socket`, for a descriptor from `accept`, which is closed with the stream. family: of its address."""
    if poller is not None:
        BareTransport(poller, descriptor, family, peer).begin(stream)
        return
    sock = plain_socket_class(family)(family, socket.SOCK_STREAM, 0, descriptor)
    try:
        adopt_socket(reactor, sock, peer, stream)
    finally:
        if not stream.is_open:
            sock.close()


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
        BareTransport(poller, sock.detach(), sock.family, peer).begin(stream)
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
    if type(peer) is not tuple:
        return "unix", ""
    host = peer[0]
    return (f"{host}:{peer[1]}" if ":" not in host else address_text(peer)), host
