"""Responses that the switch makes itself: their heads, and the reason phrases of statuses."""

from __future__ import annotations

from http import HTTPStatus

from attrs import frozen

PLAIN_TEXT = "text/plain; charset=utf-8"

NO_CONTENT, RESET_CONTENT = 204, 205

REASON_PHRASES: dict[int, str] = {
    **{status.value: status.phrase for status in HTTPStatus},
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
"""Those of RFC 9110, where the standard library of some versions of Python has older ones."""


def status_text(status: int) -> str:
    """Return a status with its reason phrase, as text for people."""
    return f"{status} {REASON_PHRASES.get(status, '')}".rstrip()


@frozen
class OwnMessage:
    """A whole response of the switch itself.

    content_type: of the body; None: there is none. is_stored: caches may store it. fields: further header lines, each
    with its line end. whole: all of it, in another form; None: it is made of the others.
    """

    status: int
    body: bytes = b""
    content_type: str | None = PLAIN_TEXT
    is_stored: bool = False
    fields: bytes = b""
    whole: bytes | None = None

    def encoded(self, method: bytes | None = None, *, keep_alive: bool = False, minor: bool = True) -> bytes:
        """Return the message as it is sent.

        method: of the request; None when it is unknown. keep_alive: another request may follow; else the response ends
        the connection. minor: False for a client that speaks HTTP/1.0, which must be told that the connection stays
        open.
        """
        if self.whole is not None:
            return self.whole
        has_content = self.content_type is not None and self.status not in (NO_CONTENT, RESET_CONTENT)
        type_line = f"Content-Type: {self.content_type}\r\n" if has_content else ""
        length = "" if self.status == NO_CONTENT else f"Content-Length: {len(self.body) if has_content else 0}\r\n"
        stored = "" if self.is_stored else "Cache-Control: no-store\r\n"
        connection = "Connection: close\r\n" if not keep_alive else "" if minor else "Connection: keep-alive\r\n"
        start = f"HTTP/1.1 {self.status} {REASON_PHRASES.get(self.status, '')}\r\n{type_line}{length}{stored}"
        head = start.encode("ascii") + self.fields + connection.encode("ascii") + b"\r\n"
        return head if method == b"HEAD" or not has_content else head + self.body
