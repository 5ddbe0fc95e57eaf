"""The beginning of connections of PostgreSQL: a client asks for TLS before it sends a ClientHello.

The packets are those of the manual, "Frontend/Backend Protocol", sections "SSL Session Encryption" and "Message
Formats". Clients of version 17 may leave the request out (`sslnegotiation=direct`).
"""

from __future__ import annotations

from enum import Enum

STARTTLS = "postgresql"
"""The value of the option `starttls` with which clients may begin so."""

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
GSSENC_REQUEST = bytes.fromhex("0000000804d21630")

ACCEPT, DENY = b"S", b"N"
"""The answers to both requests."""

_INVALID_AUTHORIZATION = "28000"  # SQLSTATE: invalid_authorization_specification
_STARTUP_VERSION = b"\0\3"  # the major version in a StartupMessage, after its length of 4 bytes


class Beginning(Enum):
    """The kinds of first messages of a client. SSL: an SSLRequest. GSS: a GSSENCRequest. NEITHER: something else, such
    as a ClientHello; it may be incomplete."""

    SSL = "SSLRequest"
    GSS = "GSSENCRequest"
    NEITHER = "neither"


class BadBeginning(Exception):
    """Bytes follow a request before it was answered; str() says so, in one line."""

    def __init__(self, request: str) -> None:
        super().__init__(f"something follows the {request} before its answer")


class BeginningReader:
    """Collects bytes until it is clear which request they are, if any. received: every byte that came."""

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received = b""

    def feed(self, data: bytes) -> Beginning | None:
        """Take more bytes; return what they are, or None when more must come. Raises BadBeginning.

        A client waits for the answer. What it sends before could have been put there by somebody on the way
        (CVE-2021-23214), so it is refused, as servers refuse it.
        """
        self.received = received = self.received + data
        for request, beginning in ((SSL_REQUEST, Beginning.SSL), (GSSENC_REQUEST, Beginning.GSS)):
            if received == request:
                return beginning
            if received.startswith(request):
                raise BadBeginning(beginning.value)
            if request.startswith(received):
                return None
        return Beginning.NEITHER


def is_startup(data: bytes) -> bool:
    """Whether `data` begins a StartupMessage: the client does not ask for TLS."""
    return data[:2] == b"\0\0" and data[4:6] == _STARTUP_VERSION


def error_response(message: str) -> bytes:
    """Return the ErrorResponse with which a server refuses a connection."""
    fields = {"S": "FATAL", "V": "FATAL", "C": _INVALID_AUTHORIZATION, "M": message}
    body = b"".join(f"{kind}{text}\0".encode() for kind, text in fields.items()) + b"\0"
    return b"E" + (4 + len(body)).to_bytes(4, "big") + body
