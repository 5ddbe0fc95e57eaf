"""The first bytes of a request's body, which a scheduler wants to see before it chooses: the request is held until they
have come."""

from __future__ import annotations

from ktcpvs.protocols.http1 import CHUNKED, Chunked

MAX_FRAMING = 8
"""The most bytes that are held for each byte of the prefix: each byte of a chunked body may have a chunk of its own,
with extensions. Beyond that, the scheduler sees less."""

MIN_HELD = 65536
"""The bytes that may be held in any case."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""The response that a client waits for before it sends its body (RFC 9110, section 10.1.1)."""


class BodyPrefix:
    """The beginning of one body. held: as it goes on to the server. began: the wheel's tick when the wait for it
    began."""

    __slots__ = ("_decoded", "_decoder", "_size", "began", "held")

    def __init__(self, size: int, length: int, began: int) -> None:
        """size: the bytes of the body that the scheduler wants. length: of the body, or CHUNKED."""
        self._size = size
        self._decoder = Chunked(decode=True) if length == CHUNKED else None
        self._decoded = bytearray()  # of a chunked body
        self.began = began
        self.held = bytearray()

    def feed(self, data: bytes) -> None:
        """Take more of the body, as it goes on to the server."""
        self.held += data
        decoder = self._decoder
        while decoder is not None and data and not decoder.done:
            taken = decoder.feed(data)
            self._decoded += data[:taken] if decoder.onward is None else decoder.onward
            data = data[taken:]

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is held for the scheduler, if the body has not ended before."""
        return len(self._content) >= self._size or len(self.held) >= max(MAX_FRAMING * self._size, MIN_HELD)

    @property
    def memory(self) -> int:
        """The bytes that are held here, with the copy without framing."""
        return len(self.held) + len(self._decoded)

    @property
    def content(self) -> bytes:
        """The bytes that the scheduler sees: the first ones of the body, without its framing."""
        return bytes(self._content[: self._size])

    @property
    def _content(self) -> bytearray:
        return self.held if self._decoder is None else self._decoded
