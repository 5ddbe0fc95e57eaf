"""The address of a client behind proxies, from X-Forwarded-For or from Forwarded (RFC 7239).

Each proxy adds the address from which it has got the request at the right end. So only what stands right of the first
address that is no trusted proxy comes from trusted proxies: whatever a client writes itself stands left of that.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence

from ktcpvs.model.request_values import header_values
from ktcpvs.protocols.http1.errors import BadRequest
from ktcpvs.protocols.http1.grammar import QUOTED_STRING, TOKEN

X_FORWARDED_FOR, FORWARDED = HEADERS = ("x_forwarded_for", "forwarded")
"""The names of the fields that can be read, as those of options of a service."""

UNKNOWN = ""
"""The address of a client that a proxy does not tell: it is in no network."""

_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?|([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)")
_PAIR = re.compile(rb"[ \t]*+(?:(%b)=(%b|%b)[ \t]*+)?(;|,|\Z)" % (TOKEN, TOKEN, QUOTED_STRING))
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def forwarded_client(peer: str, lines: bytes, header: str, is_trusted: Callable[[str], bool]) -> str:
    """Return the address of the client that a trusted proxy has passed a request on for; UNKNOWN: it tells none.

    peer: the proxy's own address, which is the client's where the field is missing. lines: the request's header lines.
    header: one of HEADERS. is_trusted: whether an address is that of a trusted proxy. Raises BadRequest for a Forwarded
    that can be read in more than one way.
    """
    client = peer
    for node in reversed(_forwarded_nodes(lines) if header == FORWARDED else _x_forwarded_for_nodes(lines)):
        address = read_node(node)
        if address is None:
            return UNKNOWN
        client = address
        if not is_trusted(address):
            break
    return client


def read_node(node: bytes) -> str | None:
    """Return the IP address of a node, which may have a port; None for any other name of one (RFC 7239, section 6)."""
    found = _NODE.fullmatch(node.decode("latin-1"))
    if found is None:
        return None
    try:
        address = ipaddress.ip_address(found[1] or found[2] or found[3])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(address if mapped is None else mapped)


def _x_forwarded_for_nodes(lines: bytes) -> Sequence[bytes]:
    values = [value for _, value in header_values(lines, (b"x-forwarded-for",))]
    return [node for value in values for element in value.split(b",") if (node := element.strip(b" \t"))]


def _forwarded_nodes(lines: bytes) -> Sequence[bytes]:
    return [node for _, value in header_values(lines, (b"forwarded",)) for node in _elements(value)]


def _elements(value: bytes) -> Iterator[bytes]:
    """Yield the parameter `for` of each element of a Forwarded; b"" where there is none. Raises BadRequest."""
    position, node, is_empty = 0, b"", True
    while True:
        found = _PAIR.match(value, position)
        if found is None:
            raise BadRequest(400, "malformed Forwarded")
        name, text, end = found.groups()
        if name is not None:
            is_empty = False
            if name.lower() == b"for":
                if node:
                    raise BadRequest(400, "malformed Forwarded: an element has two addresses")
                node = _ESCAPED.sub(rb"\1", text[1:-1]) if text.startswith(b'"') else text
        if end != b";":
            if not is_empty:
                yield node
            node, is_empty = b"", True
        if not end:
            return
        position = found.end()
