"""The values of a request that conditions of rules compare, from its raw bytes.

docs/configuration.md says which bytes each condition sees. Nothing here raises an error: what cannot be read has no
value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from urllib.parse import unquote_to_bytes

_HOST_LINE = re.compile(rb"(?i)\nhost:[ \t]*+([^\r\n]*+)")
"""Behind a line end, so that a search jumps from line to line."""

_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+://([^/?#]++)")
_PORT = re.compile(rb":[0-9]*+\Z")

Pairs = Iterator[tuple[bytes, bytes]]
"""Names with their values."""


def host_of(target: bytes, lines: bytes) -> bytes | None:
    """Return the host that a request asks for, in lower case, without its port and a final dot.

    target: as it came; the authority of an absolute one counts, else the field Host. None: there is neither, or there
    are several Host fields.
    """
    if target.startswith(b"/"):
        return _host_of_lines(lines)
    absolute = _AUTHORITY.match(target)
    return normalized_host(absolute[1]) if absolute is not None else _host_of_lines(lines)


def _host_of_lines(lines: bytes) -> bytes | None:
    found = _HOST_LINE.findall(b"\n" + lines)
    return normalized_host(found[0]) if len(found) == 1 else None


def normalized_host(text: bytes) -> bytes:
    """Return the value of Host, or an authority, as `host_of` returns it."""
    return _PORT.sub(b"", text.strip(b" \t")).lower().removesuffix(b".")


def port_of(target: bytes, lines: bytes) -> bytes:
    """Return the port beside the host that `host_of` returns, as digits; b"" where there is none."""
    absolute = None if target.startswith(b"/") else _AUTHORITY.match(target)
    found = [absolute[1]] if absolute is not None else _HOST_LINE.findall(b"\n" + lines)
    port = _PORT.search(found[0].strip(b" \t")) if len(found) == 1 else None
    return b"" if port is None else port[0][1:]


def normalized_path(path: bytes) -> bytes:
    """Return the path that servers make of `path`, which may have a query: decoded once, without repeated slashes, `.`
    and `..` (RFC 3986, section 5.2.4, after decoding). `..` at the root stays there."""
    path = path.partition(b"?")[0]
    if b"%" in path:
        path = unquote_to_bytes(path)
    if (b"//" not in path and b"/." not in path) or not path.startswith(b"/"):
        return path
    segments = path.split(b"/")
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    end = b"/" if kept and segments[-1] in (b"", b".", b"..") else b""
    return b"/%b%b" % (b"/".join(kept), end)


def headers(lines: bytes) -> Pairs:
    """Yield (name in lower case, value) of each header line."""
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b":")
            yield name.lower(), value.strip(b" \t")


def header_values(lines: bytes, names: Collection[bytes]) -> Pairs:
    """Yield (name in lower case, value) of each header line whose name is one of `names`, in lower case."""
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            name = name.lower()
            if name in names:
                yield name, value.strip(b" \t")


def cookies(lines: bytes) -> Pairs:
    """Yield (name, value) of each cookie, of all Cookie lines (RFC 6265, section 4.2.1). Quotes belong to the value; a
    cookie without `=` has the empty name."""
    for _, value in header_values(lines, (b"cookie",)):
        for pair in value.split(b";"):
            name, equals, text = pair.strip(b" \t").partition(b"=")
            if equals:
                yield name.rstrip(b" \t"), text.lstrip(b" \t")
            elif name:
                yield b"", name


def arguments(path: bytes) -> Pairs:
    """Yield (name, value) of each argument in the query of `path`, decoded as HTML forms are: `+` is a blank, and then
    `%` with two digits is a byte. An argument without `=` has the empty value."""
    query = path.partition(b"?")[2]
    for pair in query.split(b"&") if query else ():
        if pair:
            name, _, value = pair.partition(b"=")
            yield _decoded(name), _decoded(value)


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text
