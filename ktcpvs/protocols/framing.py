"""Where a message's body ends (RFC 9112, section 6 and 7): found while it streams, never collected.

Each frame is fed what comes and says how many of those bytes are the body's; the rest belongs to the next message. A
loose form that all recipients read alike goes on in the strict form.
"""

from __future__ import annotations

import re

from ktcpvs.protocols.names import canonical

CHUNK_LINE_BYTES = 4096
"""The longest line that announces a chunk, its extensions included."""

TRAILER_BYTES = 16384
"""The most bytes of trailer fields."""

COST_AT_ONCE = 512
"""How much of a chunked body is read by one call: a line costs 1, and 1 more for each 64 bytes of it. Tiny chunks and
long extensions cost a hundred times what other bytes cost."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+\""
_VALUE = rb"(?:%b|%b)" % (_TOKEN, _QUOTED)

# The line that announces a chunk in the form that goes on, and in the form that is accepted: RFC 9112, section 7.1.1,
# has recipients accept blanks around `;` and `=`, and senders pad sizes with them. Blanks before the size stay refused.
_STRICT_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:;%b(?:=%b)?)*+\r\n" % (_TOKEN, _VALUE))
_LOOSE_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15}+)((?:[\t ]*+;[\t ]*+%b(?:[\t ]*+=[\t ]*+%b)?+)*+)[\t ]*+\r\n" % (_TOKEN, _VALUE)
)
_EXTENSION = re.compile(rb"[\t ]*+;[\t ]*+(%b)(?:[\t ]*+=[\t ]*+(%b))?+" % (_TOKEN, _VALUE))
_SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,15}+[\t ]*+(?:;[\t -~\x80-\xff]*+)?\r?")

_TRAILER_LINE = re.compile(rb"(%b):[\t -~\x80-\xff]*+\r\n" % _TOKEN)

_REFUSED_TRAILERS = frozenset((b"content-length", b"transfer-encoding", b"host"))
"""A trailer field of such a name, or of one that a program could take for it, is an attempt to be read in two ways."""

_DROPPED_TRAILERS = frozenset(
    b"connection proxy-connection keep-alive te trailer upgrade http2-settings expect content-encoding content-type"
    b" content-range authorization proxy-authorization cookie forwarded via x-real-ip".split()
)
"""Trailer fields that mean something before the body only (RFC 9110, section 6.5.1): they do not go on, and nor do
those whose names begin with X-Forwarded-."""

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class BadFrame(Exception):
    """The body is not framed as its head says; str() tells how."""


class Length:
    """A body of `left` bytes."""

    __slots__ = ("left",)
    onward = None

    def __init__(self, left: int) -> None:
        self.left = left

    @property
    def done(self) -> bool:
        return self.left == 0

    def feed(self, data: bytes) -> int:
        """How many of these bytes are the body's."""
        taken = min(self.left, len(data))
        self.left -= taken
        return taken


class UntilClose:
    """A response body that ends when the server closes."""

    __slots__ = ()
    done = False
    onward = None

    def feed(self, data: bytes) -> int:
        """All of these bytes are the body's."""
        return len(data)


class Chunked:
    """A chunked body: sizes, extensions and trailer fields are checked as they pass.

    onward: the bytes that go on for the ones that were fed last; None: those that were taken, as they came. A line goes
    on when it is complete, and in its strict form. held: the bytes of a line that is not complete yet. done: the body
    has ended.
    """

    __slots__ = ("_decode", "_left", "_line", "_state", "_trailers", "done", "onward")

    def __init__(self, *, decode: bool = False) -> None:
        """decode: only the content goes on, without sizes and trailer fields, for a recipient of HTTP/1.0."""
        self._decode = decode
        self._state = _SIZE
        self._left = 0  # bytes of the current chunk that are still to come
        self._line = b""  # the beginning of a line that came in pieces
        self._trailers = 0
        self.done = False
        self.onward: bytes | None = None

    @property
    def held(self) -> bytes:
        return self._line if self._state in (_SIZE, _TRAILERS) else b""

    def feed(self, data: bytes) -> int:
        """How many of these bytes are the body's. Raises BadFrame.

        When that is not all and the body is not done, reading it takes long: feed the rest in another turn.
        """
        out: list[bytes] = []
        position = begin = cost = 0  # what stands between begin and position goes on as it came
        while position < len(data) and not self.done and cost < COST_AT_ONCE:
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
        wanted = b"\r\n"[len(self._line) :]
        came = data[position : position + len(wanted)]
        if not wanted.startswith(came):
            raise BadFrame("a chunk is not as long as its size says")
        self._line += came
        if self._line == b"\r\n":
            self._line, self._state = b"", _SIZE
        return position + len(came)

    def _take_line(self, data: bytes, position: int) -> tuple[int, bytes | None]:
        """Where the line ends, or what has come of it; and what goes on for it, None: as it came."""
        end = data.find(b"\n", position)
        if end < 0:
            self._line += data[position:]
            self._check_beginning()
            return len(data), b""
        came = data[position : end + 1]
        line = self._line + came if self._line else came
        self._line = b""
        strict = self._size(line) if self._state == _SIZE else self._trailer(line)
        if self._decode:
            strict = b""
        return end + 1, None if strict is came else strict

    def _check_beginning(self) -> None:
        """A line that can no longer become a good one is refused before it ends."""
        most = CHUNK_LINE_BYTES if self._state == _SIZE else TRAILER_BYTES
        if len(self._line) > most:
            raise BadFrame(f"a line of a chunked body is longer than {most} bytes")
        if self._state == _SIZE and not _SIZE_BEGUN.fullmatch(self._line):
            raise BadFrame("a chunk size is no hexadecimal number, or too large")

    def _size(self, line: bytes) -> bytes:
        """The line that goes on for this one."""
        size = _STRICT_SIZE.fullmatch(line)
        if size is None:
            size = _LOOSE_SIZE.fullmatch(line)
        if size is None or len(line) > CHUNK_LINE_BYTES:
            raise BadFrame("a chunk size is no hexadecimal number, or too large")
        self._left = int(size[1], 16)
        self._state = _DATA if self._left else _TRAILERS
        if size.re is _STRICT_SIZE:
            return line
        extensions = [
            b";%b=%b" % (name, value) if value else b";" + name for name, value in _EXTENSION.findall(size[2])
        ]
        return b"%b%b\r\n" % (size[1], b"".join(extensions))

    def _trailer(self, line: bytes) -> bytes:
        """The line that goes on for this one."""
        self._trailers += len(line)
        if line == b"\r\n":
            self.done = True
            return line
        if self._trailers > TRAILER_BYTES:
            raise BadFrame(f"the trailer fields are longer than {TRAILER_BYTES} bytes")
        field = _TRAILER_LINE.fullmatch(line)
        if field is None:
            raise BadFrame("a trailer field has a form that HTTP/1.1 forbids")
        name = canonical(field[1])
        if name in _REFUSED_TRAILERS:
            raise BadFrame("a trailer field has a name that only a field before the body may have")
        return b"" if name in _DROPPED_TRAILERS or name.startswith(b"x-forwarded-") else line


Frame = Length | Chunked | UntilClose
