"""Requests of HTTP/2: their header sections, and what they are as heads of HTTP/1.1 (RFC 9113, sections 8.2 and 8.3).

The head in HTTP/1.1 is what the exchange handles and `protocols/http1/request.py` checks again. It has one reading: no
field of HTTP/2 that HTTP/1 would read differently gets this far.
"""

from __future__ import annotations

from collections.abc import Sequence

from ktcpvs.protocols.http1.errors import BadRequest
from ktcpvs.protocols.http2.errors import MalformedMessage
from ktcpvs.protocols.http2.fields import (
    AUTHORITY,
    CONTENT_LENGTH,
    COOKIE,
    DROPPED,
    EXPECT,
    HOST_FIELD,
    MALFORMED,
    METHOD,
    ORDINARY,
    PATH,
    PROTOCOL,
    SCHEME_NAME,
    TE,
    Field,
)

WITH_LENGTH = frozenset((b"POST", b"PUT", b"PATCH"))
"""Methods whose requests say that they have no body (RFC 9110, section 8.6)."""

_SCHEMES = frozenset((b"http", b"https"))
_SPECIAL = frozenset((HOST_FIELD, COOKIE, CONTENT_LENGTH, TE, DROPPED, EXPECT))


class SortedFields:
    """The fields of a message, sorted: pseudo-header fields by kind, and what is special.

    lines: the ordinary fields, as lines of HTTP/1. cookies: the values of Cookie. length: of the body in bytes, as
    Content-Length says; None without it. has_trailers: `TE: trailers` is there. expects_continue: so is `Expect`.
    """

    __slots__ = ("cookies", "expects_continue", "has_trailers", "host", "length", "lines", "pseudo")

    def __init__(self, fields: Sequence[Field], allowed: frozenset[int]) -> None:
        """allowed: the pseudo-header fields of this kind of message. Raises MalformedMessage."""
        self.pseudo: dict[int, bytes] = {}
        self.lines: list[bytes] = []
        self.cookies: list[bytes] = []
        self.host: bytes | None = None
        self.length: int | None = None
        self.has_trailers = self.expects_continue = False
        has_regular = False
        for name, value, _, kind, line in fields:
            if kind == ORDINARY:
                has_regular = True
                self.lines.append(line)
            elif kind in allowed:
                if has_regular or kind in self.pseudo:
                    raise MalformedMessage(f"{name.decode()} is repeated, or follows a regular field")
                self.pseudo[kind] = value
            elif kind in _SPECIAL:
                has_regular = True
                self._special(kind, value, line)
            elif kind == MALFORMED:
                raise MalformedMessage(line.decode("ascii", "backslashreplace"))
            else:
                raise MalformedMessage(f"{name.decode()} is not allowed here")

    def _special(self, kind: int, value: bytes, line: bytes) -> None:
        if kind == COOKIE:
            self.cookies.append(value)
        elif kind == CONTENT_LENGTH:
            if self.length is not None:
                raise MalformedMessage("Content-Length is repeated")
            self.length = int(value)
            self.lines.append(line)
        elif kind == HOST_FIELD:
            if self.host is not None:
                raise MalformedMessage("Host is repeated")
            self.host = value
        elif kind == TE:
            self.has_trailers = True
        elif kind == EXPECT:
            self.expects_continue = value.lower() == b"100-continue"
            self.lines.append(line)


_OF_REQUEST = frozenset((METHOD, SCHEME_NAME, AUTHORITY, PATH, PROTOCOL))


class Request:
    """A request's header section.

    method, path, scheme, authority: path is b"" for CONNECT. authority: of :authority, or Host. protocol: of an
    extended CONNECT (RFC 8441), else b"". length: of the body in bytes, as Content-Length says; None without it. lines:
    the other fields, as lines of HTTP/1; the crumbs of Cookie are one line. crumbs: how many there were.
    """

    __slots__ = (
        "_whole", "authority", "crumbs", "expects_continue", "has_trailers", "length", "lines", "method", "path",
        "protocol", "scheme",
    )  # fmt: skip

    def __init__(self, fields: Sequence[Field]) -> None:
        """Raises MalformedMessage."""
        found = SortedFields(fields, _OF_REQUEST)
        pseudo = found.pseudo
        self._whole: bytes | None = None
        self.method = pseudo.get(METHOD, b"")
        self.path = pseudo.get(PATH, b"")
        self.scheme = pseudo.get(SCHEME_NAME, b"")
        self.protocol = pseudo.get(PROTOCOL, b"")
        self.length = found.length
        self.has_trailers, self.expects_continue = found.has_trailers, found.expects_continue
        if not self.method:
            raise MalformedMessage(":method is missing")
        authority = pseudo.get(AUTHORITY)
        if authority is not None and found.host is not None and authority.lower() != found.host.lower():
            raise MalformedMessage(":authority and Host differ")
        self.authority = authority or found.host or b""
        if not self.authority:
            raise MalformedMessage(":authority and Host are both missing or empty")
        self._check_target(PROTOCOL in pseudo)
        lines = found.lines
        if found.cookies:
            lines.append(b"cookie: %b\r\n" % b"; ".join(found.cookies))
        self.crumbs = len(found.cookies)
        self.lines = b"".join(lines)

    def _check_target(self, is_extended: bool) -> None:
        if self.method == b"CONNECT" and not is_extended:
            if self.path or self.scheme:
                raise MalformedMessage(":path and :scheme are not allowed with CONNECT")
            return
        if is_extended and self.method != b"CONNECT":
            raise MalformedMessage(":protocol is not allowed without CONNECT")
        if not self.path or not self.scheme:
            raise MalformedMessage(":path or :scheme is missing")
        if self.scheme.lower() not in _SCHEMES:
            raise MalformedMessage(":scheme is neither http nor https")
        if self.path == b"*" and self.method != b"OPTIONS":
            raise MalformedMessage(":path is `*`, which only OPTIONS may have")

    def head(self, is_whole: bool) -> bytes:
        """Return the head in HTTP/1.1. is_whole: the request has no body. Without that and without a length, the body
        goes on in chunks."""
        if is_whole and self._whole is not None:
            return self._whole
        framing = b""
        if self.length is None:
            if not is_whole:
                framing = b"transfer-encoding: chunked\r\n"
            elif self.method in WITH_LENGTH:
                framing = b"content-length: 0\r\n"
        if self.has_trailers:
            framing += b"connection: te\r\nte: trailers\r\n"
        target = self.path or self.authority
        head = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b\r\n" % (self.method, target, self.authority, self.lines, framing)
        if is_whole:
            self._whole = head
        return head

    def upgrade_head(self, key: bytes) -> bytes:
        """Return the head in HTTP/1.1 of an extended CONNECT for WebSocket (RFC 8441, section 5).

        key: a fresh Sec-WebSocket-Key, in Base64. Raises BadRequest (501) for another protocol.
        """
        if self.protocol.lower() != b"websocket":
            raise BadRequest(501, "extended CONNECT is only implemented for WebSocket")
        return (
            b"GET %b HTTP/1.1\r\nhost: %b\r\n%bupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-key: %b\r\n\r\n" % (self.path, self.authority, self.lines, key)
        )


def read_trailers(fields: Sequence[Field]) -> bytes:
    """Return a trailer section as lines of HTTP/1. Raises MalformedMessage.

    `protocols/http1/body.py` says which of them go on.
    """
    found = SortedFields(fields, frozenset())
    if found.length is not None or found.host is not None:
        raise MalformedMessage("a trailer field has a name that is allowed only before the body")
    return b"".join(found.lines)
