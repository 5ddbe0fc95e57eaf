"""Messages that the switch does not accept, and the responses with which it refuses or redirects requests."""

from __future__ import annotations

from ktcpvs.protocols import grpc


class BadMessage(Exception):
    """A message that the switch does not pass on; str() says why, in one line.

    status: the HTTP status that the client gets.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class BadRequest(BadMessage):
    """A client's request that the switch does not pass on."""


class BadResponse(BadMessage):
    """A server's response that the switch does not pass on: the client gets 502."""

    def __init__(self, why: str) -> None:
        super().__init__(502, why)


class BadFrame(Exception):
    """A body that is not framed as its head says; str() says how. It is a bad request or a bad response, as the case
    may be."""


NO_HTTP_1 = (400, 505)
"""The statuses of a BadRequest whose bytes may be another protocol than HTTP/1."""

REASON_PHRASES = {
    308: "Permanent Redirect",
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


def error_response(
    status: int,
    why: str,
    method: bytes | None = None,
    *,
    keep_alive: bool = False,
    later: int = 0,
    location: str = "",
    minor: bool = True,
    lines: bytes = b"",
) -> bytes:
    """A whole response that refuses or redirects a request.

    method: of the request; None when it is unknown. keep_alive: another request may follow; else the response ends the
    connection. later: seconds for Retry-After (RFC 9110, section 10.2.3); 0: no such field. location: the URL to which
    it redirects; "": none. minor: False for a client that speaks HTTP/1.0, which must be told that the connection stays
    open. lines: header lines of the request: one of gRPC gets a status of gRPC.
    """
    if lines and grpc.is_grpc(lines):
        return grpc.error_response(status, why)
    body = f"{status} {REASON_PHRASES[status]}\nktcpvs: {why}\n".encode()
    connection = "Connection: close\r\n" if not keep_alive else "" if minor else "Connection: keep-alive\r\n"
    fields = f"Retry-After: {later}\r\n" if later else ""
    if location:
        fields += f"Location: {location}\r\n"
    head = (
        f"HTTP/1.1 {status} {REASON_PHRASES[status]}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        f"{fields}{connection}\r\n"
    ).encode("ascii")
    return head if method == b"HEAD" else head + body
