"""Responses of HTTP/2 servers: their header sections, and what they are as heads of HTTP/1.1."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ktcpvs.protocols.http2.errors import MalformedMessage
from ktcpvs.protocols.http2.fields import STATUS, Field
from ktcpvs.protocols.http2.request import SortedFields

_OF_RESPONSE = frozenset((STATUS,))

_remove_length = re.compile(rb"(?m)^content-length:[^\n]*+\n").sub

BODILESS_STATUSES = frozenset((204, 304))


class Response:
    """A response's header section.

    status: 100 to 999. length: of the body in bytes, as Content-Length says; None without it. lines: the other fields,
    as lines of HTTP/1. is_interim: another response follows (RFC 9110, section 15.2).
    """

    __slots__ = ("length", "lines", "status")

    def __init__(self, fields: Sequence[Field]) -> None:
        """Raises MalformedMessage."""
        found = SortedFields(fields, _OF_RESPONSE)
        status = found.pseudo.get(STATUS)
        if status is None:
            raise MalformedMessage(":status is missing")
        self.status = int(status)
        if self.status == 101:
            raise MalformedMessage(":status is 101, which HTTP/2 does not have")
        self.length = found.length
        if found.cookies:
            found.lines.append(b"cookie: %b\r\n" % b"; ".join(found.cookies))
        self.lines = b"".join(found.lines)

    @property
    def is_interim(self) -> bool:
        return self.status < 200

    def has_body(self, method: bytes) -> bool:
        """Whether a response with this status to this method may have a body (RFC 9110, section 6.4.1)."""
        return self.status >= 200 and self.status not in BODILESS_STATUSES and method != b"HEAD"

    def head(self, method: bytes, size: int | None) -> bytes:
        """Return the head in HTTP/1.1. method: of the request. size: bytes of the body; None: it is not known yet, so
        without a Content-Length the body goes on in chunks."""
        framing = b""
        if self.length is None and self.has_body(method):
            framing = b"transfer-encoding: chunked\r\n" if size is None else b"content-length: %d\r\n" % size
        return b"HTTP/1.1 %d \r\n%b%b\r\n" % (self.status, self.lines, framing)

    def message(self, method: bytes, content: bytes, trailers: bytes) -> bytes:
        """Return the whole response in HTTP/1.1. method: of the request. trailers: as lines; with them it is
        chunked."""
        if not trailers or not self.has_body(method):
            return self.head(method, len(content)) + content
        chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
        return b"%b%b0\r\n%b\r\n" % (self.chunked_head(), chunk, trailers)

    def chunked_head(self) -> bytes:
        """Return the head in HTTP/1.1 with which the body goes on in chunks, so that trailers can follow it: behind a
        body with a Content-Length there are none."""
        lines = self.lines if self.length is None else _remove_length(b"", self.lines)
        return b"HTTP/1.1 %d \r\n%btransfer-encoding: chunked\r\n\r\n" % (self.status, lines)
