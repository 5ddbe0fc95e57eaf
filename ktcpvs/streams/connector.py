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
    """Makes connections to the server at `address`."""

    def __init__(self, reactor: Any, address: Address, timeout: float | Callable[[], float]) -> None:
        """timeout: seconds for each attempt to connect; a function is called for each connection, so that a setting may
        change."""
        self.address = address
        self._reactor = reactor
        self._timeout = timeout

    @property
    def key(self) -> Hashable:
        """Connections of connectors with equal keys can replace each other; a pool reuses no others. Whatever else
        distinguishes connections to one address, such as TLS and the name to verify, must become a part of it."""
        return self.address

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
