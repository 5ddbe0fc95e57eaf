"""What a server is told of the client before the switch: Forwarded (RFC 7239), X-Forwarded-*, Via (RFC 9110, 7.6.3).

For each field a service says: off, it passes as it came; append, the switch adds a field line of its own after the
client's; replace, what the client says of itself is thrown away first.
"""

from __future__ import annotations

from collections.abc import Mapping

OFF, APPEND, REPLACE = "off", "append", "replace"
MODES = (OFF, APPEND, REPLACE)

FIELDS = {
    "forwarded": b"Forwarded",
    "x_forwarded_for": b"X-Forwarded-For",
    "x_forwarded_proto": b"X-Forwarded-Proto",
    "x_forwarded_host": b"X-Forwarded-Host",
    "via": b"Via",
}
"""Option of a service -> field."""


class Forwarding:
    """The fields of one service. replaced: lower-case names of those of which the client's own are thrown away."""

    __slots__ = ("_added", "replaced")

    def __init__(self, modes: Mapping[str, str]) -> None:
        """modes: option -> mode; those that are missing are off."""
        self._added = [name for name in FIELDS if modes.get(name, OFF) != OFF]
        self.replaced = frozenset(FIELDS[name].lower() for name in FIELDS if modes.get(name) == REPLACE)

    def __bool__(self) -> bool:
        return bool(self._added)

    def lines(self, client: str, host: bytes, minor: bool) -> bytes:
        """The switch's own field lines. client: IP address, or "" where there is none. host: of the request, perhaps
        empty. minor: True for HTTP/1.1."""
        address = client.encode("ascii")
        values = {
            "forwarded": _forwarded(address, host),
            "x_forwarded_for": address,
            "x_forwarded_proto": b"http",
            "x_forwarded_host": host,
            "via": b"1.%d ktcpvs" % minor,
        }
        return b"".join(b"%b: %b\r\n" % (FIELDS[name], values[name]) for name in self._added if values[name])


def _forwarded(address: bytes, host: bytes) -> bytes:
    """One element of Forwarded; an IPv6 address and a host stand in quotes (RFC 7239, sections 4 and 6)."""
    node = b'"[%b]"' % address if b":" in address else address or b"unknown"
    element = b"for=%b;proto=http" % node
    return element + b';host="%b"' % host if host else element
