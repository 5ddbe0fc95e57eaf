"""Where a message's body ends (RFC 9112, section 6 and 7): found while it streams, never collected.

Each frame is fed what comes and says how many of those bytes are the body's; the rest belongs to the next message.
"""

from __future__ import annotations

import re

CHUNK_LINE_BYTES = 4096
"""The longest line that announces a chunk, its extensions included."""

TRAILER_BYTES = 16384
"""The most bytes of trailer fields."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"

# In a line that announces a chunk white space stands within quotes only. RFC 9112, section 7.1.1, has readers bear with
# it around `;` and `=`, and some bear with it before the line end: where readers differ, two of them could see other
# chunks, and no sender of today writes it. Refused.
_QUOTED = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+\""
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:;%b(?:=(?:%b|%b))?)*+\r\n" % (_TOKEN, _TOKEN, _QUOTED))
_CHUNK_LINE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,15}+(?:;[\t -~\x80-\xff]*+)?\r?")

# Fields that say how the message is framed, where it goes, who sends it or what its connection is for come before the
# body or not at all (RFC 9110, section 6.5.1). A name such as Content_Length could be taken for the real one.
_TRAILER_LINE = re.compile(
    rb"(?!(?i:content[^a-z0-9:]length|transfer[^a-z0-9:]encoding|host|connection|proxy-connection|keep-alive|te|trailer"
    rb"|upgrade|http2-settings|expect|content-encoding|content-type|content-range|authorization|proxy-authorization"
    rb"|cookie|forwarded|x-forwarded-[^:]++|x-real-ip):)"
    rb"%b:[\t -~\x80-\xff]*+\r\n" % _TOKEN
)
_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class BadFrame(Exception):
    """The body is not framed as its head says; str() tells how."""


class Length:
    """A body of `left` bytes."""

    __slots__ = ("left",)

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

    def feed(self, data: bytes) -> int:
        """All of these bytes are the body's."""
        return len(data)


class Chunked:
    """A chunked body: sizes, extensions and trailers are checked as they pass, and pass as they are."""

    __slots__ = ("_left", "_line", "_state", "_trailers", "done")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0  # bytes of the current chunk that are still to come, its line end included
        self._line = b""  # the beginning of a line that came in pieces
        self._trailers = 0
        self.done = False

    def feed(self, data: bytes) -> int:
        """How many of these bytes are the body's. Raises BadFrame."""
        position = 0
        while position < len(data) and not self.done:
            if self._state == _DATA:
                taken = min(self._left, len(data) - position)
                position += taken
                self._left -= taken
                if not self._left:
                    self._state = _DATA_END
            elif self._state == _DATA_END:
                position = self._expect_line_end(data, position)
            else:
                position = self._take_line(data, position)
        return position

    def _expect_line_end(self, data: bytes, position: int) -> int:
        wanted = b"\r\n"[len(self._line) : len(self._line) + 1]
        if data[position : position + 1] != wanted:
            raise BadFrame("a chunk is not as long as its size says")
        self._line += wanted
        if self._line == b"\r\n":
            self._line, self._state = b"", _SIZE
        return position + 1

    def _take_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        if end < 0:
            self._line += data[position:]
            self._check_beginning()
            return len(data)
        line = self._line + data[position : end + 1]
        self._line = b""
        if self._state == _SIZE:
            self._size(line)
        else:
            self._trailer(line)
        return end + 1

    def _check_beginning(self) -> None:
        """A line that can no longer become a good one is refused before it ends."""
        most = CHUNK_LINE_BYTES if self._state == _SIZE else TRAILER_BYTES
        if len(self._line) > most:
            raise BadFrame(f"a line of a chunked body is longer than {most} bytes")
        if self._state == _SIZE and not _CHUNK_LINE_BEGUN.fullmatch(self._line):
            raise BadFrame("a chunk size is no hexadecimal number, or too large")

    def _size(self, line: bytes) -> None:
        size = _CHUNK_LINE.fullmatch(line)
        if size is None or len(line) > CHUNK_LINE_BYTES:
            raise BadFrame("a chunk size is no hexadecimal number, or too large")
        self._left = int(size[1], 16)
        self._state = _DATA if self._left else _TRAILERS

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line)
        if line == b"\r\n":
            self.done = True
        elif self._trailers > TRAILER_BYTES:
            raise BadFrame(f"the trailer fields are longer than {TRAILER_BYTES} bytes")
        elif not _TRAILER_LINE.fullmatch(line):
            raise BadFrame("a trailer field has a form or a name that HTTP/1.1 forbids")


Frame = Length | Chunked | UntilClose
