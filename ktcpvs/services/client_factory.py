"""The client side of a service as a Twisted protocol factory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocolFactory
from zope.interface import implementer

from ktcpvs.dispatch import compiled as _connection_methods  # noqa: F401 - replaces methods by compiled ones
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.client_limits import ClientLimits, ProxiedClientLimits
from ktcpvs.http import compiled as _http_methods  # noqa: F401 - the same for clients of HTTP
from ktcpvs.http.client_connection import HTTP2OnlyClientConnection, HTTPClientConnection
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.http.service import HTTPService
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model.clients import NOWHERE
from ktcpvs.services.preambles import Preambles
from ktcpvs.streams.accept import client_name, socket_address
from ktcpvs.streams.contract import SocketAddress, TLSFacts
from ktcpvs.streams.preamble import Stage
from ktcpvs.streams.stream import Stream
from ktcpvs.tcp import compiled as _tcp_methods  # noqa: F401 - the same for whole connections
from ktcpvs.tcp.connection import TCPClientConnection


@implementer(IProtocolFactory)
class ClientFactory:
    """Builds client connections.

    The switch's own accept loop calls `build` with a socket's peer. Any Twisted endpoint can serve the service too,
    with `endpoint.listen(factory)`; then `maxclients` does not apply, since the endpoint accepts the clients.

    stages: of the preamble, which an endpoint's clients go through before they are admitted.
    """

    def __init__(
        self,
        http: HTTPService,
        https: HTTPService,
        began: Callable[[ClientConnection], object],
        preambles: Preambles | None = None,
        http2: tuple[HTTPService, HTTPService] | None = None,
    ) -> None:
        """http, https: for clients without TLS and with it. began: called with each new connection, before its stream
        is connected. preambles: run the stages; None: there are none. http2: for the streams of clients of HTTP/2
        without TLS and with it; None: those of the others."""
        self._http = http
        self._https = https
        self._http2 = http2 or (http, https)
        self._service = http.context
        self._began = began
        self._preambles = preambles
        self.stages: Sequence[Stage] = ()

    def __repr__(self) -> str:
        return f"<ClientFactory of {self._service.ident}>"

    def doStart(self) -> None:
        """An endpoint begins to listen."""

    def doStop(self) -> None:
        """An endpoint stops listening."""

    def buildProtocol(self, addr: IAddress | None) -> Stream | None:
        """Return the stream of a new client; None if the client is rejected: the endpoint then closes it.

        addr: as Twisted passes it; a client without an IP address is treated as one on a unix socket.
        """
        peer = socket_address(addr.host, addr.port) if isinstance(addr, IPv4Address | IPv6Address) else ""
        if self.stages and self._preambles is not None:
            preamble = self._preambles.begin(self.stages, peer)
            return preamble.stream if preamble is not None else None
        connection = self.build(peer)
        return connection.client if connection is not None else None

    def build_stream(
        self, peer: Any, tls: TLSFacts | None, limits: ClientLimits | None, called: SocketAddress = None
    ) -> HTTP2StreamConnection:
        """Return a connection for one stream of an HTTP/2 client, whose stream the caller connects. peer: of the
        client. tls, limits, called: of its connection."""
        connection = HTTP2StreamConnection(self._http2[tls is not None], *client_name(peer))
        connection.client.tls, connection.client.called = tls, called
        connection.limits = limits and limits.of_stream()
        self._began(connection)
        return connection

    def build(self, peer: Any) -> ClientConnection | None:
        """Admit a client and return its connection, whose stream the caller connects; None if the client is rejected.
        peer: as returned by accept()."""
        admission = self._service.admission
        slot = NOWHERE if admission.is_open_to_all else admission.enter(peer)
        return None if slot is None else self.build_admitted(peer, slot)

    def build_admitted(self, peer: Any, slot: int, stream: Stream | None = None) -> ClientConnection:
        """Return the connection of a client that `Admission.enter` has admitted. slot: where it counts; the connection
        gives it back. stream: the open one that the connection will take over; None: the caller connects the
        connection's own."""
        service = self._service
        name, host = client_name(peer)
        connection: ClientConnection
        if service.unit == EACH_REQUEST:
            has_tls = stream is not None and stream.tls is not None
            kind = HTTPClientConnection if service.config.http2 != "only" else HTTP2OnlyClientConnection
            connection = kind(self._https if has_tls else self._http, name, host)
        else:
            connection = TCPClientConnection(service, name, host)
        if slot != NOWHERE:
            connection.limits = ClientLimits(service.admission, slot)
        elif service.proxies.is_used and service.admission.limits_requests and service.proxies.trusts(host):
            connection.limits = ProxiedClientLimits(service.admission)
        self._began(connection)
        return connection
