"""The body of an HTTP/1 message: how long it is, and where it ends (RFC 9112, sections 6 and 7).

A frame finds the end of a body while it streams, and collects nothing: it is fed the bytes that come and says how many
of them belong to the body; the others belong to the next message. A form that two recipients could read differently is
refused. A loose form that all recipients read alike is accepted and forwarded in the strict form.
"""

from __future__ import annotations

import re

from ktcpvs.protocols.http1.errors import BadFrame, BadMessage, BadRequest, BadResponse
from ktcpvs.protocols.http1.field_names import canonical
from ktcpvs.protocols.http1.grammar import QUOTED_STRING, TEXT_CHAR, TOKEN

MAX_CHUNK_LINE_BYTES = 4096
"""The longest line that announces a chunk, its extensions included."""

MAX_TRAILER_BYTES = 16384
"""The most bytes of trailer fields."""

MAX_COST_PER_CALL = 512
"""The most work of one call on a chunked body: a line costs 1, and 1 more for each 64 bytes of it. Tiny chunks and long
extensions cost a hundred times as much as other bytes."""

CHUNKED = -1
"""As a length: the body is chunked."""

MAX_LENGTH_DIGITS = 18
"""A Content-Length with more digits, leading zeros not counted, is refused: some recipients would overflow."""

_NUMBER = re.compile(rb"[0-9]++")
_CODING = re.compile(rb"(%b)([\t ]*+;%b*+)?+" % (TOKEN, TEXT_CHAR))

# The line that announces a chunk, in the form that is forwarded and in the form that is accepted: RFC 9112, section
# 7.1.1, has recipients accept blanks around `;` and `=`, and some senders pad sizes with them. Blanks before the size
# are refused.
_EXTENSION_VALUE = rb"(?:%b|%b)" % (TOKEN, QUOTED_STRING)
_STRICT_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:;%b(?:=%b)?)*+\r\n" % (TOKEN, _EXTENSION_VALUE))
_LOOSE_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15}+)((?:[\t ]*+;[\t ]*+%b(?:[\t ]*+=[\t ]*+%b)?+)*+)[\t ]*+\r\n" % (TOKEN, _EXTENSION_VALUE)
)
_EXTENSION = re.compile(rb"[\t ]*+;[\t ]*+(%b)(?:[\t ]*+=[\t ]*+(%b))?+" % (TOKEN, _EXTENSION_VALUE))
_SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,15}+[\t ]*+(?:;%b*+)?\r?" % TEXT_CHAR)

_TRAILER_LINE = re.compile(rb"(%b):%b*+\r\n" % (TOKEN, TEXT_CHAR))

_REFUSED_TRAILERS = frozenset((b"content-length", b"transfer-encoding", b"host"))
"""A trailer field with such a name, or with one that a program could take for it, is an attempt to be read in two
ways."""

_DROPPED_TRAILERS = frozenset(
    b"connection proxy-connection keep-alive te trailer upgrade http2-settings expect content-encoding content-type"
    b" content-range authorization proxy-authorization cookie forwarded via x-real-ip".split()
)
"""Trailer fields that mean something before the body only (RFC 9110, section 6.5.1): they are dropped, and so are those
whose names begin with X-Forwarded-."""

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


def body_length(lengths: list[bytes], codings: list[bytes], minor: bool, *, is_request: bool) -> tuple[int, bool]:
    """Return the body's length in bytes, CHUNKED, or 0 without these fields; and whether it came in the strict form.

    lengths, codings: the values of all fields Content-Length and Transfer-Encoding, without blanks around them. minor:
    False for HTTP/1.0. A message in a loose form must be forwarded with `Content-Length: N` as the only field of that
    name, or with none if the body is chunked. Raises BadRequest (400, or 501 for an unknown coding) or BadResponse.
    """
    if not codings:
        return _content_length(lengths, is_request) if lengths else (0, True)
    if lengths and is_request:
        raise BadRequest(400, "Content-Length and Transfer-Encoding in one request")
    if lengths:  # in a response chunked overrides it
        _content_length(lengths, is_request)
    if not minor:
        raise _bad(is_request, "Transfer-Encoding in HTTP/1.0")
    if codings == [b"chunked"] or (len(codings) == 1 and codings[0].lower() == b"chunked"):
        return CHUNKED, not lengths
    raise _bad_coding(codings, is_request)


def _bad(is_request: bool, why: str, status: int = 400) -> BadMessage:
    return BadRequest(status, why) if is_request else BadResponse(f"the server's response: {why}")


def _content_length(lengths: list[bytes], is_request: bool) -> tuple[int, bool]:
    value = lengths[0]
    has_one_number = len(lengths) == 1 and value.isdigit()
    if has_one_number and len(value) <= MAX_LENGTH_DIGITS and (value[:1] != b"0" or value == b"0"):
        return int(value), True
    # RFC 9110, section 8.6: several equal values may be read as one.
    numbers = {_number(element.strip(b" \t"), is_request) for value in lengths for element in value.split(b",")}
    if len(numbers) > 1:
        raise _bad(is_request, "two different values of Content-Length")
    return numbers.pop(), False


def _number(text: bytes, is_request: bool) -> int:
    """One value. Leading zeros do no harm where a recipient that takes the number for octal reads the same one."""
    digits = text.lstrip(b"0") or b"0"
    if not _NUMBER.fullmatch(text) or len(digits) > MAX_LENGTH_DIGITS:
        raise _bad(is_request, f"Content-Length is not a number of at most {MAX_LENGTH_DIGITS} digits")
    if is_request and len(text) > 1 and text[:1] == b"0" and (len(digits) > 1 or digits > b"7"):
        raise BadRequest(400, "Content-Length begins with 0, which some recipients read as octal")
    return int(digits)


def _bad_coding(codings: list[bytes], is_request: bool) -> BadMessage:
    """Return the error about transfer codings that are not accepted: every coding but `chunked` is unknown (RFC 9112,
    section 6.1)."""
    found = [_CODING.fullmatch(element.strip(b" \t")) for value in codings for element in value.split(b",")]
    if all(found) and any(coding is not None and coding[1].lower() != b"chunked" for coding in found):
        return _bad(is_request, "Transfer-Encoding names a coding other than chunked", 501)
    return _bad(is_request, "Transfer-Encoding is not chunked, once and without parameters")


class Length:
    """A frame whose body has a Content-Length. left: bytes that are still to come."""

    __slots__ = ("left",)
    onward = None

    def __init__(self, left: int) -> None:
        self.left = left

    @property
    def done(self) -> bool:
        return self.left == 0

    def feed(self, data: bytes) -> int:
        """Return how many of these bytes belong to the body."""
        taken = min(self.left, len(data))
        self.left -= taken
        return taken


class UntilClose:
    """A frame of a response whose body ends when the server closes the connection."""

    __slots__ = ()
    done = False
    onward = None

    def feed(self, data: bytes) -> int:
        """All of these bytes belong to the body."""
        return len(data)


class Chunked:
    """A frame of a chunked body: it checks sizes, extensions and trailer fields as they pass.

    onward: the bytes to send on in place of those that the last call of feed() took; None: the same bytes. A line goes
    on when it is complete, and in its strict form. held: the bytes of a line that is not complete yet. done: the body
    has ended. trailer_lines: the trailer fields that go on.
    """

    __slots__ = ("_decode", "_left", "_line", "_state", "_trailers", "done", "onward", "trailer_lines")

    def __init__(self, *, decode: bool = False) -> None:
        """decode: send on the content alone, without sizes and trailer fields, for a recipient that does not speak
        HTTP/1.1."""
        self._decode = decode
        self._state = _SIZE
        self._left = 0  # bytes of the current chunk that are still to come
        self._line = b""  # the beginning of a line that came in pieces
        self._trailers = 0
        self.done = False
        self.onward: bytes | None = None
        self.trailer_lines = b""

    @property
    def held(self) -> bytes:
        return self._line if self._state in (_SIZE, _TRAILERS) else b""

    def feed(self, data: bytes) -> int:
        """Return how many of these bytes belong to the body. Raises BadFrame.

        When that is not all of them although the body is not done, reading them takes long: feed the rest in another
        turn of the reactor.
        """
        out: list[bytes] = []
        position = begin = cost = 0  # data[begin:position] is forwarded as it came
        while position < len(data) and not self.done and cost < MAX_COST_PER_CALL:
            if self._state == _DATA:
                taken = min(self._left, len(data) - position)
                position += taken
                self._left -= taken
                if not self._left:
                    self._state = _DATA_END
                continue
            line_begin = position
            if self._state == _DATA_END:
                position = self._expect_line_end(data, position)
                goes_on: bytes | None = b"" if self._decode else None
            else:
                position, goes_on = self._take_line(data, position)
                cost += 1 + ((position - line_begin) >> 6)
            if goes_on is not None:
                out += (data[begin:line_begin], goes_on)
                begin = position
        self.onward = b"".join((*out, data[begin:position])) if out else None
        return position

    def _expect_line_end(self, data: bytes, position: int) -> int:
        expected = b"\r\n"[len(self._line) :]
        came = data[position : position + len(expected)]
        if not expected.startswith(came):
            raise BadFrame("a chunk does not end where its size says")
        self._line += came
        if self._line == b"\r\n":
            self._line, self._state = b"", _SIZE
        return position + len(came)

    def _take_line(self, data: bytes, position: int) -> tuple[int, bytes | None]:
        """Return the end of the line, or of its part in `data`, and what to forward; None: the same bytes."""
        end = data.find(b"\n", position)
        if end < 0:
            self._line += data[position:]
            self._check_beginning()
            return len(data), b""
        came = data[position : end + 1]
        line = self._line + came if self._line else came
        self._line = b""
        if self._state == _SIZE:
            strict = self._size(line)
        else:
            strict = self._trailer(line)
            if not self.done:
                self.trailer_lines += strict
        if self._decode:
            strict = b""
        return end + 1, None if strict is came else strict

    def _check_beginning(self) -> None:
        """Refuse a line that can no longer become a good one before it ends."""
        most = MAX_CHUNK_LINE_BYTES if self._state == _SIZE else MAX_TRAILER_BYTES
        if len(self._line) > most:
            raise BadFrame(f"a line of a chunked body is longer than {most} bytes")
        if self._state == _SIZE and not _SIZE_BEGUN.fullmatch(self._line):
            raise BadFrame("a chunk size is not a hexadecimal number of at most 15 digits")

    def _size(self, line: bytes) -> bytes:
        """Return the line to forward."""
        size = _STRICT_SIZE.fullmatch(line)
        if size is None:
            size = _LOOSE_SIZE.fullmatch(line)
        if size is None or len(line) > MAX_CHUNK_LINE_BYTES:
            raise BadFrame("a chunk size is not a hexadecimal number of at most 15 digits")
        self._left = int(size[1], 16)
        self._state = _DATA if self._left else _TRAILERS
        if size.re is _STRICT_SIZE:
            return line
        extensions = [
            b";%b=%b" % (name, value) if value else b";" + name for name, value in _EXTENSION.findall(size[2])
        ]
        return b"%b%b\r\n" % (size[1], b"".join(extensions))

    def _trailer(self, line: bytes) -> bytes:
        """Return the line to forward."""
        self._trailers += len(line)
        if line == b"\r\n":
            self.done = True
            return line
        if self._trailers > MAX_TRAILER_BYTES:
            raise BadFrame(f"the trailer fields are longer than {MAX_TRAILER_BYTES} bytes")
        field = _TRAILER_LINE.fullmatch(line)
        if field is None:
            raise BadFrame("malformed trailer field")
        name = canonical(field[1])
        if name in _REFUSED_TRAILERS:
            raise BadFrame("a trailer field has a name that is allowed only before the body")
        return b"" if name in _DROPPED_TRAILERS or name.startswith(b"x-forwarded-") else line


Frame = Length | Chunked | UntilClose


_match_chunk = re.compile(rb"([0-9A-Fa-f]{1,15}+)\r\n").match


def chunks_end(data: bytes, begin: int) -> int:
    """Return where the trailer section of a chunked body begins, behind the line of its last chunk; -1 if the chunks
    are not complete, or not in the strict form without extensions. begin: of the body."""
    for _ in range(MAX_COST_PER_CALL):
        size = _match_chunk(data, begin)
        if size is None:
            return -1
        begin = size.end()
        length = int(size[1], 16)
        if not length:
            return begin
        begin += length + 2
        if data[begin - 2 : begin] != b"\r\n":
            return -1
    return -1
