"""Messages that the switch does not accept, and the responses with which it refuses or redirects requests."""

from __future__ import annotations

from ktcpvs.protocols import grpc
from ktcpvs.protocols.http1.own_message import OwnMessage, status_text


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


def error_message(status: int, why: str, later: int = 0, location: str = "", lines: bytes = b"") -> OwnMessage:
    """Return the response that refuses or redirects a request.

    later: seconds for Retry-After (RFC 9110, section 10.2.3); 0: no such field. location: the URL to which it
    redirects; "": none. lines: header lines of the request: one of gRPC gets a status of gRPC.
    """
    if lines and grpc.is_grpc(lines):
        return OwnMessage(status, whole=grpc.error_response(status, why))
    fields = f"Retry-After: {later}\r\n" if later else ""
    if location:
        fields += f"Location: {location}\r\n"
    body = f"{status_text(status)}\nktcpvs: {why}\n".encode()
    return OwnMessage(status, body, fields=fields.encode("ascii"))


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
    """Return `error_message` as it is sent. method, keep_alive, minor: see OwnMessage.encoded."""
    message = error_message(status, why, later, location, lines)
    return message.encoded(method, keep_alive=keep_alive, minor=minor)
