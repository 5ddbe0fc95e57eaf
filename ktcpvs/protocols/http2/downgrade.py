"""One HTTP/2 stream as one exchange of HTTP/1.1: the bytes of its request, and its response read from bytes."""

from __future__ import annotations

from ktcpvs.protocols.http1 import Chunked, Frame, read_response
from ktcpvs.protocols.http1.body import UntilClose
from ktcpvs.protocols.http2.header_list import (
    HeaderList,
    response_list,
    trailer_list,
    websocket_accepted_list,
)
from ktcpvs.protocols.http2.request import Request

LAST_CHUNK = b"0\r\n"

MAX_RESPONSE_HEAD = 1 << 20
"""Bytes: the longest head of a response, as much as the setting `head_size`, which has been applied before, can be."""


class RequestWriter:
    """Writes the body of one request as HTTP/1.1 does behind its head."""

    __slots__ = ("_is_chunked", "has_ended")

    def __init__(self, request: Request, end_stream: bool) -> None:
        """end_stream: the request has no body."""
        self._is_chunked = request.length is None and not end_stream and not request.protocol
        self.has_ended = end_stream

    def data(self, content: bytes, end_stream: bool) -> bytes:
        """Return a piece of the body. end_stream: it is the last one."""
        self.has_ended = end_stream
        if not self._is_chunked:
            return content
        chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
        return chunk + LAST_CHUNK + b"\r\n" if end_stream else chunk

    def trailers(self, lines: bytes) -> bytes:
        """Return the end of the body. lines: the trailer fields; a body with a length has no place for them."""
        self.has_ended = True
        return LAST_CHUNK + lines + b"\r\n" if self._is_chunked else b""


class ResponseReader:
    """Reads the response to one request, with the interim responses before it.

    has_ended: the body is complete. is_tunnel: the response accepts a WebSocket; what follows is no HTTP.
    """

    __slots__ = ("_frame", "_max_head", "_method", "_received", "has_ended", "is_tunnel")

    def __init__(self, method: bytes, max_head: int) -> None:
        """method: of the request in HTTP/1. max_head: bytes of a head."""
        self._method = method
        self._max_head = max_head
        self._received = b""
        self._frame: Frame | None = None  # of the final response's body
        self.has_ended = self.is_tunnel = False

    def feed(self, data: bytes) -> list[HeaderList | bytes]:
        """Take bytes; return header lists, those of interim responses before that of the final one, pieces of its body,
        and the header list of its trailers.

        Raises BadResponse, BadFrame. Bytes behind the end are dropped.
        """
        out: list[HeaderList | bytes] = []
        while data and self._frame is None and not self.is_tunnel:
            looked = len(self._received)
            data = self._received + data
            self._received = b""
            read = read_response(data, self._method, self._max_head, looked)
            if read is None:
                self._received = data
                return out
            response, end = read
            head, data = data[:end], data[end:]
            if response.status == 101:
                self.is_tunnel = True
                out.append(websocket_accepted_list(head))
                break
            out.append(response_list(head))
            if response.status >= 200:
                frame = response.frame
                self._frame = Chunked(decode=True) if isinstance(frame, Chunked) else frame
                self.has_ended = frame.done
        if self.is_tunnel:
            if data:
                out.append(data)
        elif data and not self.has_ended:
            self._read_body(data, out)
        return out

    def _read_body(self, data: bytes, out: list[HeaderList | bytes]) -> None:
        frame = self._frame
        assert frame is not None
        while data and not frame.done:
            taken = frame.feed(data)
            piece = data[:taken] if frame.onward is None else frame.onward
            if piece:
                out.append(piece)
            data = data[taken:]
        self.has_ended = frame.done
        if self.has_ended and isinstance(frame, Chunked) and frame.trailer_lines:
            out.append(trailer_list(frame.trailer_lines))

    def close(self) -> bool:
        """The bytes have ended. Return whether the response is complete."""
        if isinstance(self._frame, UntilClose):
            self.has_ended = True
        return self.has_ended or self.is_tunnel
