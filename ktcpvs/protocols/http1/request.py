"""Requests: which head the switch accepts, what its fields say, and the head that is sent to a server.

A head that two recipients could read in two ways is refused, since request smuggling begins there (RFC 9112, sections
3, 6 and 11.2). A loose form that can be read in one way only is accepted and forwarded in the strict form. A request is
forwarded as HTTP/1.1, the switch's own version (RFC 9110, section 2.5).

This is the fast path: one expression recognises a whole head, and one more finds the fields that matter.
"""

from __future__ import annotations

import re

from ktcpvs.protocols.http1.body import CHUNKED, Chunked, Frame, Length, body_length
from ktcpvs.protocols.http1.errors import BadRequest
from ktcpvs.protocols.http1.grammar import (
    ABSOLUTE_FORM,
    HOST,
    MAX_METHOD_BYTES,
    REQUEST_HEAD,
    TOKEN,
    TOKEN_CHAR,
    field_lines_named,
)
from ktcpvs.protocols.http1.hop_by_hop import (
    FRAMING_FIELDS,
    OPTIONS_WITHOUT_FIELD,
    connection_lines,
    without,
    without_replaced,
)
from ktcpvs.protocols.http1.target import path_of
from ktcpvs.protocols.http1.upgrade import ANY, allowed, requested

REQUEST = REQUEST_HEAD

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"))
"""Methods whose requests may be sent again (RFC 9110, section 9.2.2)."""

BODILESS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
"""Methods whose bodies have no meaning (RFC 9110, section 9.3): a server may take a body for the next request."""

# A name such as Content_Length is found too: CGI and WSGI make variables of names and take it for the real one.
_find_fields = field_lines_named(
    (
        "host", "content[^a-z0-9:]length", "transfer[^a-z0-9:]encoding", "connection", "proxy-connection", "keep-alive",
        "te", "upgrade", "http2-settings", "expect",
    )
).findall  # fmt: skip
_OPTION = re.compile(TOKEN)
_HOST_LINE = re.compile(rb"(?im)^host:[^\n]*+\n")
_NEXT_REQUEST = re.compile(rb"[\r\n]*+%b{0,%d}+( |\Z)" % (TOKEN_CHAR, MAX_METHOD_BYTES))


def may_be_request(body: bytes, is_whole: bool) -> bool:
    """Whether a server that ignores a body could take this one for the next request, since it begins with a method and
    a blank.

    body: its first bytes. is_whole: there are no more; else the blank may still come.
    """
    found = _NEXT_REQUEST.match(body)
    return found is not None and (found[1] == b" " or not is_whole)


def _check_options(options: list[bytes]) -> None:
    if not FRAMING_FIELDS.isdisjoint(options):
        raise BadRequest(400, "Connection names Host, Content-Length or Transfer-Encoding")


# Bound once: CPython 3.11 makes a bound method at each call of a method of an imported name.
_match_host = HOST.fullmatch

_MALFORMED_HOST = "malformed Host"
_SEVERAL_HOSTS = "a request must have exactly one Host"
_LOOKALIKE = "a field has a name that programs take for Content-Length or Transfer-Encoding"


class RequestFields:
    """The meaning of a request's header lines, which does not depend on its request line.

    lines: as they came. minor: True for HTTP/1.1 and later. host: the value of Host; b"" where it is empty or missing.
    has_host: there is one; HTTP/1.0 does not require it. length: of the body, in bytes, or CHUNKED. keep_alive: the
    client may send another request. upgrades: the protocols to which it asks to switch. expect: it waits for 100.
    dropped: lower-case names of the fields that end here; None: none does. added: lines that replace them.
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
        fields = _find_fields(b"\n" + lines)
        if len(fields) == 1 and minor and len(fields[0][0]) == 4 and fields[0][0][:2] in (b"Ho", b"ho"):
            self.host = fields[0][1].rstrip()
            if not _match_host(self.host):
                raise BadRequest(400, _MALFORMED_HOST)
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
                raise BadRequest(400, _LOOKALIKE)
            else:
                self.dropped = self.dropped or frozenset()
                if name == b"connection":
                    options += _OPTION.findall(value.lower())
                elif name == b"upgrade":
                    upgrade.append(value)
                elif name == b"te":
                    self._te(value)
        if len(hosts) > 1 or (self.minor and not hosts):
            raise BadRequest(400, _SEVERAL_HOSTS)
        self.has_host = bool(hosts)
        self.host = hosts[0] if hosts else b""
        if not _match_host(self.host):
            raise BadRequest(400, _MALFORMED_HOST)
        self.length, is_strict = body_length(lengths, codings, self.minor, is_request=True)
        if not is_strict:
            self._drop(b"content-length")
            self.added = b"Content-Length: %d\r\n" % self.length
        if options:
            _check_options(options)
            self.keep_alive = b"close" not in options and (self.minor or b"keep-alive" in options)
            self.dropped = (self.dropped or frozenset()) | (frozenset(options) - OPTIONS_WITHOUT_FIELD)
        if b"upgrade" in options and self.minor:  # RFC 9110, section 7.8: HTTP/1.0 knows no Upgrade
            self.upgrades = requested(upgrade)

    def _expect(self, value: bytes) -> None:
        """RFC 9110, section 10.1.1: an HTTP/1.0 client does not wait for 100, so no server may be asked for one."""
        if self.minor:
            self.expect = value.lower() == b"100-continue"
        else:
            self._drop(b"expect")

    def fulfil_expectation(self) -> None:
        """The switch has sent 100: no server is asked for it."""
        self.expect = False
        self._drop(b"expect")

    def _te(self, value: bytes) -> None:
        """TE ends here, but `trailers` is forwarded (RFC 9110, section 10.1.4)."""
        codings = [element.partition(b";")[0].strip(b" \t") for element in value.lower().split(b",")]
        if self.minor and b"trailers" in codings:
            self.has_trailers = True

    def _drop(self, name: bytes) -> None:
        self.dropped = (self.dropped or frozenset()) | {name}


class EarlyCheck:
    """Refuses a request before its head is complete, at the first header line that makes it invalid."""

    __slots__ = ("_has_host", "_is_chunked", "_length")

    def __init__(self) -> None:
        self._has_host = self._is_chunked = False
        self._length: int | None = None

    def feed(self, lines: bytes, minor: bool) -> None:
        """Check more complete header lines. minor: True for HTTP/1.1. Raises BadRequest."""
        for name, value in _find_fields(b"\n" + lines):
            self._check(name.lower(), value.rstrip(), minor)

    def _check(self, name: bytes, value: bytes, minor: bool) -> None:
        if name == b"host":
            if self._has_host:
                raise BadRequest(400, _SEVERAL_HOSTS)
            if not _match_host(value):
                raise BadRequest(400, _MALFORMED_HOST)
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
            raise BadRequest(400, _LOOKALIKE)
        elif name == b"connection":
            _check_options(_OPTION.findall(value.lower()))


class Request:
    """A request's head.

    line: the request line as it is forwarded. fields: the meaning of the header lines. path: the path and query, which
    rules match. host: the value of Host, or the authority of the target. lines: header lines as they came, except that
    the target's authority replaces Host. leaves_doubt: a server that ignores the body may take it for the next request,
    so the connection to the server must not be used again.
    """

    __slots__ = ("fields", "host", "leaves_doubt", "line", "lines", "method", "path", "target")

    def __init__(self, found: re.Match[bytes]) -> None:
        """found: a match of REQUEST_HEAD. Raises BadRequest."""
        self.line, self.method, self.target, minor, lines = found.groups()
        self.path = path_of(self.method, self.target)
        if self.method == b"CONNECT":
            # 405 would have to list the methods that are allowed (RFC 9110, section 15.5.6), which only servers know.
            raise BadRequest(501, "CONNECT is not implemented: this is not a forward proxy")
        self.fields = fields = RequestFields(lines, minor != b"0")
        self.lines = lines
        self.host = fields.host
        self.leaves_doubt = False
        if fields.length and self.method == b"TRACE":
            raise BadRequest(400, "a TRACE request must have no body")
        if minor != b"1":
            self.line = b"%b %b HTTP/1.1\r\n" % (self.method, self.target)
        if not self.target.startswith(b"/"):
            self._use_origin_form()

    @property
    def minor(self) -> bool:
        return self.fields.minor

    @property
    def size(self) -> int:
        """The bytes of the head as its client has sent it, in the strict form of its request line."""
        return len(b"  HTTP/1.1\r\n\r\n") + len(self.method) + len(self.target) + len(self.fields.lines)

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
        """Whether the request may be sent to a server again: its method is idempotent, and it has no body, of which a
        part would be gone."""
        return not self.fields.length and self.method in IDEMPOTENT

    @property
    def has_host(self) -> bool:
        """Whether there is a Host field, or an authority in the target."""
        return self.fields.has_host or bool(self.host)

    def note_body(self, body: bytes, is_whole: bool) -> None:
        """Take note of the first bytes of the body; none may have come yet. is_whole: there are no more."""
        if self.method in BODILESS and self.length != CHUNKED:  # a chunked body begins with a size
            self.leaves_doubt = may_be_request(body, is_whole)

    def upgrades(self, mode: str = ANY) -> tuple[bytes, ...]:
        """The protocols to which the server is asked to switch. mode: the option `upgrade` of the service."""
        protocols = self.fields.upgrades
        return protocols and allowed(protocols, mode, self.method == b"GET" and not self.length)

    def _use_origin_form(self) -> None:
        """Send a target in absolute-form on in origin-form, with its authority as Host (RFC 9112, section 3.2)."""
        absolute = ABSOLUTE_FORM.fullmatch(self.target)
        if absolute is None:
            return  # OPTIONS *
        authority, path = absolute.groups()
        if b"@" in authority or not _match_host(authority):
            raise BadRequest(400, "malformed authority in the request target")
        if self.method == b"OPTIONS" and not path:
            self.path = b"*"
        self.host = authority
        self.line = b"%b %b HTTP/1.1\r\n" % (self.method, self.path)
        self.lines = b"Host: %b\r\n%b" % (authority, _HOST_LINE.sub(b"", self.lines))

    def head(
        self,
        added: bytes = b"",
        replaced: frozenset[bytes] = frozenset(),
        lines: bytes | None = None,
        host: bytes = b"",
        mode: str = ANY,
        target: bytes | None = None,
    ) -> bytes:
        """Return the head to send to the server.

        added: the switch's own header lines, each with its line end. replaced: canonical names of the client's fields
        that are dropped in favour of these. lines: header lines to send instead of the client's. host: the value of
        Host if the client has sent none. mode: the option `upgrade` of the service.
        target: the path and query that the server gets; None: those of the request.
        """
        fields = self.fields
        line = self.line if target is None else b"%b %b HTTP/1.1\r\n" % (self.method, target)
        if lines is None:
            lines = self.lines
        if fields.dropped is not None:
            lines = without(lines, fields.dropped, replaced) + fields.added
            added += connection_lines(fields.has_trailers, self.upgrades(mode))
        elif replaced:
            lines = without_replaced(lines, replaced)
        if not self.has_host:
            lines = b"Host: %b\r\n%b" % (host, lines)
        return b"%b%b%b\r\n" % (line, lines, added)

    def frame(self) -> Frame:
        """Return a frame for the body."""
        return Chunked() if self.length == CHUNKED else Length(self.length)
