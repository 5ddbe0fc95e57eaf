"""Which of the configured things this version cannot do yet: a service that needs one of them is refused."""

from __future__ import annotations

from ktcpvs.errors import BadValue
from ktcpvs.model.service import VirtualService


def check_available(config: VirtualService) -> None:
    """Raise BadValue for a service that would not do what its configuration says."""
    for listener in config.listen:
        if listener.is_tls:
            raise BadValue(f"service {config.ident}: listen = {listener}: TLS is not available in this version")
