"""Let a stream speak over an accepted socket: bare where a poller is given, on uvloop's own transport where the reactor
has a uvloop, else on Twisted's."""

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
    """Let `stream` speak over an accepted socket, blocking or not. peer: its address, as accept() gave it. poller:
    watches the socket, which then stays bare.

    It does what reactor.adoptStreamConnection does, without a second descriptor and without asking for the address
    again, which fails for a client that has gone already. `stream.made` has been called when it returns. Raises what
    that raises, or the system.
    """
    if poller is not None:
        bare_transport.adopt_socket(poller, sock, peer, stream)
        return
    loop = getattr(reactor, "uv", None)
    if loop is not None:
        uv_transport.adopt_socket(loop, sock, peer, stream)
        return
    kind = unix.Server if sock.family == socket.AF_UNIX else tcp.Server
    no_port: Any = None  # Twisted wants its Port only for the log
    stream.makeConnection(kind(sock, stream, peer, no_port, sock.fileno(), reactor))


def client_name(peer: Any) -> tuple[str, str]:
    """(address with port, host) of a socket's peer, as text; a unix socket's peer has no address."""
    return (address_text(peer), peer[0]) if isinstance(peer, tuple) else ("unix", "")
