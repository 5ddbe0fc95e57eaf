"""The head of an HTTP/1 request (RFC 9112, sections 2 to 5), and the answers with which the switch refuses one.

A reader looks and never eats: `HeadReader.feed` gives a RequestHead, None for "more is needed", or raises
BadRequest, and `HeadReader.received` holds every byte that came, as it came.
"""

from __future__ import annotations

import re

from attrs import frozen

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(%b++) ([\x21\x22\x24-\x7e\x80-\xff]++) HTTP/1\.([01])\r\n" % _TOKEN)
_HEADER_LINES = re.compile(rb"(?:%b++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n" % _TOKEN)
_HEAD_END = re.compile(rb"\n\r?\n")
_METHOD_START = re.compile(rb"%b{1,%d}(?: |\Z)" % (_TOKEN, 64))
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+://[^/?#]++([^#]*+)")
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]++\]|[^/?#@:\[\]]++):[0-9]{1,5}")

REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


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
    """Collects bytes until a request's head is complete. max_size: bytes. max_lines: header lines."""

    __slots__ = ("_begin", "_line_seen", "_looked", "_max_lines", "_max_size", "_started", "received")

    def __init__(self, max_size: int, max_lines: int) -> None:
        self.received = bytearray()
        self._begin = 0  # where the request line begins, after empty lines
        self._looked = 0  # no line end of interest stands before this
        self._started = False  # the method was seen and is one
        self._line_seen = False  # the request line was seen and is one
        self._max_size = max_size
        self._max_lines = max_lines

    def feed(self, data: bytes) -> RequestHead | None:
        """Take what came; the head when it is complete, else None. Raises BadRequest."""
        received = self.received
        received += data
        if not self._started and not self._start():
            return None
        end = _HEAD_END.search(received, max(self._looked - 3, self._begin))
        self._looked = len(received)
        if end is not None and end.end() <= self._max_size:
            return self._head(end.end())
        if len(received) >= self._max_size:
            line_end = received.find(b"\n", self._begin)
            raise BadRequest(
                431 if 0 <= line_end < self._max_size else 414,
                f"the request's head is longer than {self._max_size} bytes",
            )
        if not self._line_seen and received.find(b"\n", self._begin) >= 0:
            self._request_line()
        return None

    def _start(self) -> bool:
        """True when a method stands at the beginning, or its first bytes do. Empty lines before it are skipped."""
        received = self.received
        while received.startswith(b"\r\n", self._begin) and self._begin < self._max_size:
            self._begin += 2
        rest = received[self._begin : self._begin + 65]
        if not rest or rest == b"\r":
            if self._begin >= self._max_size:
                raise BadRequest(400, "nothing but empty lines")
            return False
        begun = _METHOD_START.match(rest)
        if begun is None:
            raise BadRequest(400, "this is not HTTP")
        self._started = begun[0].endswith(b" ")
        return self._started

    def _request_line(self) -> re.Match[bytes]:
        line = _REQUEST_LINE.match(self.received, self._begin)
        if line is None:
            raise BadRequest(400, "this is not a request line of HTTP/1")
        self._line_seen = True
        return line

    def _head(self, end: int) -> RequestHead:
        received = self.received
        line = self._request_line()
        fields = _HEADER_LINES.fullmatch(received, line.end(), end)
        if fields is None:
            raise BadRequest(400, "a header line has a form that HTTP/1.1 forbids")
        lines = fields[0][:-2]
        if lines.count(b"\n") > self._max_lines:
            raise BadRequest(431, f"the request has more than {self._max_lines} header lines")
        return RequestHead(line[1], line[2], path_of(line[1], line[2]), int(line[3]), bytes(lines), end)


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
    status: int, why: str, method: bytes | None = None, *, keep_alive: bool = False, later: int = 0
) -> bytes:
    """A whole answer that refuses a request. method: of the request, None when unknown. keep_alive: another request may
    follow; else the answer ends the connection. later: Retry-After, seconds until the client may come again (RFC 9110,
    10.2.3); 0: nothing is said of it."""
    connection = "" if keep_alive else "Connection: close\r\n"
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
