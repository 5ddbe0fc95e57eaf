"""One HTTP/2 stream to a server as one exchange of HTTP/1.1: its request read from bytes, the bytes of its response."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1

from ktcpvs.protocols.http1 import CHUNKED, BadFrame, Chunked, Frame, Length
from ktcpvs.protocols.http1.request import REQUEST, RequestFields
from ktcpvs.protocols.http1.upgrade import WEBSOCKET
from ktcpvs.protocols.http2.header_list import HeaderList, request_list, trailer_list, websocket_list
from ktcpvs.protocols.http2.response import Response

MAX_HEADS = 64
"""The most heads of requests that are remembered for one connection."""

MAX_REMEMBERED_HEAD = 2048
"""The longest head that is remembered, in bytes."""

LAST_CHUNK = b"0\r\n"

_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONNECT = b"CONNECT"


class RequestHead:
    """A request's head, ready to be sent.

    size: bytes of the head in HTTP/1.1. headers: its header list. method: as it is sent. length: of the body in bytes,
    or CHUNKED. total: bytes of the whole request in HTTP/1.1; -1: the head does not tell. accepts_trailers: the client
    has said so (`TE: trailers`). accept: the value of Sec-WebSocket-Accept for a WebSocket, b"" for all other requests.
    """

    __slots__ = ("accept", "accepts_trailers", "headers", "length", "method", "size", "total")

    def __init__(self, data: bytes, scheme: bytes, allows_connect: bool) -> None:
        """data: begins with the head. scheme: http or https. allows_connect: the server accepts extended CONNECT (RFC
        8441); without it a WebSocket is requested as any other resource, since HTTP/2 has no Upgrade. Raises
        BadRequest, MalformedMessage, BadFrame."""
        found = REQUEST.match(data)
        if found is None:
            raise BadFrame("this is not the head of an HTTP/1 request")
        self.size = found.end()
        fields = RequestFields(found[5], True)
        self.length = fields.length
        self.accepts_trailers = fields.has_trailers
        self.method = found[2]
        self.accept = b""
        head = data[: self.size]
        if allows_connect and fields.upgrades and fields.upgrades[0].lower() == WEBSOCKET.encode():
            self.headers = websocket_list(head, scheme)
            self.method = _CONNECT
            self.accept = websocket_accept(head)
        else:
            self.headers = request_list(head, scheme)
        self.total = -1 if self.accept or self.length == CHUNKED else self.size + self.length


def websocket_accept(head: bytes) -> bytes:
    """Return the value of Sec-WebSocket-Accept for a request's head in HTTP/1.1 (RFC 6455, section 4.2.2)."""
    keys = [
        line.partition(b":")[2].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    ]
    return b64encode(sha1(b"".join(keys[:1]) + _WEBSOCKET_GUID, usedforsecurity=False).digest())


class RequestHeads:
    """The heads that were sent on one connection. Requests that come again are sent as the same header list, whose
    block the encoder remembers."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, RequestHead] = {}

    def read(self, data: bytes, scheme: bytes, allows_connect: bool) -> RequestHead:
        """Return the head with which `data` begins. Raises BadRequest, MalformedMessage, BadFrame.

        scheme: http or https, the same for all. allows_connect: as for RequestHead.
        """
        head = data[: data.find(b"\r\n\r\n") + 4]
        known = self._known.get(head)
        if known is None:
            known = RequestHead(data, scheme, allows_connect)
            if known.size == len(head) <= MAX_REMEMBERED_HEAD and not known.accept:
                if len(self._known) >= MAX_HEADS:
                    self._known.clear()
                self._known[head] = known
        return known


class RequestBody:
    """Reads the body of one request from bytes of HTTP/1.1.

    has_ended: it is complete. trailers: the header list behind it; None: there is none.
    """

    __slots__ = ("_frame", "has_ended", "trailers")

    def __init__(self, head: RequestHead) -> None:
        self._frame: Frame | None = None
        if not head.accept:
            self._frame = Chunked(decode=True) if head.length == CHUNKED else Length(head.length)
        self.has_ended = not head.accept and not head.length
        self.trailers: HeaderList | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the pieces of the content in them. Bytes behind the end are dropped. Raises BadFrame."""
        frame = self._frame
        if frame is None:
            return [data] if data else []
        pieces: list[bytes] = []
        while data and not frame.done:
            taken = frame.feed(data)
            piece = frame.onward
            if piece is None:
                piece = data if taken == len(data) else data[:taken]
            if piece:
                pieces.append(piece)
            data = data[taken:]
        if frame.done:
            self.has_ended = True
            if isinstance(frame, Chunked) and frame.trailer_lines:
                self.trailers = trailer_list(frame.trailer_lines)
        return pieces

    def close(self) -> None:
        """The bytes of a WebSocket have ended."""
        self.has_ended = True


class ResponseWriter:
    """Writes the response of one stream as HTTP/1.1, with the interim responses before it.

    What has come is kept until `take`, so a response that came as a whole gets a Content-Length where the server has
    sent none. In HTTP/1.1 no trailers follow a body with a Content-Length, so such a response goes on in chunks if it
    has trailers, or if the client accepts them and they may follow.

    has_begun: the final response has. has_ended: it is complete. is_tunnel: it accepts a WebSocket; what
    follows is no HTTP. held: bytes of DATA that wait here.
    """

    __slots__ = (
        "_accept", "_accepts_trailers", "_is_chunked", "_method", "_pieces", "_response", "_trailers", "_written",
        "has_begun", "has_ended", "held", "is_tunnel",
    )  # fmt: skip

    def __init__(self, head: RequestHead) -> None:
        """head: of the request."""
        self._method = head.method
        self._accept = head.accept
        self._accepts_trailers = head.accepts_trailers
        self._written: list[bytes] = []  # before the head of the final response
        self._response: Response | None = None  # whose head is not written yet
        self._is_chunked = False
        self._pieces: list[bytes] = []  # content
        self._trailers = b""  # lines
        self.has_begun = self.has_ended = self.is_tunnel = False
        self.held = 0

    def interim(self, response: Response) -> None:
        """An interim response has come."""
        self._written.append(response.head(self._method, None))

    def begin(self, response: Response, end_stream: bool) -> None:
        """The final response has begun. end_stream: it has no body."""
        self.has_begun = True
        self.has_ended = end_stream
        if self._accept and 200 <= response.status < 300:
            self.is_tunnel = True
            self._written.append(
                b"HTTP/1.1 101 Switching Protocols\r\n%bupgrade: websocket\r\nconnection: upgrade\r\n"
                b"sec-websocket-accept: %b\r\n\r\n" % (response.lines, self._accept)
            )
        else:
            self._response = response

    def data(self, content: bytes, end_stream: bool) -> None:
        """A piece of the body has come."""
        self.held += len(content)
        if content:
            self._pieces.append(content)
        self.has_ended = end_stream

    def trailers(self, lines: bytes) -> None:
        """The trailers have come, which end the response. lines: as in HTTP/1."""
        self.has_ended = True
        self._trailers = lines

    def take(self) -> bytes:
        """Return the bytes for the recipient of the response, and forget them."""
        response, pieces, written = self._response, self._pieces, self._written
        if response is None and not pieces and not written and not self._is_chunked:
            return b""
        self._pieces, self._written = [], []
        self.held = 0
        if response is not None:
            self._response = None
            if self._is_sized(response):
                written.append(response.head(self._method, sum(map(len, pieces)) if self.has_ended else None))
            else:
                written.append(response.chunked_head())
                self._is_chunked = True
        if self._is_chunked:
            for piece in pieces:
                written += (b"%x\r\n" % len(piece), piece, b"\r\n")
            if self.has_ended:
                self._is_chunked = False
                written += (LAST_CHUNK, self._trailers, b"\r\n")
        else:
            written += pieces
        return written[0] if len(written) == 1 else b"".join(written)

    def _is_sized(self, response: Response) -> bool:
        """Whether the response goes on without chunks: it is complete without trailers, has no body, or is one with a
        Content-Length behind which the client gets no trailers."""
        if not response.has_body(self._method) or (self.has_ended and not self._trailers):
            return True
        return not self._trailers and response.length is not None and not self._accepts_trailers
