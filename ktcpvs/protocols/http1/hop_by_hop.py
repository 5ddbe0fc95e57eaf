"""Header fields that concern one connection only and end at this hop (RFC 9110, section 7.6.1)."""

from __future__ import annotations

import re

from ktcpvs.protocols.http1.field_names import canonical

FRAMING_FIELDS = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Fields that Connection must not name: a hop that dropped one would let the next hop read another message."""

OPTIONS_WITHOUT_FIELD = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))
"""Options of Connection that name no field, or one that ends here anyway."""

_remove_lines = re.compile(
    rb"(?i)\n(?:connection|proxy-connection|keep-alive|te|upgrade|http2-settings):[^\n]*+(?=\n)"
).sub


def connection_lines(has_trailers: bool, protocols: tuple[bytes, ...]) -> bytes:
    """The lines that say what the next hop may do: Connection and the fields that it names.

    has_trailers: the sender accepts trailer fields. protocols: those to which it wants to switch.
    """
    if not has_trailers and not protocols:
        return b""
    options = (b"TE",) * has_trailers + (b"Upgrade",) * bool(protocols)
    lines = b"Connection: %b\r\n" % b", ".join(options)
    if has_trailers:
        lines += b"TE: trailers\r\n"
    if protocols:
        lines += b"Upgrade: %b\r\n" % b", ".join(protocols)
    return lines


def without(lines: bytes, names: frozenset[bytes], replaced: frozenset[bytes] = frozenset()) -> bytes:
    """The header lines without hop-by-hop fields and without those of these lower-case `names`.

    replaced: canonical names of fields that are dropped too.
    """
    lines = _remove_lines(b"", b"\n" + lines)[1:]
    if names:  # not by an expression: a client could have a new one compiled for every request
        lines = b"".join([line for line in lines.splitlines(True) if line[: line.find(b":")].lower() not in names])
    return without_replaced(lines, replaced) if replaced else lines


def without_replaced(lines: bytes, replaced: frozenset[bytes]) -> bytes:
    """The header lines without those whose names a program could take for one of these canonical names."""
    return b"".join([line for line in lines.splitlines(True) if canonical(line[: line.find(b":")]) not in replaced])
