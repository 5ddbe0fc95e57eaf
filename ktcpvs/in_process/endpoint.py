"""A service as a client endpoint of Twisted."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

PREFIX = "vs:"
"""The beginning of a description; the name of the service follows."""


@implementer(IStreamClientEndpoint)
@frozen
class ServiceEndpoint:
    """Connects to a server of a service. ident: of the service."""

    ident: str
    _connect: Callable[[str, IProtocolFactory], Deferred[IProtocol]]

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol to the server that the service's scheduler chooses, and to another one if that fails.

        Fails with NotConnected, and with what the factory raises. Cancelling the Deferred stops the attempt.
        """
        return self._connect(self.ident, protocolFactory)

    def __repr__(self) -> str:
        return f"<ServiceEndpoint {PREFIX}{self.ident}>"
