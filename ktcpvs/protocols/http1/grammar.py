"""The grammar of HTTP/1 messages (RFC 9110 and RFC 9112), as parts of regular expressions.

Every expression that recognises a part of a message is built from these, so that two readers of the same bytes cannot
disagree. Quantifiers are possessive: an expression never backtracks, whatever a client sends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TOKEN_CHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TOKEN = TOKEN_CHAR + rb"++"

TEXT_CHAR = rb"[\t -~\x80-\xff]"
"""A character of a field's value, of a reason phrase, or of a chunk's extensions: no control character but the tab."""

FIELD_VALUE = TEXT_CHAR + rb"*+"
FIELD_LINE = rb"%b:%b\r\n" % (TOKEN, FIELD_VALUE)
FIELD_LINES = rb"(?:%b)*+" % FIELD_LINE

QUOTED_STRING = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\%b)*+\"" % TEXT_CHAR

MAX_METHOD_BYTES = 64
METHOD = rb"%b{1,%d}+" % (TOKEN_CHAR, MAX_METHOD_BYTES)

TARGET = rb"[!\"$-~\x80-\xff]++"
"""No fragment. Bytes from 0x80 on are accepted: clients send them, and every reader sees the same bytes."""

SCHEME = rb"[A-Za-z][A-Za-z0-9+.\-]*+"

REQUEST_HEAD = re.compile(rb"((%b) (%b) HTTP/1\.([0-9])\r\n)(%b)\r\n" % (METHOD, TARGET, FIELD_LINES))
"""A complete head. Groups: request line, method, target, minor version, header lines."""

RESPONSE_HEAD = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: %b)?\r\n(%b)\r\n" % (FIELD_VALUE, FIELD_LINES))
"""A complete head. Groups: minor version, status, header lines."""

ABSOLUTE_FORM = re.compile(rb"%b://([^/?#]++)([^#]*+)" % SCHEME)
"""RFC 9112, section 3.2.2. Groups: authority, path and query."""

AUTHORITY_FORM = re.compile(rb"(?:\[[0-9A-Fa-f:.]++\]|[^/?#@:\[\]]++):[0-9]{1,5}")
"""RFC 9112, section 3.2.3: the target of CONNECT."""

# RFC 9110, section 7.2: a host and perhaps a port, or nothing. The comma is left out, which would make a list of it. No
# label of a name is empty, but a dot may end the name. An IPv6 address may have a zone (RFC 6874).
_LABEL = rb"(?:[A-Za-z0-9\-_~!$&'()*+;=]|%[0-9A-Fa-f]{2})++"
_IPV6 = rb"\[[0-9A-Fa-f:.]++(?:%25(?:[A-Za-z0-9\-._~]|%[0-9A-Fa-f]{2})++)?\]"
HOST = re.compile(b"(?:(?:" + _LABEL + rb"(?:\." + _LABEL + rb")*+\.?|" + _IPV6 + rb")(?::[0-9]{0,5})?)?")


def beginning_of(parts: Sequence[bytes]) -> bytes:
    """An expression for a message whose beginning has come: one or more of `parts`, which follow one another."""
    first, *rest = parts
    return first + (rb"(?:%b)?" % beginning_of(rest) if rest else b"")


def field_lines_named(names: Sequence[str]) -> re.Pattern[bytes]:
    """Finds the header lines with one of these names, which may be expressions. Groups: name, value.

    It finds only lines behind a line end, so put one in front of the first. That lets a search jump from line to line,
    where `^` would make it stop at each character. Blanks in front of a value are skipped, those behind it are not.
    """
    return re.compile(rb"(?i)\n(%b):[ \t]*+([^\r]*)" % "|".join(names).encode())


def split_list(values: Sequence[bytes]) -> list[bytes]:
    """The elements of a field whose value is a list, given the values of all its lines; empty elements are dropped."""
    elements = [element.strip(b" \t") for value in values for element in value.split(b",")]
    return [element for element in elements if element]
