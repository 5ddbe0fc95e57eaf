"""Heads of HTTP/1 messages as a switch must read them: how long is the body, and what may not be passed on.

Strict where smuggling begins (RFC 9112, sections 3, 6 and 11.2): whatever two readers could understand in two ways is
refused. A loose form that can be read in one way only is accepted, and goes on in the strict form. Messages go on as
HTTP/1.1, the switch's own version (RFC 9110, section 2.5). A head is recognised by one compiled expression; what has to
be known of its fields is found by one more.
"""

from __future__ import annotations

import re

from ktcpvs.protocols.body_length import CHUNKED as CHUNKED
from ktcpvs.protocols.body_length import body_length
from ktcpvs.protocols.framing import Chunked, Frame, Length, UntilClose
from ktcpvs.protocols.http1 import BadRequest, path_of
from ktcpvs.protocols.names import canonical
from ktcpvs.protocols.upgrades import ANY, allowed, listed, protocols

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_LINES = rb"((?:%b++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n" % _TOKEN
# A target has no fragment. Its bytes from 0x80 on pass: clients send them, and every reader sees the same bytes. A
# method has at most the 64 bytes that HeadReader takes too.
REQUEST = re.compile(rb"((%b{1,64}+) ([!\"$-~\x80-\xff]++) HTTP/1\.([0-9])\r\n)%b" % (_TOKEN, _LINES))
RESPONSE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n%b" % _LINES)
_RESPONSE_BEGUN = re.compile(rb"H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[0-9](?: .*+)?)?)?)?)?)?)?)?", re.DOTALL)
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
# A host and perhaps a port, or nothing (RFC 9110, section 7.2), but for the comma, which would make a list of it. No
# label of a name is empty, but a dot may end it. An IPv6 address may have a zone (RFC 6874).
_LABEL = rb"(?:[A-Za-z0-9\-_~!$&'()*+;=]|%[0-9A-Fa-f]{2})++"
_IPV6 = rb"\[[0-9A-Fa-f:.]++(?:%25(?:[A-Za-z0-9\-._~]|%[0-9A-Fa-f]{2})++)?\]"
_HOST = re.compile(b"(?:(?:" + _LABEL + rb"(?:\." + _LABEL + rb")*+\.?|" + _IPV6 + rb")(?::[0-9]{0,5})?)?")
_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+://([^/?#]++)")
_OPTION = re.compile(rb"%b++" % _TOKEN)

FRAMING_FIELDS = frozenset((b"host", b"content-length", b"transfer-encoding"))
_NO_FIELDS = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))  # they name no field, or one that ends here anyway
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"))


BODILESS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
"""Methods whose bodies have no meaning (RFC 9110, 9.3): a server may take one for the next request."""

_NEXT_REQUEST = re.compile(rb"[\r\n]*+%b{0,64}+( |\Z)" % _TOKEN)


def may_be_request(body: bytes, is_whole: bool) -> bool:
    """True when a server that passes over a body could take this one for the next request: it begins with a method and
    a blank. body: the bytes of it that came first; is_whole: there are no more, else the blank may still come."""
    found = _NEXT_REQUEST.match(body)
    return found is not None and (found[1] == b" " or not is_whole)


class RequestFields:
    """What a request's header lines say, whatever its request line is: the same for all that have the same lines.

    lines: as they came. minor: True for HTTP/1.1 and later. host: the value of Host; b"" where it is empty or missing.
    has_host: there is one, which HTTP/1.0 does not ask for. length: of the body, bytes, or CHUNKED. keep_alive: the
    client may send another request. upgrades: the protocols that it asks to switch to. expect: it waits for 100.
    dropped: lower-case names of the fields that end here; None: none does. added: lines that go on instead of them.
    """

    __slots__ = (
        "added", "dropped", "expect", "has_host", "has_trailers", "host", "keep_alive", "length", "lines", "minor",
        "upgrades",
    )  # fmt: skip

    def __init__(self, lines: bytes, minor: bool) -> None:
        """Raises BadRequest."""
        self.lines = lines
        self.minor = minor
        self.length = 0
        self.keep_alive = self.has_host = minor
        self.upgrades: tuple[bytes, ...] = ()
        self.expect = self.has_trailers = False
        self.dropped: frozenset[bytes] | None = None
        self.added = b""
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
        upgrade: list[bytes] = []
        for name, value in fields:
            name, value = name.lower(), value.rstrip()
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding":
                codings.append(value)
            elif name == b"expect":
                self._expect(value)
            elif name[:7] in (b"content", b"transfe"):
                raise BadRequest(400, "a field has a name that could be taken for one that frames the body")
            else:
                self.dropped = self.dropped or frozenset()
                if name == b"connection":
                    options += _OPTION.findall(value.lower())
                elif name == b"upgrade":
                    upgrade.append(value)
                elif name == b"te":
                    self._te(value)
        if len(hosts) > 1 or (self.minor and not hosts):
            raise BadRequest(400, "exactly one Host is wanted")
        self.has_host = bool(hosts)
        self.host = hosts[0] if hosts else b""
        if not _HOST.fullmatch(self.host):
            raise BadRequest(400, "Host has a form that HTTP/1.1 forbids")
        self.length, is_strict = body_length(lengths, codings, self.minor, is_request=True)
        if not is_strict:
            self._drop(b"content-length")
            self.added = b"Content-Length: %d\r\n" % self.length
        if options:
            self._options(options)
        if b"upgrade" in options and self.minor:  # RFC 9110, section 7.8: HTTP/1.0 knows no Upgrade
            self.upgrades = protocols(upgrade)

    def _expect(self, value: bytes) -> None:
        """RFC 9110, section 10.1.1: an HTTP/1.0 client waits for no 100, so its server must not be asked for one."""
        if self.minor:
            self.expect = value.lower() == b"100-continue"
        else:
            self._drop(b"expect")

    def _te(self, value: bytes) -> None:
        """TE ends here; that the client takes trailer fields goes on (RFC 9110, section 10.1.4)."""
        if self.minor and any(one.partition(b";")[0].strip(b" \t") == b"trailers" for one in value.lower().split(b",")):
            self.has_trailers = True

    def _drop(self, name: bytes) -> None:
        self.dropped = (self.dropped or frozenset()) | {name}

    def _options(self, options: list[bytes]) -> None:
        if not FRAMING_FIELDS.isdisjoint(options):
            raise BadRequest(400, "Connection names a field that no hop may drop")
        self.keep_alive = b"close" not in options and (self.minor or b"keep-alive" in options)
        self.dropped = (self.dropped or frozenset()) | (frozenset(options) - _NO_FIELDS)


class EarlyCheck:
    """Refuses a request whose head is not complete, as soon as one of its header lines cannot stand in a valid one."""

    __slots__ = ("_has_host", "_is_chunked", "_length")

    def __init__(self) -> None:
        self._has_host = self._is_chunked = False
        self._length: int | None = None

    def feed(self, lines: bytes, minor: bool) -> None:
        """More header lines are complete. minor: True for HTTP/1.1. Raises BadRequest."""
        for name, value in _REQUEST_FIELDS.findall(lines):
            self._check(name.lower(), value.rstrip(), minor)

    def _check(self, name: bytes, value: bytes, minor: bool) -> None:
        if name == b"host":
            if self._has_host:
                raise BadRequest(400, "exactly one Host is wanted")
            if not _HOST.fullmatch(value):
                raise BadRequest(400, "Host has a form that HTTP/1.1 forbids")
            self._has_host = True
        elif name == b"content-length":
            length, _ = body_length([value], [b"chunked"] * self._is_chunked, minor, is_request=True)
            if self._length not in (None, length):
                raise BadRequest(400, "two different values of Content-Length")
            self._length = length
        elif name == b"transfer-encoding":
            lengths = [] if self._length is None else [b"%d" % self._length]
            body_length(lengths, [*[b"chunked"] * self._is_chunked, value], minor, is_request=True)
            self._is_chunked = True
        elif name[:7] in (b"content", b"transfe"):
            raise BadRequest(400, "a field has a name that could be taken for one that frames the body")
        elif name == b"connection" and not FRAMING_FIELDS.isdisjoint(_OPTION.findall(value.lower())):
            raise BadRequest(400, "Connection names a field that no hop may drop")


class Request:
    """A request's head. line: method, target and version as they go on. fields: what its header lines say.

    path: what rules match. host: the value of Host, or the authority of the target. lines: header lines as they came,
    but for a Host that the target's authority replaces. leaves_doubt: a server that passes over its body may take that
    for the next request, so its connection is not used again.
    """

    __slots__ = ("fields", "host", "leaves_doubt", "line", "lines", "method", "path", "target")

    def __init__(self, found: re.Match[bytes]) -> None:
        """found: a match of REQUEST. Raises BadRequest."""
        self.line, self.method, self.target, minor, lines = found.groups()
        self.path = path_of(self.method, self.target)
        if self.method == b"CONNECT":
            # 405 would have to list the methods that are allowed (RFC 9110, section 15.5.6), which only servers know.
            raise BadRequest(501, "this is no forward proxy: CONNECT is not implemented")
        self.fields = fields = RequestFields(lines, minor != b"0")
        self.lines = lines
        self.host = fields.host
        self.leaves_doubt = False
        if fields.length and self.method == b"TRACE":
            raise BadRequest(400, "TRACE with a body")
        if minor != b"1":
            self.line = b"%b %b HTTP/1.1\r\n" % (self.method, self.target)
        if not self.target.startswith(b"/"):
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
    def is_repeatable(self) -> bool:
        """It may be sent to a server again (RFC 9110, section 9.2.2), and there is no body of which some has gone."""
        return not self.fields.length and self.method in IDEMPOTENT

    @property
    def has_host(self) -> bool:
        """A Host, or an authority of the target."""
        return self.fields.has_host or bool(self.host)

    def note_body(self, body: bytes, is_whole: bool) -> None:
        """The first bytes of the body have come, or none of it yet. is_whole: there are no more."""
        if self.method in BODILESS and self.length != CHUNKED:  # a chunk's size is no method
            self.leaves_doubt = may_be_request(body, is_whole)

    def upgrades(self, mode: str = ANY) -> tuple[bytes, ...]:
        """The protocols to which the server is asked to switch. mode: the service's option `upgrade`."""
        asked = self.fields.upgrades
        return asked and allowed(asked, mode, self.method == b"GET" and not self.length)

    def _other_form(self) -> None:
        """A target in absolute-form goes on in origin-form, with its authority as Host (RFC 9112, section 3.2)."""
        authority = _AUTHORITY.match(self.target)
        if authority is None:
            return  # OPTIONS *
        if b"@" in authority[1] or not _HOST.fullmatch(authority[1]):
            raise BadRequest(400, "the authority of the request target has a form that is not taken")
        if self.method == b"OPTIONS" and authority.end() == len(self.target):
            self.path = b"*"
        self.host = authority[1]
        self.line = b"%b %b HTTP/1.1\r\n" % (self.method, self.path)
        rest = re.sub(rb"(?im)^host:[^\n]*+\n", b"", self.lines)
        self.lines = b"Host: %b\r\n%b" % (self.host, rest)

    def head(
        self,
        added: bytes = b"",
        replaced: frozenset[bytes] = frozenset(),
        lines: bytes | None = None,
        host: bytes = b"",
        mode: str = ANY,
    ) -> bytes:
        """The head as it goes on. added: header lines of the switch's own, each with its line end; replaced: canonical
        names of fields of the client's that give way to them; lines: instead of the client's header lines; host: the
        value of Host where the client has sent none; mode: the service's option `upgrade`."""
        fields = self.fields
        if lines is None:
            lines = self.lines
        if fields.dropped is not None:
            lines = without(lines, fields.dropped, replaced) + fields.added
            added += _hop_lines(fields.has_trailers, self.upgrades(mode))
        elif replaced:
            lines = without_replaced(lines, replaced)
        if not self.has_host:
            lines = b"Host: %b\r\n%b" % (host, lines)
        return b"%b%b%b\r\n" % (self.line, lines, added)

    def frame(self) -> Frame:
        """A reader for the body."""
        return Chunked() if self.length == CHUNKED else Length(self.length)


class Response:
    """A response's head, read for the request that it answers.

    keep_alive: the server's connection may be used again. head: as it goes on, but for the last line end. length: of
    the body; None where only its frame can tell. until_close: the body ends with the server's connection. is_delimited:
    the recipient sees where the body ends without an end of its connection. upgrade: what its Upgrade lists. whole: the
    head as it came.
    """

    __slots__ = (
        "frame", "head", "is_delimited", "keep_alive", "length", "status", "until_close", "upgrade", "whole",
    )  # fmt: skip

    def __init__(self, found: re.Match[bytes], whole: bytes, method: bytes, minor: bool = True) -> None:
        """found: a match of RESPONSE in `whole`. minor: False when the client speaks HTTP/1.0, which knows no chunks.
        Raises BadRequest (the status is for a server's fault: 502)."""
        version, status, lines = found.groups()
        self.status = int(status)
        self.keep_alive = version != b"0"
        self.upgrade: list[bytes] = []
        lengths: list[bytes] = []
        codings: list[bytes] = []
        options: list[bytes] = []
        ends_here = False
        for name, value in _RESPONSE_FIELDS.findall(lines):
            size = len(name)
            if size == 14:
                lengths.append(value.rstrip())
            elif size == 17:
                codings.append(value.rstrip())
            else:
                ends_here = True
                if size == 10 and name[:1] in b"Cc":  # Keep-Alive has ten letters too
                    options += _OPTION.findall(value.lower())
                elif size == 7:
                    self.upgrade += listed([value.rstrip()])
        if options:
            if not FRAMING_FIELDS.isdisjoint(options):
                raise BadRequest(502, "the server's Connection names a field that no hop may drop")
            self.keep_alive = b"close" not in options and (self.keep_alive or b"keep-alive" in options)
        self.whole = whole[: found.end()]
        self.frame, dropped, added = self._frame(method, lengths, codings, version != b"0", minor)
        if self.status == 426:  # RFC 9110, section 15.5.22: it says to which protocols the client should switch
            added += _hop_lines(False, protocols(self.upgrade))
        self.length = self.frame.left if isinstance(self.frame, Length) else None
        if ends_here or dropped or version != b"1":
            names = (frozenset(options) - _NO_FIELDS) | dropped
            self.head = b"HTTP/1.1%b%b%b" % (whole[8 : found.start(3)], without(lines, names), added)
        else:
            self.head = whole[: found.end() - 2]
        self.until_close = isinstance(self.frame, UntilClose)
        self.is_delimited = isinstance(self.frame, Length) or (isinstance(self.frame, Chunked) and minor)

    def _frame(
        self, method: bytes, lengths: list[bytes], codings: list[bytes], version: bool, minor: bool
    ) -> tuple[Frame, frozenset[bytes], bytes]:
        """A reader for the body (RFC 9112, section 6.3), the framing fields that do not go on, and what goes on for
        them.

        The connection is not used again where a server that means its framing fields could send a body behind what is
        no place for one.
        """
        status = self.status
        if status < 200 or status == 204:  # whatever is there (RFC 9110, section 8.6, and RFC 9112, section 6.1)
            if codings or any(length.strip(b"0") for length in lengths):
                self.keep_alive = False
            return Length(0), _FRAMING if lengths or codings else _NONE, b""
        try:
            length, is_strict = body_length(lengths, codings, version, is_request=False)
        except BadRequest as bad:
            raise BadRequest(502, f"the server's answer: {bad}") from None
        dropped, added = _NONE, b""
        if not is_strict:
            dropped = _CONTENT_LENGTH
            if length == CHUNKED:
                self.keep_alive = False  # RFC 9112, section 6.3: an attempt to split responses, perhaps
            else:
                added = b"Content-Length: %d\r\n" % length
        if codings and (status == 304 or not minor):
            dropped |= {b"transfer-encoding"}
        if method == b"HEAD" or status == 304:
            if (status == 304 and codings) or (status != 304 and not lengths and not codings):
                self.keep_alive = False
            return Length(0), dropped, added
        if codings:
            return Chunked(decode=not minor), dropped, added
        if lengths:
            return Length(length), dropped, added
        self.keep_alive = False
        return UntilClose(), dropped, added


_NONE: frozenset[bytes] = frozenset()
_CONTENT_LENGTH = frozenset((b"content-length",))
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


def read_response(
    received: bytes, method: bytes, max_size: int, looked: int = 0, minor: bool = True
) -> tuple[Response, int] | None:
    """The response at the beginning of `received` and the size of its head; None: more is needed. Raises BadRequest.

    looked: of how many of these bytes this was the answer the last time, so that what comes in drops is read once.
    minor: False when the client speaks HTTP/1.0."""
    has_ended = looked and _HEAD_END.search(received, max(looked - 3, 0)) is not None
    found = RESPONSE.match(received) if has_ended or not looked else None
    if found is not None and found.end() <= max_size:
        return Response(found, received, method, minor), found.end()
    if len(received) > max_size:
        raise BadRequest(502, f"the head of the server's answer is longer than {max_size} bytes")
    if has_ended or (not looked and _HEAD_END.search(received)) or not _RESPONSE_BEGUN.fullmatch(received[:1024]):
        raise BadRequest(502, "the server's answer is not HTTP/1")
    return None


def _hop_lines(has_trailers: bool, asked: tuple[bytes, ...]) -> bytes:
    """The fields of a request that concern the connection to the server: Connection and those that it names."""
    if not has_trailers and not asked:
        return b""
    options = (b"TE",) * has_trailers + (b"Upgrade",) * bool(asked)
    lines = b"Connection: %b\r\n" % b", ".join(options)
    if has_trailers:
        lines += b"TE: trailers\r\n"
    if asked:
        lines += b"Upgrade: %b\r\n" % b", ".join(asked)
    return lines


def without(lines: bytes, names: frozenset[bytes], replaced: frozenset[bytes] = frozenset()) -> bytes:
    """The header lines without those that end at this hop, and without those of these lower-case `names`. replaced:
    canonical names of fields that do not go on either."""
    lines = _HOP.sub(b"", lines)
    if names:  # no expression is made of them: a client could have one compiled for every request
        lines = b"".join([line for line in lines.splitlines(True) if line[: line.find(b":")].lower() not in names])
    return without_replaced(lines, replaced) if replaced else lines


def without_replaced(lines: bytes, replaced: frozenset[bytes]) -> bytes:
    """The header lines without those whose names a program could take for one of these canonical names."""
    return b"".join([line for line in lines.splitlines(True) if canonical(line[: line.find(b":")]) not in replaced])
