"""Reads the head of a request that comes in pieces, or that is not HTTP/1 at all.

A complete head is recognised faster by grammar.REQUEST_HEAD, as `read_whole_head` does. The reader is for everything
else: it refuses a head at the first byte with which the head can no longer become valid, however it is split, and looks
at each byte once. It consumes nothing: `HeadReader.received` holds every byte that came.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attrs import frozen

from ktcpvs.protocols.http1.errors import BadRequest
from ktcpvs.protocols.http1.grammar import (
    FIELD_LINES,
    FIELD_VALUE,
    MAX_METHOD_BYTES,
    REQUEST_HEAD,
    TARGET,
    TOKEN,
    beginning_of,
)
from ktcpvs.protocols.http1.target import path_of

# The same parts as in grammar.REQUEST_HEAD, each of which may have come in part or not at all.
_NAME_BEGUN = re.compile(rb"(?:%b)?" % TOKEN)
_TARGET_BEGUN = re.compile(rb"(?:%b)?" % TARGET)
_VALUE_BEGUN = re.compile(FIELD_VALUE)
_LINES_BEGUN = re.compile(FIELD_LINES)
_VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])\r\n")
_VERSION_BEGUN = re.compile(beginning_of((b"H", b"T", b"T", b"P", b"/", b"[0-9]", rb"\.", b"[0-9]", rb"\r")))

_VERSION_BYTES = len(b"HTTP/1.1\r\n")

# States of a reader of heads: the part that it expects next.
_AT_START, _IN_METHOD, _IN_TARGET, _IN_VERSION, _AT_LINE, _IN_NAME, _IN_VALUE, _AT_LF, _AT_LAST_LF, _COMPLETE = range(
    10
)


@frozen
class RequestHead:
    """A request's head.

    method, target: raw bytes. path: the path and query of the target, for rules to match. minor: 0 or 1, of HTTP/1.x.
    lines: the raw header lines, each with its line end. size: bytes of the whole head, from the first byte that came,
    empty lines before the request included.
    """

    method: bytes
    target: bytes
    path: bytes
    minor: int
    lines: bytes
    size: int


def read_whole_head(data: bytes, max_size: int, max_lines: int, max_target: int) -> RequestHead | None:
    """Return the head with which `data` begins, as a HeadReader with these limits does; None for everything that needs
    one: a head that is not complete, that empty lines precede, or that is refused."""
    found = REQUEST_HEAD.match(data)
    if found is None or found.end() > max_size:
        return None
    _, method, target, minor, lines = found.groups()
    if not target.startswith(b"/") or len(target) > max_target or lines.count(b"\n") > max_lines:
        return None
    return RequestHead(method, target, target, 0 if minor == b"0" else 1, lines, found.end())


class HeadReader:
    """Collects bytes until a request's head is complete, and checks them as they come.

    max_size: bytes. max_lines: header lines. max_target: bytes of the request target; None: as many as fit in the head.
    check_lines: called with header lines once they are complete, while the head is not, and with the version, True for
    HTTP/1.1; it may raise BadRequest. None: the reader checks their form alone.
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
        self._at = 0  # the bytes before it have been checked; it stays at the beginning of a version
        self._begin = 0  # where the request line begins, after empty lines
        self._target_begin = self._target_end = self._lines_begin = 0
        self._lines_checked = self._lines_end = 0  # where the lines end that `check_lines` got, and the complete ones
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
        """Take more bytes; return the head when it is complete, else None. Raises BadRequest."""
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
                raise BadRequest(400, "empty lines without a request")
            status = 431 if self._expected > _IN_VERSION else 414
            raise BadRequest(status, f"the head of the request is longer than {self._max_size} bytes")
        return None

    def _check(self, end: int) -> None:
        """Check the bytes before `end` that have not been checked. Raises BadRequest."""
        if self._expected <= _IN_VERSION:
            self._check_request_line(end)
        received = self.received
        while self._at < end and _IN_VERSION < self._expected < _COMPLETE:
            expected = self._expected
            if expected == _AT_LINE:
                self._complete_lines(end)
            elif expected == _IN_NAME:
                self._skip(_NAME_BEGUN, end, b":", _IN_VALUE, "a header line has a malformed name or no colon")
            elif expected == _IN_VALUE:
                self._skip(_VALUE_BEGUN, end, b"\r", _AT_LF, "a header line contains a control character")
            else:
                if received[self._at] != 0x0A:
                    raise BadRequest(400, "a header line contains a CR without LF")
                self._at += 1
                if expected == _AT_LF:
                    self._expected = _AT_LINE
                    self._lines_end = self._at
                    self._count(1)
                else:
                    self._expected = _COMPLETE

    def _skip(self, allowed: re.Pattern[bytes], end: int, then: bytes, expected: int, why: str) -> None:
        """Pass over the bytes that are allowed here, and over `then`, which must follow them."""
        found = allowed.match(self.received, self._at, end)
        assert found is not None  # it may be empty
        self._at = found.end()
        if self._at < end:
            if self.received[self._at] != then[0]:
                raise BadRequest(400, why)
            self._at += 1
            self._expected = expected

    def _complete_lines(self, end: int) -> None:
        """Pass over the header lines that are complete, and enter the one that is not."""
        found = _LINES_BEGUN.match(self.received, self._at, end)
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
            found = _NAME_BEGUN.match(received, self._at, end)
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
            self._skip(_TARGET_BEGUN, min(end, longest), b" ", _IN_VERSION, "malformed request line")
            self._target_end = self._at - (self._expected == _IN_VERSION)
            if self._target_end == longest:
                raise BadRequest(414, f"the request target is longer than {self._max_target} bytes")
            if self._expected == _IN_VERSION and self._target_end == self._target_begin:
                raise BadRequest(400, "malformed request line")
        if self._expected == _IN_VERSION:
            self._check_version(end)

    def _check_version(self, end: int) -> None:
        begun = self.received[self._at : min(end, self._at + _VERSION_BYTES)]
        version = _VERSION.fullmatch(begun)
        if version is None:
            if begun and not _VERSION_BEGUN.fullmatch(begun):
                raise BadRequest(400, "malformed request line")
            return
        if version[1] != b"1":
            raise BadRequest(505, f"HTTP/{version[1].decode()} is not supported here; use HTTP/1.1")
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
