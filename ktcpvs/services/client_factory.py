"""The client side of a service as a Twisted protocol factory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocolFactory
from zope.interface import implementer

import ktcpvs.dispatch.compiled  # noqa: F401 - replaces methods of connections by compiled ones
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.client_limits import ClientLimits, ProxiedClientLimits
from ktcpvs.http.client_connection import HTTP2StreamConnection, HTTPClientConnection
from ktcpvs.http.service import HTTPService
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model.clients import NOWHERE
from ktcpvs.services.preambles import Preambles
from ktcpvs.streams.accept import client_name, socket_address
from ktcpvs.streams.contract import TLSFacts
from ktcpvs.streams.preamble import Stage
from ktcpvs.streams.stream import Stream
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
    ) -> None:
        """http, https: for clients without TLS and with it. began: called with each new connection, before its stream
        is connected. preambles: run the stages; None: there are none."""
        self._http = http
        self._https = https
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
            return self._preambles.begin(self.stages, peer).stream
        connection = self.build(peer)
        return connection.client if connection is not None else None

    def build_stream(self, peer: Any, tls: TLSFacts | None, limits: ClientLimits | None) -> ClientConnection:
        """Return a connection for one stream of an HTTP/2 client, whose stream the caller connects. peer: of the
        client. tls: of its connection. limits: of its connection."""
        connection = HTTP2StreamConnection(self._https if tls is not None else self._http, *client_name(peer))
        connection.client.tls = tls
        connection.limits = limits and limits.of_stream()
        self._began(connection)
        return connection

    def build(self, peer: Any, stream: Stream | None = None) -> ClientConnection | None:
        """Admit a client and return its connection; None if the client is rejected. peer: as returned by accept(), or
        as the stages of the preamble found it. stream: the open one that the connection will take over; None: the
        caller connects the connection's own."""
        service = self._service
        name, host = client_name(peer)
        is_proxy = service.proxies.is_used and service.proxies.trusts(host)
        slot = NOWHERE if service.admission.is_open_to_all else service.admission.enter(peer, is_proxy)
        if slot is None:
            return None
        connection: ClientConnection
        if service.unit == EACH_REQUEST:
            has_tls = stream is not None and stream.tls is not None
            connection = HTTPClientConnection(self._https if has_tls else self._http, name, host)
        else:
            connection = TCPClientConnection(service, name, host)
        if slot != NOWHERE:
            connection.limits = ClientLimits(service.admission, slot)
        elif is_proxy and service.admission.limits_requests:
            connection.limits = ProxiedClientLimits(service.admission)
        self._began(connection)
        return connection
