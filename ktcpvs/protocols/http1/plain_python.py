"""Plain messages: heads that go on as they came, but for a Connection line that is cut out and lines that are added.

Nearly all requests and responses are of this kind. A scanner recognises one in a single pass and makes no list of its
fields. It returns None for every other message, valid or not, which `request` and `response` then read.
"""

from __future__ import annotations

import re

from ktcpvs.protocols.http1.grammar import HOST, REQUEST_HEAD, RESPONSE_HEAD, field_lines_named

_SLASH = ord("/")

# Bound once: CPython 3.11 makes a bound method at each call of a method of an imported name.
_match_request = REQUEST_HEAD.match
_match_response = RESPONSE_HEAD.match
_match_host = HOST.fullmatch
_match_length = re.compile(rb"0|[1-9][0-9]{0,17}").fullmatch

_NOT_PLAIN = (
    "content[^a-z0-9:]length", "transfer[^a-z0-9:]encoding", "proxy-connection", "keep-alive", "te", "upgrade",
    "http2-settings", "expect",
)  # fmt: skip
"""Names of fields with which a request is not plain. A name such as Content_Length counts too: CGI and WSGI make
variables of names, and take it for the real one."""


_find_response_fields = field_lines_named(
    ("content-length", "transfer-encoding", "connection", "proxy-connection", "keep-alive", "upgrade")
).findall


MAX_REPLACED = 16
"""The most names of fields that a scanner looks for besides."""


class PlainRequest:
    """A plain GET, or a request with its whole body.

    data: as it came. out: as it goes on to any server, in HTTP/1.1. method, target: parts of it. lines: its header
    lines, as they came. body: b"" without one. host: the value of Host. minor: False for HTTP/1.0. keep_alive: the
    client may send another request. connection: its Connection line, which `out` lacks; b"" without one. referer,
    user_agent: values of these fields, where the scanner looks for them; None: it does not, or there are none.
    """

    __slots__ = (
        "body", "connection", "data", "host", "keep_alive", "lines", "method", "minor", "out", "referer", "target",
        "user_agent",
    )  # fmt: skip

    body: bytes
    connection: bytes
    data: bytes
    host: bytes
    keep_alive: bool
    lines: bytes
    method: bytes
    minor: bool
    out: bytes
    referer: bytes | None
    target: bytes
    user_agent: bytes | None


class RequestScanner:
    """Recognises plain requests within the limits of a service."""

    __slots__ = ("_find_fields", "_head_lines", "_head_size", "_logs", "_uri_size")

    def __init__(self, head_size: int, head_lines: int, uri_size: int, replaced: frozenset[bytes], logs: bool) -> None:
        """head_size, uri_size: bytes. head_lines: how many there may be. replaced: canonical names of fields that the
        switch replaces, at most MAX_REPLACED: a request with one of them is not plain. logs: look for Referer and
        User-Agent."""
        self._head_size = head_size
        self._head_lines = head_lines
        self._uri_size = uri_size
        self._logs = logs
        names = [*_NOT_PLAIN, *(name.decode().replace("-", "[^a-z0-9:]") for name in sorted(replaced))]
        self._find_fields = field_lines_named(
            ["host", "connection", *names, *(["referer", "user-agent"] * logs)]
        ).findall

    def scan(self, data: bytes, added: bytes) -> PlainRequest | None:
        """Return the plain request that `data` is, as a whole; None when it is anything else.

        added: header lines that the server gets besides, each with its line end.
        """
        found = _match_request(data)
        if found is None or not found.end() == len(data) <= self._head_size:
            return None
        line, method, target, minor, lines = found.groups()
        if method != b"GET" or target[0] != _SLASH or len(target) > self._uri_size:
            return None
        if lines.count(b"\n") > self._head_lines:
            return None
        start = len(line)
        fields = self._read_fields(data, start - 1)
        if fields is None:
            return None
        host, connection, cut, cut_end, referer, user_agent = fields
        request = PlainRequest()
        request.data = data
        request.body = b""
        request.method = method
        request.target = target
        request.lines = lines
        request.host = host
        request.minor = minor != b"0"
        request.keep_alive = connection != b"close" if request.minor else connection == b"keep-alive"
        request.connection = data[cut:cut_end]
        request.referer = referer
        request.user_agent = user_agent
        if minor != b"1":
            line = b"%b %b HTTP/1.1\r\n" % (method, target)
        elif cut == cut_end and not added:
            request.out = data
            return request
        request.out = b"%b%b%b%b\r\n" % (line, data[start:cut], data[cut_end:-2], added)
        return request

    def _read_fields(
        self, data: bytes, begin: int
    ) -> tuple[bytes, bytes | None, int, int, bytes | None, bytes | None] | None:
        """Return the values of Host and Connection, where the line of Connection begins and ends, Referer and
        User-Agent; None when the request is not plain. begin: of the line end before the first field."""
        host = connection = referer = user_agent = None
        cut = cut_end = begin + 1
        for name, value in self._find_fields(data, begin):
            field, value = name.lower(), value.rstrip(b" \t")
            if field == b"host" and host is None:
                host = value
            elif field == b"connection" and connection is None:
                connection = value.lower()
                cut = data.index(b"\n" + name + b":", begin) + 1
                cut_end = data.index(b"\n", cut) + 1
            elif self._logs and field == b"referer":
                referer = value if referer is None else referer
            elif self._logs and field == b"user-agent":
                user_agent = value if user_agent is None else user_agent
            else:
                return None
        if host is None or not _match_host(host) or connection not in (None, b"keep-alive", b"close"):
            return None
        return host, connection, cut, cut_end, referer, user_agent


def scan_response(data: bytes) -> tuple[int, int, int, bytes] | None:
    """Recognise a plain response to a GET at the beginning of `data`: its status, the size of its head, the length of
    its body, and its head as it goes on, without the empty line. None when it is anything else.

    Plain is a final response of HTTP/1.1 below 500 that has a body with a Content-Length, and after which the
    connection to the server may be used again.
    """
    found = _match_response(data)
    if found is None:
        return None
    minor, code, _ = found.groups()
    status = int(code)
    if minor != b"1" or not 200 <= status < 500 or status in (204, 304, 426):
        return None
    length = None
    end = found.end()
    cut = cut_end = end - 2
    for name, value in _find_response_fields(data, found.start(3) - 1, end):
        field, value = name.lower(), value.rstrip(b" \t")
        if field == b"content-length" and length is None:
            if not _match_length(value):
                return None
            length = int(value)
        elif field == b"connection" and cut == end - 2 and value.lower() == b"keep-alive":
            cut = data.index(b"\n" + name + b":", found.start(3) - 1) + 1
            cut_end = data.index(b"\n", cut) + 1
        else:
            return None
    if length is None:
        return None
    return status, end, length, data[:cut] + data[cut_end : end - 2]
