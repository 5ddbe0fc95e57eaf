"""The head of an HTTP/1 request (RFC 9112, sections 2 to 5), and the answers with which the switch refuses one.

A reader looks and never eats: `HeadReader.feed` gives a RequestHead, None for "more is needed", or raises
BadRequest, and `HeadReader.received` holds every byte that came, as it came. A head is refused at the first byte with
which it cannot become valid any more, in whatever pieces it comes, and each byte is looked at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attrs import frozen

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_NAME = re.compile(rb"%b*+" % _TOKEN)
_TARGET = re.compile(rb"[\x21\x22\x24-\x7e\x80-\xff]*+")
_VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])\r\n")
_VERSION_BEGUN = re.compile(rb"H(?:T(?:T(?:P(?:/(?:[0-9](?:\.(?:[0-9]\r?)?)?)?)?)?)?)?")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+")
_HEADER_LINES = re.compile(rb"(?:%b++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+" % _TOKEN)

MAX_METHOD_BYTES = 64
"""The longest method that is accepted."""

_VERSION_BYTES = len(b"HTTP/1.1\r\n")

# States of a reader of heads: the part that it expects next.
_AT_START, _IN_METHOD, _IN_TARGET, _IN_VERSION, _AT_LINE, _IN_NAME, _IN_VALUE, _AT_LF, _AT_LAST_LF, _COMPLETE = range(
    10
)

_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+://[^/?#]++([^#]*+)")
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]++\]|[^/?#@:\[\]]++):[0-9]{1,5}")

REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


NO_HTTP_1 = (400, 505)
"""The statuses of what is no request of HTTP/1 at all, and may be another protocol."""


class BadRequest(Exception):
    """What came is no request that can be served. status: the HTTP status to answer; str(): why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@frozen
class RequestHead:
    """A request's head. method, target: raw bytes. path: the path and query of the target, for rules to match.
    minor: 0 or 1, of HTTP/1.x. lines: the raw header lines, each with its line end. size: bytes of the whole head,
    from the first byte that came, empty lines before the request included."""

    method: bytes
    target: bytes
    path: bytes
    minor: int
    lines: bytes
    size: int


class HeadReader:
    """Collects bytes until a request's head is complete, and checks them as they come.

    max_size: bytes. max_lines: header lines. max_target: bytes of the request target; None: as many as fit in the head.
    check_lines: called with header lines once they are complete, while the head is not, and with the version, True for
    HTTP/1.1; it may raise BadRequest. None: nothing more is asked of them than their form.
    """

    __slots__ = (
        "_at", "_begin", "_check_lines", "_expected", "_lines", "_lines_begin", "_lines_checked", "_lines_end",
        "_max_lines", "_max_size", "_max_target", "_minor", "_target_begin", "_target_end", "received",
    )  # fmt: skip

    def __init__(
        self,
        max_size: int,
        max_lines: int,
        max_target: int | None = None,
        check_lines: Callable[[bytes, bool], object] | None = None,
    ) -> None:
        self.received = bytearray()
        self._check_lines = check_lines
        self._expected = _AT_START
        self._at = 0  # what stands before it has been checked; it stays at the beginning of a version
        self._begin = 0  # where the request line begins, after empty lines
        self._target_begin = self._target_end = self._lines_begin = 0
        self._lines_checked = self._lines_end = 0  # where the lines end that `check_lines` knows, and the complete ones
        self._lines = 0  # complete header lines
        self._minor = 0
        self._max_size = max_size
        self._max_lines = max_lines
        self._max_target = max_size if max_target is None else max_target

    @property
    def method(self) -> bytes | None:
        """The request's method; None while it is not complete."""
        if self._expected <= _IN_METHOD:
            return None
        return bytes(self.received[self._begin : self._target_begin - 1])

    def feed(self, data: bytes) -> RequestHead | None:
        """Take what came; the head when it is complete, else None. Raises BadRequest."""
        self.received += data
        self._check(min(len(self.received), self._max_size))
        if self._expected == _COMPLETE:
            return self._head()
        if self._check_lines is not None and self._lines_end > self._lines_checked:
            lines = bytes(self.received[self._lines_checked : self._lines_end])
            self._lines_checked = self._lines_end
            self._check_lines(lines, self._minor == 1)
        if len(self.received) >= self._max_size:
            if self._expected == _AT_START:
                raise BadRequest(400, "nothing but empty lines")
            status = 431 if self._expected > _IN_VERSION else 414
            raise BadRequest(status, f"the request's head is longer than {self._max_size} bytes")
        return None

    def _check(self, end: int) -> None:
        """Look at the bytes before `end` that have not been looked at. Raises BadRequest."""
        if self._expected <= _IN_VERSION:
            self._check_request_line(end)
        received = self.received
        while self._at < end and _IN_VERSION < self._expected < _COMPLETE:
            expected = self._expected
            if expected == _AT_LINE:
                self._complete_lines(end)
            elif expected == _IN_NAME:
                self._skip(_NAME, end, b":", _IN_VALUE, "a header line has a name that HTTP/1.1 forbids, or no colon")
            elif expected == _IN_VALUE:
                self._skip(_VALUE, end, b"\r", _AT_LF, "a header line has a byte that HTTP/1.1 forbids")
            else:
                if received[self._at] != 0x0A:
                    raise BadRequest(400, "a header line ends with a CR alone")
                self._at += 1
                if expected == _AT_LF:
                    self._expected = _AT_LINE
                    self._lines_end = self._at
                    self._count(1)
                else:
                    self._expected = _COMPLETE

    def _skip(self, allowed: re.Pattern[bytes], end: int, then: bytes, expected: int, why: str) -> None:
        """Go on behind the bytes that are allowed here, and behind `then`, which must follow them."""
        found = allowed.match(self.received, self._at, end)
        assert found is not None  # it may be empty
        self._at = found.end()
        if self._at < end:
            if self.received[self._at] != then[0]:
                raise BadRequest(400, why)
            self._at += 1
            self._expected = expected

    def _complete_lines(self, end: int) -> None:
        """Go on behind the header lines that are complete, and into the one that is not."""
        found = _HEADER_LINES.match(self.received, self._at, end)
        assert found is not None  # it may be empty
        if found.end() > self._at:
            self._count(self.received.count(b"\n", self._at, found.end()))
            self._at = self._lines_end = found.end()
        if self._at < end:
            first = self.received[self._at]
            if first == 0x0D:
                self._at += 1
                self._expected = _AT_LAST_LF
            elif first == 0x3A:
                raise BadRequest(400, "a header line has no name")
            else:
                self._expected = _IN_NAME

    def _count(self, lines: int) -> None:
        self._lines += lines
        if self._lines > self._max_lines:
            raise BadRequest(431, f"the request has more than {self._max_lines} header lines")

    def _check_request_line(self, end: int) -> None:
        received = self.received
        if self._expected == _AT_START:
            while received.startswith(b"\r\n", self._begin, end):
                self._begin += 2
            if bytes(received[self._begin : min(end, self._begin + 2)]) in (b"", b"\r"):
                return
            self._at = self._begin
            self._expected = _IN_METHOD
        if self._expected == _IN_METHOD:
            found = _NAME.match(received, self._at, end)
            assert found is not None  # it may be empty
            self._at = found.end()
            size = self._at - self._begin
            if size > MAX_METHOD_BYTES or (self._at < end and (not size or received[self._at] != 0x20)):
                raise BadRequest(400, "this is not HTTP")
            if self._at == end:
                return
            self._at += 1
            self._target_begin = self._at
            self._expected = _IN_TARGET
        if self._expected == _IN_TARGET:
            longest = self._target_begin + self._max_target + 1
            self._skip(_TARGET, min(end, longest), b" ", _IN_VERSION, "this is not a request line of HTTP/1")
            self._target_end = self._at - (self._expected == _IN_VERSION)
            if self._target_end == longest:
                raise BadRequest(414, f"the request target is longer than {self._max_target} bytes")
            if self._expected == _IN_VERSION and self._target_end == self._target_begin:
                raise BadRequest(400, "this is not a request line of HTTP/1")
        if self._expected == _IN_VERSION:
            self._check_version(end)

    def _check_version(self, end: int) -> None:
        begun = self.received[self._at : min(end, self._at + _VERSION_BYTES)]
        version = _VERSION.fullmatch(begun)
        if version is None:
            if begun and not _VERSION_BEGUN.fullmatch(begun):
                raise BadRequest(400, "this is not a request line of HTTP/1")
            return
        if version[1] != b"1":
            raise BadRequest(505, f"this is HTTP/{version[1].decode()}, and HTTP/1 is spoken here")
        self._minor = min(int(version[2]), 1)
        self._path()
        self._at = self._lines_begin = self._at + _VERSION_BYTES
        self._lines_checked = self._lines_end = self._at
        self._expected = _AT_LINE

    def _path(self) -> bytes:
        method = self.method
        assert method is not None
        return path_of(method, bytes(self.received[self._target_begin : self._target_end]))

    def _head(self) -> RequestHead:
        method, received = self.method, self.received
        assert method is not None
        target = bytes(received[self._target_begin : self._target_end])
        lines = bytes(received[self._lines_begin : self._at - 2])
        return RequestHead(method, target, self._path(), self._minor, lines, self._at)


def path_of(method: bytes, target: bytes) -> bytes:
    """The path and query of a request target, by its form (RFC 9112, section 3.2). Raises BadRequest.

    origin-form: itself. absolute-form: what follows the authority. `*` and CONNECT's authority: themselves.
    """
    if target.startswith(b"/"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        return absolute[1] if absolute[1].startswith(b"/") else b"/" + absolute[1]
    if (target == b"*" and method == b"OPTIONS") or (method == b"CONNECT" and _AUTHORITY.fullmatch(target)):
        return target
    raise BadRequest(400, "the request target has no form that HTTP/1.1 knows")


def error_response(
    status: int,
    why: str,
    method: bytes | None = None,
    *,
    keep_alive: bool = False,
    later: int = 0,
    minor: bool = True,
) -> bytes:
    """A whole answer that refuses a request. method: of the request, None when unknown. keep_alive: another request may
    follow; else the answer ends the connection. later: Retry-After, seconds until the client may come again (RFC 9110,
    10.2.3); 0: nothing is said of it. minor: False for a client of HTTP/1.0, which is told that it may go on."""
    connection = "Connection: close\r\n" if not keep_alive else "" if minor else "Connection: keep-alive\r\n"
    again = f"Retry-After: {later}\r\n" if later else ""
    body = b"" if method == b"HEAD" else _body(status, why)
    return (
        f"HTTP/1.1 {status} {REASONS[status]}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(_body(status, why))}\r\n"
        "Cache-Control: no-store\r\n"
        f"{again}{connection}\r\n"
    ).encode("ascii") + body


def _body(status: int, why: str) -> bytes:
    return f"{status} {REASONS[status]}\nktcpvs: {why}\n".encode()
