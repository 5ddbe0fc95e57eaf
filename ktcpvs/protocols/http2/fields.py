"""Fields of HTTP/2 as they are received: their grammar, and what a switch must know of each (RFC 9113, section 8.2).

A field is checked once, when it enters the dynamic table or comes as a literal; an index into a table finds the checked
one. Names and values are as strict as `protocols/http1/grammar.py`, since they may go on as lines of HTTP/1.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ktcpvs.protocols.http1.grammar import FIELD_VALUE, HOST, MAX_METHOD_BYTES, SCHEME, TARGET, TOKEN
from ktcpvs.protocols.http2.hpack_table import ENTRY_OVERHEAD, STATIC_TABLE

# Kinds of fields.
(
    ORDINARY, MALFORMED, METHOD, SCHEME_NAME, AUTHORITY, PATH, PROTOCOL, STATUS, HOST_FIELD, COOKIE, CONTENT_LENGTH, TE,
    DROPPED, EXPECT,
) = range(14)  # fmt: skip


class Field(NamedTuple):
    """One received field.

    size: bytes, with the 32 that each field counts for. kind: one of those above. line: the field as a line of HTTP/1;
    of a malformed field, why it is malformed.
    """

    name: bytes
    value: bytes
    size: int
    kind: int
    line: bytes


_KINDS = {
    b":method": METHOD,
    b":scheme": SCHEME_NAME,
    b":authority": AUTHORITY,
    b":path": PATH,
    b":protocol": PROTOCOL,
    b":status": STATUS,
    b"host": HOST_FIELD,
    b"cookie": COOKIE,
    b"content-length": CONTENT_LENGTH,
    b"te": TE,
    b"http2-settings": DROPPED,
    b"expect": EXPECT,
}

_CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
"""Fields that a message must not have (RFC 9113, section 8.2.2)."""

_match_name = re.compile(TOKEN).fullmatch
_has_upper_case = re.compile(rb"[A-Z]").search
_match_value = re.compile(FIELD_VALUE).fullmatch
# Programs take such names for those of the real fields, as `protocols/http1/request.py` says.
_is_lookalike = re.compile(rb"content[^a-z0-9]length|transfer[^a-z0-9]encoding").fullmatch
_match_number = re.compile(rb"0|[1-9][0-9]{0,17}").fullmatch
_match_status = re.compile(rb"[1-9][0-9]{2}").fullmatch
_match_token = re.compile(TOKEN).fullmatch
_match_method = re.compile(rb"%b" % TOKEN).fullmatch
_match_scheme = re.compile(SCHEME).fullmatch
_match_host = HOST.fullmatch
_match_path = re.compile(rb"/(?:%b)?|\*" % TARGET).fullmatch


def make_field(name: bytes, value: bytes) -> Field:
    """Check one field. A malformed one is returned as such, since the field block that it is in must be read on."""
    size = len(name) + len(value) + ENTRY_OVERHEAD
    kind = _KINDS.get(name, ORDINARY)
    why = _why_malformed(kind, name, value)
    if why:
        return Field(name, value, size, MALFORMED, why)
    return Field(name, value, size, kind, b"%b: %b\r\n" % (name, value))


def _why_malformed(kind: int, name: bytes, value: bytes) -> bytes:
    """Return why a field is malformed; b"" for a good one."""
    if _match_value(value) is None:
        return b"the value of a field contains a control character"
    if value and (value[0] in b" \t" or value[-1] in b" \t"):
        return b"the value of a field begins or ends with a blank"
    if kind == ORDINARY:
        return _why_name_malformed(name)
    return _why_special_malformed(kind, value)


def _why_name_malformed(name: bytes) -> bytes:
    if name[:1] == b":":
        return b"unknown pseudo-header field"
    if _match_name(name) is None:
        return b"the name of a field is not a token"
    if _has_upper_case(name) is not None:
        return b"the name of a field contains an upper-case letter"
    if name in _CONNECTION_SPECIFIC:
        return name + b" is not allowed in HTTP/2"
    if _is_lookalike(name) is not None:
        return b"a field has a name that programs take for Content-Length or Transfer-Encoding"
    return b""


def _why_special_malformed(kind: int, value: bytes) -> bytes:
    if kind == METHOD:
        return b"" if _match_method(value) and len(value) <= MAX_METHOD_BYTES else b"malformed :method"
    if kind == PATH:
        return b"" if _match_path(value) else b"malformed :path"
    if kind == AUTHORITY:
        return b"" if _match_host(value) else b"malformed :authority"
    if kind == SCHEME_NAME:
        return b"" if _match_scheme(value) else b"malformed :scheme"
    return _why_rarely_malformed(kind, value)


def _why_rarely_malformed(kind: int, value: bytes) -> bytes:
    if kind == STATUS:
        return b"" if _match_status(value) else b":status is not a number of three digits"
    if kind == PROTOCOL:
        return b"" if _match_token(value) else b"malformed :protocol"
    if kind == HOST_FIELD:
        return b"" if value and _match_host(value) else b"malformed Host"
    if kind == CONTENT_LENGTH:
        return b"" if _match_number(value) else b"Content-Length is not a number of at most 18 digits"
    if kind == TE and value.lower() != b"trailers":
        return b"TE may only be `trailers` in HTTP/2"
    return b""


STATIC_FIELDS: tuple[Field, ...] = (
    Field(b"", b"", 0, MALFORMED, b""),  # there is no index 0
    *(make_field(name, value) for name, value in STATIC_TABLE),
)
"""The static table, by index."""
