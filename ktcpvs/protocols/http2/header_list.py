"""Header lists that are sent, and how they follow from heads and trailers of HTTP/1."""

from __future__ import annotations

import re

from ktcpvs.protocols.http1.grammar import FIELD_VALUE, TOKEN
from ktcpvs.protocols.http2.errors import MalformedMessage

_REQUEST_LINE = re.compile(rb"([^ \r\n]++) ([^ \r\n]++) HTTP/1\.[0-9]\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: %b)?\r\n" % FIELD_VALUE)
_find_lines = re.compile(rb"(%b):[ \t]*+([^\r\n]*+)\r\n" % TOKEN).findall

_ENDS_HERE = frozenset(
    (
        b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings",
        b"te", b"host",
    )
)  # fmt: skip
"""Fields that HTTP/2 forbids, or has in another form."""

ALWAYS_SENSITIVE = frozenset((b"authorization", b"proxy-authorization"))
"""Fields that never enter a table, where the sizes of later blocks would tell about them (RFC 7541, section 7.1)."""


class HeaderList:
    """A header section to send.

    pairs: (name, value), pseudo-header fields first, names in lower case. sensitive: names that never enter a table.

    The encoder remembers the block of a list by the object, so send the same object for the same list.
    """

    __slots__ = ("pairs", "sensitive")

    def __init__(self, pairs: tuple[tuple[bytes, bytes], ...], sensitive: frozenset[bytes] = ALWAYS_SENSITIVE) -> None:
        self.pairs = pairs
        self.sensitive = sensitive

    def __repr__(self) -> str:
        return f"<HeaderList {list(self.pairs)}>"


def _pairs_of(lines: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of lines of HTTP/1, without those that end here and those that Connection names."""
    found = [(name.lower(), value.rstrip(b" \t")) for name, value in _find_lines(lines)]
    named = {
        option.strip(b" \t").lower() for name, value in found if name == b"connection" for option in value.split(b",")
    }
    return [pair for pair in found if pair[0] not in _ENDS_HERE and pair[0] not in named]


def response_list(head: bytes) -> HeaderList:
    """Return the header list of a response. head: in HTTP/1, with or without its empty line."""
    found = _STATUS_LINE.match(head)
    if found is None:
        raise MalformedMessage("this is not the head of an HTTP/1 response")
    return HeaderList(((b":status", found[1]), *_pairs_of(head[found.end() :])))


def websocket_accepted_list(head: bytes) -> HeaderList:
    """Return the header list that accepts an extended CONNECT. head: of the response in HTTP/1.1 with status 101."""
    plain = response_list(head).pairs[1:]
    return HeaderList(((b":status", b"200"), *[pair for pair in plain if pair[0] != b"sec-websocket-accept"]))


def request_list(head: bytes, scheme: bytes, sensitive: frozenset[bytes] = frozenset()) -> HeaderList:
    """Return the header list of a request. Raises MalformedMessage.

    head: in HTTP/1, its target in origin-form or `*`, with Host. scheme: http or https. sensitive: names of fields that
    came as such.
    """
    found = _REQUEST_LINE.match(head)
    if found is None:
        raise MalformedMessage("this is not the head of an HTTP/1 request")
    method, target = found.groups()
    lines = head[found.end() :]
    hosts = [value.rstrip(b" \t") for name, value in _find_lines(lines) if name.lower() == b"host"]
    pairs = [
        (b":method", method),
        (b":scheme", scheme),
        (b":authority", hosts[0] if hosts else b""),
        (b":path", target),
        *_pairs_of(lines),
    ]
    if re.search(rb"(?im)^te:[^\r\n]*\btrailers\b", lines):
        pairs.append((b"te", b"trailers"))
    return HeaderList(tuple(pairs), ALWAYS_SENSITIVE | sensitive)


def websocket_list(head: bytes, scheme: bytes) -> HeaderList:
    """Return the header list of an extended CONNECT for a WebSocket request in HTTP/1.1 (RFC 8441, section 5)."""
    plain = request_list(head, scheme)
    of_upgrade = (b"sec-websocket-key", b"sec-websocket-accept")
    pairs = [pair for pair in plain.pairs[1:] if pair[0] not in of_upgrade]
    return HeaderList(((b":method", b"CONNECT"), (b":protocol", b"websocket"), *pairs), plain.sensitive)


def trailer_list(lines: bytes) -> HeaderList:
    """Return the header list of trailer fields, given as lines of HTTP/1."""
    return HeaderList(tuple(_pairs_of(lines)))
