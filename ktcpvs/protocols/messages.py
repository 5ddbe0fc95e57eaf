"""Heads of HTTP/1 messages as a switch must read them: how long is the body, and what may not be passed on.

Strict where smuggling begins (RFC 9112, sections 3, 6 and 11.2): whatever two readers could understand in two ways is
refused. A head is recognised by one compiled expression; what has to be known of its fields is found by one more.
"""

from __future__ import annotations

import re

from ktcpvs.protocols.framing import Chunked, Frame, Length, UntilClose
from ktcpvs.protocols.http1 import BadRequest, path_of

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_LINES = rb"((?:%b++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n" % _TOKEN
# A target has no fragment. Its bytes from 0x80 on pass: clients send them, and every reader sees the same bytes. A
# method has at most the 64 bytes that HeadReader takes too.
REQUEST = re.compile(rb"((%b{1,64}+) ([!\"$-~\x80-\xff]++) HTTP/1\.([01])\r\n)%b" % (_TOKEN, _LINES))
RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n%b" % _LINES)
_RESPONSE_BEGUN = re.compile(rb"H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01](?: .*+)?)?)?)?)?)?)?)?", re.DOTALL)
_HEAD_END = re.compile(rb"\n\r?\n")

# A name such as Content_Length is found too: what makes variables of names, as CGI and WSGI do, takes it for the real
# one.
_REQUEST_FIELDS = re.compile(
    rb"(?im)^(host|content[^a-z0-9:]length|transfer[^a-z0-9:]encoding|connection|proxy-connection|keep-alive|te|upgrade"
    rb"|http2-settings|expect):[ \t]*+([^\r]*)"
)
_RESPONSE_FIELDS = re.compile(
    rb"(?im)^(content-length|transfer-encoding|connection|proxy-connection|keep-alive|upgrade):[ \t]*+([^\r]*)"
)
_HOP = re.compile(rb"(?im)^(?:connection|proxy-connection|keep-alive|te|upgrade|http2-settings):[^\n]*+\n")
_NUMBER = re.compile(rb"[0-9]{1,18}")
# A host and perhaps a port, or nothing (RFC 9110, section 7.2), but for the comma, which would make a list of it.
_HOST = re.compile(rb"(?:(?:(?:[A-Za-z0-9\-._~!$&'()*+;=]++|%[0-9A-Fa-f]{2})++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5})?)?")
_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+://([^/?#]++)")
_OPTION = re.compile(rb"%b++" % _TOKEN)

CHUNKED = -1
"""As a length: the body is chunked."""

FRAMING_FIELDS = frozenset((b"host", b"content-length", b"transfer-encoding"))
_NO_FIELDS = frozenset((b"close", b"keep-alive", b"upgrade"))  # they name no field, or one that ends here anyway
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"))


BODILESS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
"""Methods whose bodies have no meaning (RFC 9110, 9.3): a server may take one for the next request."""


class RequestFields:
    """What a request's header lines say, whatever its request line is: the same for all that have the same lines.

    lines: as they came. minor: True for HTTP/1.1. host: the value of Host, b"" when there is none. length: of the body,
    bytes, or CHUNKED. keep_alive: the client may send another request. websocket: it asks for that upgrade, if it is a
    GET. expect: it waits for 100. dropped: lower-case names of the fields that end here; None: none does.
    """

    __slots__ = ("dropped", "expect", "host", "keep_alive", "length", "lines", "minor", "websocket")

    def __init__(self, lines: bytes, minor: bool) -> None:
        """Raises BadRequest."""
        self.lines = lines
        self.minor = minor
        self.length = 0
        self.keep_alive = minor
        self.websocket = self.expect = False
        self.dropped: frozenset[bytes] | None = None
        fields = _REQUEST_FIELDS.findall(lines)
        if len(fields) == 1 and minor and len(fields[0][0]) == 4 and fields[0][0][:2] in (b"Ho", b"ho"):
            self.host = fields[0][1].rstrip()
            if not _HOST.fullmatch(self.host):
                raise BadRequest(400, "Host has a form that HTTP/1.1 forbids")
        else:
            self._read(fields)

    def _read(self, fields: list[tuple[bytes, bytes]]) -> None:
        hosts: list[bytes] = []
        lengths: list[bytes] = []
        codings: list[bytes] = []
        options: list[bytes] = []
        upgrades: list[bytes] = []
        for name, value in fields:
            name, value = name.lower(), value.rstrip()
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding":
                codings.append(value.lower())
            elif name == b"expect":
                self.expect = self.minor and value.lower() == b"100-continue"
            elif name[:7] in (b"content", b"transfe"):
                raise BadRequest(400, "a field has a name that could be taken for one that frames the body")
            else:
                self.dropped = frozenset()
                if name == b"connection":
                    options += _OPTION.findall(value.lower())
                elif name == b"upgrade":
                    upgrades.append(value.lower())
        if len(hosts) > 1 or (self.minor and not hosts):
            raise BadRequest(400, "exactly one Host is wanted")
        self.host = hosts[0] if hosts else b""
        if not _HOST.fullmatch(self.host):
            raise BadRequest(400, "Host has a form that HTTP/1.1 forbids")
        self.length = _length(lengths, codings, self.minor)
        if lengths and len(lengths[0]) > 1 and lengths[0].startswith(b"0"):
            raise BadRequest(400, "Content-Length begins with 0, which some read as octal")
        if options:
            self._options(options)
        if b"upgrade" in options and upgrades == [b"websocket"]:
            self.websocket = self.minor and not self.length

    def _options(self, options: list[bytes]) -> None:
        if not FRAMING_FIELDS.isdisjoint(options):
            raise BadRequest(400, "Connection names a field that no hop may drop")
        self.keep_alive = self.minor and b"close" not in options
        self.dropped = frozenset(options) - _NO_FIELDS


class Request:
    """A request's head. line: method, target and version as they came. fields: what its header lines say.

    path: what rules match. host: the value of Host, or the authority of the target. lines: header lines as they go on.
    """

    __slots__ = ("fields", "host", "line", "lines", "method", "path", "target")

    def __init__(self, found: re.Match[bytes], known: RequestFields | None = None) -> None:
        """found: a match of REQUEST. known: of an earlier request of the same client. Raises BadRequest."""
        self.line, self.method, self.target, minor, lines = found.groups()
        self.path = path_of(self.method, self.target)
        if known is None or known.lines != lines or known.minor != (minor == b"1"):
            known = RequestFields(lines, minor == b"1")
        self.fields = known
        self.lines = lines
        self.host = known.host
        if known.length and self.method == b"TRACE":
            raise BadRequest(400, "TRACE with a body")
        if not self.target.startswith(b"/") or self.method == b"CONNECT":
            self._other_form()

    @property
    def minor(self) -> bool:
        return self.fields.minor

    @property
    def length(self) -> int:
        return self.fields.length

    @property
    def keep_alive(self) -> bool:
        return self.fields.keep_alive

    @property
    def expect(self) -> bool:
        return self.fields.expect

    @property
    def websocket(self) -> bool:
        return self.fields.websocket and self.method == b"GET"

    def _other_form(self) -> None:
        """A target in absolute-form goes on in origin-form, with its authority as Host (RFC 9112, section 3.2)."""
        if self.method == b"CONNECT":
            raise BadRequest(400, "this is no forward proxy: CONNECT is refused")
        authority = _AUTHORITY.match(self.target)
        if authority is None:
            return  # OPTIONS *
        if b"@" in authority[1] or not _HOST.fullmatch(authority[1]):
            raise BadRequest(400, "the authority of the request target has a form that is not taken")
        if self.method == b"OPTIONS" and authority.end() == len(self.target):
            self.path = b"*"
        self.host = authority[1]
        self.line = b"%b %b HTTP/1.%d\r\n" % (self.method, self.path, self.minor)
        rest = re.sub(rb"(?im)^host:[^\n]*+\n", b"", self.lines)
        self.lines = b"Host: %b\r\n%b" % (self.host, rest)

    def head(self, added: bytes = b"", replaced: frozenset[bytes] = frozenset(), lines: bytes | None = None) -> bytes:
        """The head as it goes on. added: header lines of the switch's own, each with its line end; replaced: lower-case
        names of fields of the client's that give way to them; lines: instead of the client's header lines."""
        if lines is None:
            lines = self.lines
        dropped = self.fields.dropped
        if dropped is not None:
            lines = without(lines, dropped | replaced)
            if self.websocket:
                added += b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        elif replaced:
            lines = without(lines, replaced)
        return b"%b%b%b\r\n" % (self.line, lines, added)

    def frame(self) -> Frame:
        """A reader for the body."""
        return Chunked() if self.length == CHUNKED else Length(self.length)


class Response:
    """A response's head, read for the request that it answers.

    keep_alive: the server's connection may be used again. head: as it goes on, but for the last line end. length: of
    the body; None where only its frame can tell. whole: the head as it came.
    """

    __slots__ = ("frame", "head", "keep_alive", "length", "status", "until_close", "whole")

    def __init__(self, found: re.Match[bytes], whole: bytes, method: bytes) -> None:
        """found: a match of RESPONSE in `whole`. Raises BadRequest (the status is for a server's fault: 502)."""
        minor, status, lines = found.groups()
        self.status = int(status)
        self.keep_alive = minor == b"1"
        lengths: list[bytes] = []
        codings: list[bytes] = []
        options: list[bytes] = []
        ends_here = False
        for name, value in _RESPONSE_FIELDS.findall(lines):
            size = len(name)
            if size == 14:
                lengths.append(value.rstrip())
            elif size == 17:
                codings.append(value.rstrip().lower())
            else:
                ends_here = True
                if size == 10 and name[:1] in b"Cc":  # Keep-Alive has ten letters too
                    options += _OPTION.findall(value.lower())
        if options:
            if not FRAMING_FIELDS.isdisjoint(options):
                raise BadRequest(502, "the server's Connection names a field that no hop may drop")
            self.keep_alive = b"close" not in options and (self.keep_alive or b"keep-alive" in options)
        self.frame = self._frame(method, lengths, codings, minor == b"1")
        self.length = self.frame.left if isinstance(self.frame, Length) else None
        self.whole = whole[: found.end()]
        bodiless = lengths and (self.status < 200 or self.status == 204)
        if ends_here or bodiless or minor == b"0":
            names = frozenset(options) - _NO_FIELDS
            if bodiless:
                names |= {b"content-length"}  # RFC 9110, section 8.6
            # A switch that passes messages on speaks its own version (RFC 9110, section 2.5).
            self.head = b"HTTP/1.1%b%b" % (whole[8 : found.start(3)], without(lines, names))
        else:
            self.head = whole[: found.end() - 2]
        self.until_close = isinstance(self.frame, UntilClose)

    def _frame(self, method: bytes, lengths: list[bytes], codings: list[bytes], minor: bool) -> Frame:
        """RFC 9112, section 6.3."""
        status = self.status
        try:
            length = _length(lengths, codings, minor)
        except BadRequest as bad:
            raise BadRequest(502, f"the server's answer: {bad}") from None
        if status < 200 or status == 204:
            if length:  # many servers send a length of 0 with a 204: that can be read in one way only
                raise BadRequest(502, f"the server's answer: a {status} with a body")
            return Length(0)
        if method == b"HEAD" or status == 304:
            return Length(0)
        if codings:
            return Chunked()
        if lengths:
            return Length(length)
        self.keep_alive = False
        return UntilClose()


def read_response(received: bytes, method: bytes, max_size: int, looked: int = 0) -> tuple[Response, int] | None:
    """The response at the beginning of `received` and the size of its head; None: more is needed. Raises BadRequest.

    looked: of how many of these bytes this was the answer the last time, so that what comes in drops is read once."""
    has_ended = looked and _HEAD_END.search(received, max(looked - 3, 0)) is not None
    found = RESPONSE.match(received) if has_ended or not looked else None
    if found is not None and found.end() <= max_size:
        return Response(found, received, method), found.end()
    if len(received) > max_size:
        raise BadRequest(502, f"the head of the server's answer is longer than {max_size} bytes")
    if has_ended or (not looked and _HEAD_END.search(received)) or not _RESPONSE_BEGUN.fullmatch(received[:1024]):
        raise BadRequest(502, "the server's answer is not HTTP/1")
    return None


def _length(lengths: list[bytes], codings: list[bytes], minor: bool) -> int:
    """What the fields say of the body's length (RFC 9112, section 6.3), refusing what may be read in two ways."""
    if codings:
        if lengths:
            raise BadRequest(400, "Content-Length beside Transfer-Encoding")
        if codings != [b"chunked"] or not minor:
            raise BadRequest(400, "a Transfer-Encoding other than chunked, or in HTTP/1.0")
        return CHUNKED
    if not lengths:
        return 0
    if any(length != lengths[0] for length in lengths) or not _NUMBER.fullmatch(lengths[0]):
        raise BadRequest(400, "Content-Length is not one number")
    if len(lengths) > 1:
        raise BadRequest(400, "more than one Content-Length")
    return int(lengths[0])


def without(lines: bytes, names: frozenset[bytes]) -> bytes:
    """The header lines without those that end at this hop, and without those that Connection named."""
    lines = _HOP.sub(b"", lines)
    if names:  # no expression is made of them: a client could have one compiled for every request
        lines = b"".join([line for line in lines.splitlines(True) if line[: line.find(b":")].lower() not in names])
    return lines
