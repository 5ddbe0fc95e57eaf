"""Which of the configured things this version cannot do yet: a service that needs one of them is refused."""

from __future__ import annotations

from ktcpvs.errors import BadValue
from ktcpvs.model.options import OFF
from ktcpvs.model.service import VirtualService


def check_available(config: VirtualService) -> None:
    """Raise BadValue for a service that would not do what its configuration says."""
    for server in config.servers:
        for is_wanted, what in ((server.tls is not None, "TLS"), (server.proxy != OFF, "the PROXY protocol")):
            if is_wanted:
                raise BadValue(
                    f"service {config.ident}: server = {server.address}: {what} is not available in this version"
                )
