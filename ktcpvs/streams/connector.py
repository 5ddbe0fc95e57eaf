"""Connector: makes connections to one server, both for traffic and for health checks."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.model.address import Address
from ktcpvs.streams.connect import connect
from ktcpvs.streams.protocol_stream import ProtocolStream
from ktcpvs.streams.stream import Stream


@implementer(IStreamClientEndpoint)
class Connector:
    """Makes connections to the server at `address`.

    tls, verify_name, proxy_header, protocol: room for TLS, the name that the server's certificate must have, the
    version of the PROXY header, and the application protocol. All are None: none of them is built yet.
    """

    tls: Hashable = None
    verify_name: str | None = None
    proxy_header: int | None = None
    protocol: str | None = None

    def __init__(self, reactor: Any, address: Address, timeout: float | Callable[[], float]) -> None:
        """timeout: seconds for each attempt to connect; a function is called for each connection, so that a setting may
        change."""
        self.address = address
        self._reactor = reactor
        self._timeout = timeout

    @property
    def key(self) -> Hashable:
        """Two connections whose connectors have equal keys can replace each other: a pool keeps them under it."""
        return self.address, self.tls, self.verify_name, self.proxy_header, self.protocol

    @property
    def timeout(self) -> float:
        """The current number of seconds for each attempt to connect."""
        return self._timeout() if callable(self._timeout) else self._timeout

    def connect_stream(self, stream: Stream) -> Deferred[Stream]:
        """Connect `stream`; fires with it when it is open.

        Fails with ConnectError, TimeoutError or DNSLookupError. Cancelling the Deferred stops the attempt.
        """
        return connect(self._reactor, self.address, self.timeout, stream)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a Twisted protocol, as IStreamClientEndpoint. Fails as `connect_stream`, and with NoProtocol."""
        stream = ProtocolStream(protocolFactory)

        def failed(why: Failure) -> Failure:
            stream.stop()
            return why

        return self.connect_stream(stream).addCallbacks(lambda _: stream.begin(), failed)

    def __repr__(self) -> str:
        return f"<Connector to {self.address}>"
