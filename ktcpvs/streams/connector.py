"""Connector: makes connections to one server, both for traffic and for health checks."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

import ktcpvs.streams.compiled  # noqa: F401 - replaces methods of bare sockets by compiled ones
from ktcpvs.model.address import Address, Unix
from ktcpvs.streams import bare_connect
from ktcpvs.streams.connect import Connecting, connect
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.protocol_stream import ProtocolStream
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_connect import TLSAttempt
from ktcpvs.system.tls_contexts import ClientContexts, ServerTLS


@implementer(IStreamClientEndpoint)
class Connector:
    """Makes connections to the server at `address`."""

    def __init__(
        self,
        reactor: Any,
        address: Address,
        timeout: float | Callable[[], float],
        tls: ServerTLS | None = None,
        contexts: ClientContexts | None = None,
    ) -> None:
        """timeout: seconds for each attempt to connect; a function is called for each connection, so that a setting may
        change. tls: how connections are secured; None: not at all. contexts: shared by all connectors, where there is
        `tls`. Raises NoTLS."""
        self.address = address
        self.tls = tls
        self._context = (contexts or ClientContexts()).context(tls) if tls is not None else None
        self._session: ssl.SSLSession | None = None  # the last one that the server has given
        self._reactor = reactor
        self._timeout = timeout
        self._may_be_bare = tls is None and (isinstance(address, Unix) or not address.is_name)

    @property
    def key(self) -> Hashable:
        """Connections of connectors with equal keys can replace each other; a pool reuses no others. Whatever else
        distinguishes connections to one address must become a part of it, as TLS is with all that it verifies."""
        return self.address if self.tls is None else (self.address, self.tls, self._context)

    @property
    def timeout(self) -> float:
        """The current number of seconds for each attempt to connect."""
        return self._timeout() if callable(self._timeout) else self._timeout

    def begin(
        self,
        stream: Stream,
        connected: Callable[[Stream], object],
        failed: Callable[[Failure], object],
        poller: SocketPoller | None = None,
    ) -> Connecting:
        """As `connect_stream`, with one of two functions to call, in a later turn or when the attempt is cancelled.

        poller: watches the socket, which stays bare, unless the server's address is a name or connections are secured.
        """
        address = self.address
        if poller is not None and self._may_be_bare:
            return bare_connect.connect(poller, address, self.timeout, stream, connected, failed)
        return self.connect_stream(stream).addCallbacks(connected, failed)

    def connect_stream(self, stream: Stream) -> Deferred[Stream]:
        """Connect `stream`; fires with it when it is open.

        Fails with ConnectError, TimeoutError or DNSLookupError. Cancelling the Deferred stops the attempt.
        """
        if self.tls is None or self._context is None:
            return connect(self._reactor, self.address, self.timeout, stream)
        return TLSAttempt(
            self._reactor,
            self.address,
            self.timeout,
            stream,
            self._context,
            self.tls.name or None,
            self._session,
            self._keep_session,
        ).connected

    def _keep_session(self, session: ssl.SSLSession) -> None:
        self._session = session

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a Twisted protocol, as IStreamClientEndpoint. Fails as `connect_stream`, and with NoProtocol."""
        stream = ProtocolStream(protocolFactory)

        def failed(why: Failure) -> Failure:
            stream.stop()
            return why

        return self.connect_stream(stream).addCallbacks(lambda _: stream.begin(), failed)

    def __repr__(self) -> str:
        return f"<Connector to {self.address}{' by TLS' if self.tls is not None else ''}>"
