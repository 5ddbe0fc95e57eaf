"""Names that this machine knows."""

from __future__ import annotations

import socket


def service_port(name: str) -> int | None:
    """The number of a TCP port's name by the services database; None when there is no such name."""
    try:
        return socket.getservbyname(name, "tcp")
    except (OSError, UnicodeError, ValueError):
        return None
