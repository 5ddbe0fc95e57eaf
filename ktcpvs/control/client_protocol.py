"""The client's end of a control connection in Twisted: its AMP protocol, and the endpoints that connect it."""

from __future__ import annotations

from typing import Any

from twisted.internet import endpoints
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.protocols import amp
from twisted.python.failure import Failure

from ktcpvs.control.endpoints import ControlAddress, is_ip


class QuietAMP(amp.AMP):
    """AMP that does not log each connection that is made or lost."""

    def makeConnection(self, transport: Any) -> None:
        amp.BinaryBoxProtocol.makeConnection(self, transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        amp.BinaryBoxProtocol.connectionLost(self, reason)


def client_endpoint(address: ControlAddress, reactor: Any, timeout: float) -> IStreamClientEndpoint:
    """Return the endpoint that connects to this address, without TLS. timeout: seconds."""
    if address.path is not None:
        return endpoints.UNIXClientEndpoint(reactor, address.path, timeout=timeout)
    if not is_ip(address.host):
        return endpoints.HostnameEndpoint(reactor, address.host, address.port, timeout=timeout)
    kind = endpoints.TCP6ClientEndpoint if ":" in address.host else endpoints.TCP4ClientEndpoint
    return kind(reactor, address.host, address.port, timeout=timeout)
