"""Services as hosts of URLs, for Agent of Twisted and for treq."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

HTTP_PORT = 80


@implementer(IAgentEndpointFactory)
@frozen
class ServiceHosts:
    """The endpoint of http://web/ is that of the service web. make: returns the endpoint of a service by its name; one
    whose connections fail if there is none."""

    _make: Callable[[str], IStreamClientEndpoint]

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return the endpoint of the service that a URL names. Raises SchemeNotSupported for all but http://NAME/."""
        name = uri.host.decode("ascii", "backslashreplace")
        if uri.scheme != b"http" or uri.port != HTTP_PORT:
            shown = f"{uri.scheme.decode('ascii', 'backslashreplace')}://{name}:{uri.port}"
            raise SchemeNotSupported(
                f"{shown}: expected http://{name}/: the configuration says which ports the servers have, and which of "
                "them speak TLS"
            )
        return self._make(name)
