"""The descriptions of endpoints that Twisted reads: `vs:web:config=/etc/ktcpvs.conf`."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint, IStreamClientEndpointStringParserWithReactor
from zope.interface import implementer

from ktcpvs.errors import BadValue


@implementer(IStreamClientEndpointStringParserWithReactor)
class ServiceParser:
    """Parses `vs:SERVICE:config=FILE`, for `clientFromString`."""

    prefix = "vs"

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamClientEndpoint:
        """Return the endpoint of a service. Raises BadValue for a description that is wrong, or what
        `ktcpvs.endpoint` raises."""
        names, unknown = list(args), sorted(set(kwargs) - {"config"})
        if len(names) != 1 or "config" not in kwargs or unknown:
            said = ":".join(["vs", *names, *(f"{key}={value}" for key, value in kwargs.items())])
            raise BadValue(f"{said}: expected vs:SERVICE:config=FILE (example: vs:web:config=/etc/ktcpvs.conf)")
        from ktcpvs.in_process.shared import endpoint  # only where one is used: Twisted imports all plugins

        return endpoint(reactor, names[0], config=kwargs["config"])
