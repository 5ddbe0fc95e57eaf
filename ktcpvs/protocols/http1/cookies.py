"""One cookie, taken out of the header lines of a request."""

from __future__ import annotations

import contextlib
import functools
import re
from typing import TYPE_CHECKING

_LINE = b"Cookie: "
_replace_cookie_lines = re.compile(rb"(?i)\ncookie:[^\n]*+").sub


def take_cookie(lines: bytes, name: bytes) -> tuple[list[bytes], bytes]:
    """Return the values of all cookies with this name, in their order, and the header lines without these.

    lines: whole header lines. name: a token that needs no escape in an expression. A Cookie line in which nothing is
    left goes too. (RFC 6265, section 5.4, is what a browser sends: one line, the pairs separated by "; ".)
    """
    found = take_single_cookie(lines, name)
    if found is None:
        return take_cookies(lines, name)
    value, left = found
    return [] if value is None else [value], left


def take_single_cookie(lines: bytes, name: bytes) -> tuple[bytes | None, bytes] | None:
    """The same when the name is nowhere, or stands once, in a Cookie line as browsers write it: its value, None
    without one, and the other lines. None: it may be otherwise."""
    at = lines.find(name)
    if at < 0:
        return None, lines
    begin = lines.rfind(b"\n", 0, at) + 1
    start = begin + len(_LINE)
    equals = at + len(name)
    end = lines.find(b"\r\n", at)
    if lines[begin:start] != _LINE or lines[equals : equals + 1] != b"=" or lines.find(name, equals) >= 0 or end < 0:
        return None
    before = lines[start:at].rstrip(b" \t")
    if before and not before.endswith(b";"):
        return None
    semicolon = lines.find(b";", equals, end)
    if semicolon < 0:
        semicolon = end
    left = (before[:-1] + lines[semicolon:end]).strip(b"; \t")
    value = lines[equals + 1 : semicolon].rstrip(b" \t") if semicolon == end else lines[equals + 1 : semicolon]
    return value, b"%b%b%b" % (lines[:start], left, lines[end:]) if left else lines[:begin] + lines[end + 2 :]


if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.protocols._compiled import take_single_cookie as take_single_cookie


@functools.cache
def _pair(name: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Expressions for a pair with this name and for all that goes with it."""
    return re.compile(rb"(?:^|;)[ \t]*+%b=([^;]*+)" % name), re.compile(rb"(?:^|;)[ \t]*+%b=[^;]*+" % name)


def take_cookies(lines: bytes, name: bytes) -> tuple[list[bytes], bytes]:
    """As `take_cookie`, for lines of any form, in three times the time."""
    pair, whole_pair = _pair(name)
    values: list[bytes] = []

    def cleaned(line: re.Match[bytes]) -> bytes:
        text = line[0][8:].strip(b" \t\r")
        found = pair.findall(text)
        if not found:
            return line[0]
        values.extend(found)
        left = whole_pair.sub(b"", text).strip(b"; \t")
        return line[0][:8] + b" " + left + b"\r" if left else b""

    without = _replace_cookie_lines(cleaned, b"\n" + lines)
    return (values, without[1:]) if values else (values, lines)
