"""Names of ports in the services database."""

from __future__ import annotations

import socket


def service_port(name: str) -> int | None:
    """Return the number of a TCP port by its name, or None."""
    try:
        return socket.getservbyname(name, "tcp")
    except (OSError, UnicodeError, ValueError):
        return None
