"""Connector: makes connections to one server, both for traffic and for health checks."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Hashable
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.model.address import Address, Unix
from ktcpvs.model.options import OFF
from ktcpvs.streams import (
    bare_connect,
    compiled,  # noqa: F401 - replaces methods of bare sockets by compiled ones
)
from ktcpvs.streams.connect import Connecting, connect
from ktcpvs.streams.origin import Origin, proxy_header
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.protocol_stream import StreamOwner
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_connect import TLSAttempt, TLSFailed
from ktcpvs.system.tls_contexts import ClientTLS


@frozen
class ConnectionOptions:
    """Options of connections to a server. tls: None: without TLS. proxy: the version of the PROXY protocol that tells
    the server who the client is, v1 or v2; or OFF. http2: they speak HTTP/2; with TLS only if the server chooses it.
    keepalive: seconds of silence after which TCP probes the server; 0: never."""

    tls: ClientTLS | None = None
    proxy: str = OFF
    http2: bool = False
    keepalive: int = 0


PLAIN = ConnectionOptions()


class HTTP2Failed(ConnectError):
    """No HTTP/2 with a server; str() is the reason, such as `HTTP/2: the server accepts no streams`."""

    def __init__(self, reason: str) -> None:
        super().__init__(string=reason)  # type: ignore[no-untyped-call]
        self.reason = reason

    def __str__(self) -> str:
        return f"HTTP/2: {self.reason}"


OriginOf = Callable[[], Origin]
"""Returns the client for which a connection is made. Called once it is open, and only if the server is told."""


@implementer(IStreamClientEndpoint)
class Connector:
    """Makes connections to the server at `address`."""

    __slots__ = ("_is_direct", "_may_be_bare", "_reactor", "_session", "_timeout", "address", "options")

    def __init__(
        self, reactor: Any, address: Address, timeout: float | Callable[[], float], options: ConnectionOptions = PLAIN
    ) -> None:
        """timeout: seconds for each attempt to connect, and once more for a TLS handshake; a function is called for
        each connection, so that a setting may change."""
        self.address = address
        self.options = options
        self._session: ssl.SSLSession | None = None  # the last one that the server has given
        self._reactor = reactor
        self._timeout = timeout
        self._may_be_bare = options.tls is None and (isinstance(address, Unix) or not address.is_name)
        # Nothing but a connect is to be done.
        self._is_direct = self._may_be_bare and options.proxy == OFF and not options.keepalive

    @property
    def key(self) -> Hashable:
        """Connections of connectors with equal keys can replace each other; a pool reuses no others. Whatever else
        distinguishes connections to one address must become a part of it, as TLS is with all that it verifies."""
        return self.address if self.options == PLAIN else (self.address, self.options)

    @property
    def is_for_one_client(self) -> bool:
        """Whether a connection is told for which client it is made, so that no other client may use it."""
        return self.options.proxy != OFF

    @property
    def is_http2(self) -> bool:
        """Whether connections speak HTTP/2: without TLS all of them, with TLS those whose `tls.alpn` says so."""
        return self.options.http2

    @property
    def hint(self) -> str:
        """The text to add to the reason why a server has ended a connection without a response; "": nothing. A server
        that does not expect the PROXY protocol finds no request in its header."""
        proxy = self.options.proxy
        return "" if proxy == OFF else f"; does it expect the PROXY protocol (proxy {proxy})?"

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
        origin: OriginOf | None = None,
    ) -> Connecting:
        """As `connect_stream`, with one of two functions to call, in a later turn or when the attempt is cancelled.

        poller: watches the socket, which stays bare, unless the server's address is a name or the connection has TLS.
        """
        if poller is None or not self._may_be_bare:
            return self.connect_stream(stream, origin).addCallbacks(connected, failed)
        if self.options.proxy != OFF:
            connected = self._after_origin(connected, origin)
        if self.options.keepalive:
            connected = self._after_keepalive(connected)
        return bare_connect.connect(poller, self.address, self.timeout, stream, connected, failed)

    def connect_stream(self, stream: Stream, origin: OriginOf | None = None) -> Deferred[Stream]:
        """Connect `stream`; fires with it when it is open.

        origin: None: the switch itself is the client. Fails with ConnectError, of which TLSFailed is a kind,
        TimeoutError or DNSLookupError. Cancelling the Deferred stops the attempt.
        """
        tls = self.options.tls
        if tls is None:
            return self._connect(stream, origin)

        def connect_below(below: Stream) -> Deferred[Stream]:
            return self._connect(below, origin)

        attempt = TLSAttempt(self._reactor, connect_below, self.timeout, stream, tls, self._session, self._keep_session)
        return attempt.connected.addErrback(self._not_connected)

    def _connect(self, stream: Stream, origin: OriginOf | None) -> Deferred[Stream]:
        """Connect `stream` without TLS."""
        connecting = connect(self._reactor, self.address, self.timeout, stream)
        if self.options.keepalive:
            connecting.addCallback(self._keep_alive)
        return connecting if self.options.proxy == OFF else connecting.addCallback(self._tell_origin, origin)

    def _after_keepalive(self, connected: Callable[[Stream], object]) -> Callable[[Stream], object]:
        """Return a function that lets TCP probe the server, and then calls `connected`."""
        return lambda stream: connected(self._keep_alive(stream))

    def _keep_alive(self, stream: Stream) -> Stream:
        stream.keep_alive(self.options.keepalive)
        return stream

    def _after_origin(
        self, connected: Callable[[Stream], object], origin: OriginOf | None
    ) -> Callable[[Stream], object]:
        """Return a function that tells the server its client, and then calls `connected`."""
        return lambda stream: connected(self._tell_origin(stream, origin))

    def _tell_origin(self, stream: Stream, origin: OriginOf | None) -> Stream:
        stream.write(proxy_header(self.options.proxy, origin() if origin is not None else None, stream))
        return stream

    def _keep_session(self, session: ssl.SSLSession) -> None:
        self._session = session

    def _not_connected(self, why: Failure) -> Failure:
        """Add the hint, and begin the next connection without the session, which may have been the reason."""
        error = why.value
        if not isinstance(error, TLSFailed):
            return why
        self._session = None
        return why if error.is_untrusted or not self.hint else Failure(TLSFailed(error.reason + self.hint))

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a Twisted protocol, as IStreamClientEndpoint. Fails as `connect_stream`, and with NoProtocol."""
        owner = StreamOwner(protocolFactory)

        def failed(why: Failure) -> Failure:
            owner.stop()
            return why

        return self.connect_stream(Stream()).addCallbacks(owner.begin, failed)

    def __repr__(self) -> str:
        options = self.options
        proxy = f" with PROXY {options.proxy}" if options.proxy != OFF else ""
        tls, http2 = " by TLS" * (options.tls is not None), " with HTTP/2" * options.http2
        return f"<Connector to {self.address}{tls}{http2}{proxy}>"
