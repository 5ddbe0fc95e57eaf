"""The attributes of spans about HTTP, by the stable semantic conventions of OpenTelemetry."""

from __future__ import annotations

import re

from ktcpvs.model.request_values import header_values
from ktcpvs.model.spans import Value

Attributes = dict[str, Value]

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY"))
"""The methods that the conventions name; others are `_OTHER`, so that a client cannot make new names of spans."""

OTHER = "_OTHER"

REDACTED = "REDACTED"
"""In place of a value of the query that grants access."""

MAX_TEXT = 2048
"""The most characters of a path, a query or a header field in a span."""

_SECRET_ARGUMENT = re.compile(r"(?<![^&])(AWSAccessKeyId|Signature|sig|X-Goog-Signature)=[^&]*")
"""Those that the conventions name."""

_VERSIONS = {0: "1.0", 1: "1.1", 2: "2"}


def span_name(method: bytes) -> str:
    """Return the name of a span: the method, since no route is known."""
    return method.decode("ascii") if method in METHODS else "HTTP"


def _text(value: bytes) -> str:
    return value[:MAX_TEXT].decode("utf-8", "replace").replace("\x00", "\ufffd")


def of_method(method: bytes) -> Attributes:
    """Return the attributes of a method."""
    if method in METHODS:
        return {"http.request.method": method.decode("ascii")}
    return {"http.request.method": OTHER, "http.request.method_original": _text(method)}


def of_request(method: bytes, target: bytes, minor: int, lines: bytes, scheme: str) -> Attributes:
    """Return the attributes of a request that has come. minor: of HTTP/1; 2: it came by HTTP/2. lines: its header
    lines. scheme: http or https."""
    path, mark, query = path_of(target).partition(b"?")
    found = of_method(method)
    found["url.scheme"] = scheme
    found["url.path"] = _text(path)
    if mark and query:
        found["url.query"] = _SECRET_ARGUMENT.sub(rf"\1={REDACTED}", _text(query))
    found["network.protocol.version"] = _VERSIONS.get(minor, "1.1")
    for name, value in header_values(lines, (b"host", b"user-agent")):
        if name == b"host" and value:
            host, port = split_authority(_text(value))
            found["server.address"] = host
            if port is not None:
                found["server.port"] = port
        elif value:
            found["user_agent.original"] = _text(value)
    return found


def path_of(target: bytes) -> bytes:
    """Return the path and query of a target, which may be a whole URL."""
    if target.startswith(b"/") or b"://" not in target:
        return target
    rest = target.partition(b"://")[2]
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b"/"


def split_authority(text: str) -> tuple[str, int | None]:
    """Return host and port of an authority or an address; without a port None. The host has no brackets."""
    host, colon, port = text.rpartition(":")
    if colon and port.isdigit() and len(port) <= 5 and not (":" in host and not host.endswith("]")):
        return host.strip("[]"), int(port)
    return text.strip("[]"), None


def of_peer(address: str) -> Attributes:
    """Return the attributes of the other end of a connection. address: with its port; "" or a path: a unix socket."""
    if not address:
        return {"network.transport": "unix"}
    if address.startswith(("/", "unix:")):
        return {"network.transport": "unix", "network.peer.address": address.removeprefix("unix:")}
    host, port = split_authority(address)
    return {"network.peer.address": host} | ({"network.peer.port": port} if port is not None else {})


def url_of(server: str, scheme: str, target: bytes) -> str:
    """Return the URL that a server is asked for (`url.full`). server: its address."""
    path, mark, query = path_of(target).partition(b"?")
    shown = _SECRET_ARGUMENT.sub(rf"\1={REDACTED}", _text(query))
    host = "localhost" if server.startswith(("/", "unix:")) else server
    return f"{scheme}://{host}{_text(path)}{mark.decode()}{shown}"
