"""Responses: which head the switch accepts, where the body ends, and the head that is sent to the client."""

from __future__ import annotations

import re

from ktcpvs.protocols.http1.body import CHUNKED, Chunked, Frame, Length, UntilClose, body_length
from ktcpvs.protocols.http1.errors import BadResponse
from ktcpvs.protocols.http1.grammar import RESPONSE_HEAD, TOKEN, beginning_of, field_lines_named, split_list
from ktcpvs.protocols.http1.hop_by_hop import FRAMING_FIELDS, OPTIONS_WITHOUT_FIELD, connection_lines, without
from ktcpvs.protocols.http1.upgrade import requested

_find_fields = field_lines_named(
    ("content-length", "transfer-encoding", "connection", "proxy-connection", "keep-alive", "upgrade")
).findall
_OPTION = re.compile(TOKEN)
_HEAD_BEGUN = re.compile(beginning_of((b"H", b"T", b"T", b"P", b"/", b"1", rb"\.", b"[0-9]", b" .*+")), re.DOTALL)
_HEAD_END = re.compile(rb"\n\r?\n")

# Bound once: CPython 3.11 makes a bound method at each call of a method of an imported name.
_match_head = RESPONSE_HEAD.match

_NONE: frozenset[bytes] = frozenset()
_CONTENT_LENGTH = frozenset((b"content-length",))
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class Response:
    """A response's head, read together with the request that it answers.

    keep_alive: the connection to the server may be used again. head: as it is sent to the client, without the empty
    line. length: of the body in bytes; None when only the frame can tell. frame: finds the end of the body.
    until_close: the body ends when the server closes the connection. is_delimited: the client sees where the body ends
    without a closed connection. upgrade: the elements of its Upgrade. whole: the head as it came.
    """

    __slots__ = (
        "frame", "head", "is_delimited", "keep_alive", "length", "status", "until_close", "upgrade", "whole",
    )  # fmt: skip

    def __init__(self, found: re.Match[bytes], whole: bytes, method: bytes, minor: bool = True) -> None:
        """found: a match of RESPONSE_HEAD in `whole`. method: of the request. minor: False when the client speaks
        HTTP/1.0, which has no chunked coding. Raises BadResponse."""
        version, status, lines = found.groups()
        self.status = int(status)
        self.keep_alive = version != b"0"
        self.upgrade: list[bytes] = []
        lengths: list[bytes] = []
        codings: list[bytes] = []
        options: list[bytes] = []
        ends_here = False
        for name, value in _find_fields(b"\n" + lines):
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
                    self.upgrade += split_list([value.rstrip()])
        if options:
            if not FRAMING_FIELDS.isdisjoint(options):
                raise BadResponse("the server's response: Connection names Host, Content-Length or Transfer-Encoding")
            self.keep_alive = b"close" not in options and (self.keep_alive or b"keep-alive" in options)
        self.whole = whole[: found.end()]
        self.frame, dropped, added = self._frame(method, lengths, codings, version != b"0", minor)
        if self.status == 426:  # RFC 9110, section 15.5.22: it says to which protocols the client should switch
            added += connection_lines(False, requested(self.upgrade))
        self.length = self.frame.left if isinstance(self.frame, Length) else None
        if ends_here or dropped or version != b"1":
            names = (frozenset(options) - OPTIONS_WITHOUT_FIELD) | dropped
            self.head = b"HTTP/1.1%b%b%b" % (whole[8 : found.start(3)], without(lines, names), added)
        else:
            self.head = whole[: found.end() - 2]
        self.until_close = isinstance(self.frame, UntilClose)
        self.is_delimited = isinstance(self.frame, Length) or (isinstance(self.frame, Chunked) and minor)

    def _frame(
        self, method: bytes, lengths: list[bytes], codings: list[bytes], version: bool, minor: bool
    ) -> tuple[Frame, frozenset[bytes], bytes]:
        """Return a frame for the body (RFC 9112, section 6.3), the framing fields that are dropped, and the lines that
        replace them.

        A response that can have no body may still have framing fields. Then the connection is not used again, since the
        server may send that body after all.
        """
        status = self.status
        if status < 200 or status == 204:  # no body, whatever the fields say (RFC 9112, section 6.1)
            if codings or any(length.strip(b"0") for length in lengths):
                self.keep_alive = False
            return Length(0), _FRAMING if lengths or codings else _NONE, b""
        length, is_strict = body_length(lengths, codings, version, is_request=False)
        dropped, added = _NONE, b""
        if not is_strict:
            dropped = _CONTENT_LENGTH
            if length == CHUNKED:
                self.keep_alive = False  # RFC 9112, section 6.3: perhaps an attempt at response splitting
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


def read_response(
    received: bytes, method: bytes, max_size: int, looked: int = 0, minor: bool = True
) -> tuple[Response, int] | None:
    """Return the response at the beginning of `received` and the size of its head, or None if the head is not complete.
    Raises BadResponse.

    method: of the request. max_size: of the head, in bytes. looked: how many of these bytes the last call had, when it
    returned None, so that a head that comes in many pieces is not searched from its beginning each time. minor: False
    when the client speaks HTTP/1.0.
    """
    has_ended = looked and _HEAD_END.search(received, max(looked - 3, 0)) is not None
    found = _match_head(received) if has_ended or not looked else None
    if found is not None and found.end() <= max_size:
        return Response(found, received, method, minor), found.end()
    if len(received) > max_size:
        raise BadResponse(f"the head of the server's response is longer than {max_size} bytes")
    if has_ended or (not looked and _HEAD_END.search(received)) or not _HEAD_BEGUN.fullmatch(received[:1024]):
        raise BadResponse("the server's response is not HTTP/1")
    return None
