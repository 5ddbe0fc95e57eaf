"""Header fields that tell a server about the client: Forwarded (RFC 7239), X-Forwarded-*, Via (RFC 9110, 7.6.3),
Client-Cert (RFC 9440).

A service has a mode for each field. off: the field passes as it came. append: the switch adds a line of its own after
the client's. replace: the switch drops the client's lines first.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

OFF, APPEND, REPLACE = "off", "append", "replace"
MODES = (OFF, APPEND, REPLACE)

FIELDS = {
    "forwarded": b"Forwarded",
    "x_forwarded_for": b"X-Forwarded-For",
    "x_forwarded_proto": b"X-Forwarded-Proto",
    "x_forwarded_host": b"X-Forwarded-Host",
    "via": b"Via",
}
"""Option of a service -> name of the field."""

_OF_CLIENT = {"x_forwarded_for", "x_forwarded_proto"}
"""Those whose values are the same for all requests of a client."""

HTTP, HTTPS = b"http", b"https"
"""The schemes of requests: without and with TLS."""

CERTIFICATE_FIELDS = frozenset((b"client-cert", b"client-cert-chain"))
"""The canonical names of the fields of RFC 9440."""


def certificate_line(certificate: bytes) -> bytes:
    """Return the line Client-Cert for a client's certificate in DER (RFC 9440, section 2.2)."""
    return b"Client-Cert: :%b:\r\n" % b64encode(certificate)


class Forwarding:
    """The fields that one service adds to the requests of clients that speak one scheme.

    replaced: canonical names of the fields that are dropped from the client's. depends_on_request: the lines differ
    between requests of one client.
    """

    __slots__ = ("_added", "_appending", "_is_http2", "_replacing", "_scheme", "depends_on_request", "replaced")

    def __init__(
        self,
        modes: Mapping[str, str],
        scheme: bytes = HTTP,
        replaced: frozenset[bytes] = frozenset(),
        is_http2: bool = False,
    ) -> None:
        """modes: option -> mode; a missing one is off. scheme: HTTP or HTTPS. replaced: canonical names of further
        fields that are dropped from the client's. is_http2: the clients speak HTTP/2."""
        self._is_http2 = is_http2
        self._added = added = [name for name in FIELDS if modes.get(name, OFF) != OFF]
        self._appending = [name for name in added if modes[name] == APPEND]
        self._replacing = replacing = [name for name in added if modes[name] == REPLACE]
        self._scheme = scheme
        self.depends_on_request = not _OF_CLIENT.issuperset(added)
        self.replaced = replaced.union([FIELDS[name].lower() for name in replacing]) if replacing else replaced

    def __bool__(self) -> bool:
        return bool(self._added)

    def lines(self, client: str, host: bytes, minor: bool, proxy: str | None = None) -> bytes:
        """Return the switch's own field lines.

        client: IP address; "" for a client on a unix socket, or an unknown one. host: of the request; may be empty.
        minor: False for HTTP/1.0. proxy: the trusted proxy, whose own lines tell the client: a line that is appended
        tells the proxy, one that replaces them the client; None: the client has connected itself.
        """
        if proxy is not None and proxy != client:
            return self._lines(client, host, minor, self._replacing) + self._lines(proxy, host, minor, self._appending)
        return self._lines(client, host, minor, self._added)

    def _lines(self, client: str, host: bytes, minor: bool, names: Sequence[str]) -> bytes:
        address = client.encode("ascii")
        values = {
            "forwarded": _forwarded(address, self._scheme, host),
            "x_forwarded_for": address,
            "x_forwarded_proto": self._scheme,
            "x_forwarded_host": host,
            "via": b"2 ktcpvs" if self._is_http2 else b"1.%d ktcpvs" % minor,
        }
        return b"".join(b"%b: %b\r\n" % (FIELDS[name], values[name]) for name in names if values[name])


NO_FORWARDING = Forwarding({})
"""No fields are added."""


def _forwarded(address: bytes, scheme: bytes, host: bytes) -> bytes:
    """Return one element of Forwarded; an IPv6 address and a host are quoted (RFC 7239, sections 4 and 6)."""
    node = b'"[%b]"' % address if b":" in address else address or b"unknown"
    element = b"for=%b;proto=%b" % (node, scheme)
    return element + b';host="%b"' % host if host else element
