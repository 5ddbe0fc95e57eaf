"""Errors of HTTP/2: what ends a connection, what ends a stream, and what a field block may not contain."""

from __future__ import annotations

from ktcpvs.protocols.http2.constants import error_name


class HTTP2Error(Exception):
    """A violation of the protocol or of a limit; str() says what and why, in one line.

    code: the error code for the peer (RFC 9113, section 7). reason: without that code's name.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{error_name(code)}: {reason}")
        self.code = code
        self.reason = reason


class HTTP2ConnectionError(HTTP2Error):
    """An error that ends the connection with a GOAWAY (RFC 9113, section 5.4.1)."""


class HTTP2StreamError(HTTP2Error):
    """An error that ends one stream with an RST_STREAM (RFC 9113, section 5.4.2)."""


class MalformedMessage(Exception):
    """A header section that is no valid request, response or trailer section (RFC 9113, section 8.1.1); str() says why.

    It is a stream error of type PROTOCOL_ERROR.
    """


class HPACKError(Exception):
    """A field block that cannot be decoded (RFC 7541): a connection error of type COMPRESSION_ERROR."""
