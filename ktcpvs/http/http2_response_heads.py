"""Heads of responses that servers send again and again, read once: how long the body is, and what HTTP/2 sends."""

from __future__ import annotations

from ktcpvs.protocols.http1 import BadResponse, read_response
from ktcpvs.protocols.http1.body import CHUNKED, Chunked, Length
from ktcpvs.protocols.http2 import HeaderList, response_list

MAX_HEADS = 256
"""The most heads that are kept for a service."""

MAX_HEAD_BYTES = 2048
"""The longest head that is kept."""


class KnownHead:
    """The head of a final response to GET. headers: as they are sent. length: bytes of the body, or CHUNKED."""

    __slots__ = ("headers", "length")

    def __init__(self, headers: HeaderList, length: int) -> None:
        self.headers = headers
        self.length = length


class ResponseHeads:
    """The heads of one service's responses to GET that have a length or are chunked.

    A head that is equal byte for byte has the same header list, which is encoded once for each connection.
    """

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead | None] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, head: bytes) -> KnownHead | None:
        """Return what this head means, with its empty line; None for another one than of a final response with a
        length or chunks, or a longer one than MAX_HEAD_BYTES."""
        try:
            return self._heads[head]
        except KeyError:
            pass
        if len(head) > MAX_HEAD_BYTES:
            return None
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        known = self._heads[head] = _read(head)
        return known


def _read(head: bytes) -> KnownHead | None:
    try:
        read = read_response(head, b"GET", MAX_HEAD_BYTES)
    except BadResponse:
        return None
    if read is None or read[1] != len(head):
        return None
    response = read[0]
    if response.status < 200 or not isinstance(response.frame, Length | Chunked):
        return None
    return KnownHead(response_list(head), response.frame.left if isinstance(response.frame, Length) else CHUNKED)
