"""The field block that a peer sends in one HEADERS frame and its CONTINUATION frames (RFC 9113, section 4.3)."""

from __future__ import annotations

from ktcpvs.protocols.http2.constants import COMPRESSION_ERROR, ENHANCE_YOUR_CALM
from ktcpvs.protocols.http2.errors import HPACKError, HTTP2ConnectionError
from ktcpvs.protocols.http2.flood_guard import EMPTY_FRAMES, FloodGuard
from ktcpvs.protocols.http2.hpack import Decoder
from ktcpvs.protocols.http2.limits import Limits
from ktcpvs.protocols.http2.section import FieldSection


class FieldBlock:
    """The block that is coming, within limits, and the decoder of all blocks of a connection. It serves one block after
    another, since no other frame may be between those of a block.

    stream_id: of the block that has begun and is not complete; None: there is none. end_stream, depends_on_itself: what
    the HEADERS frame of the last block has said.
    """

    __slots__ = (
        "_decoder", "_fragments", "_guard", "_limits", "depends_on_itself", "end_stream", "held_bytes", "stream_id",
    )  # fmt: skip

    def __init__(self, limits: Limits, guard: FloodGuard) -> None:
        self._limits = limits
        self._guard = guard
        self._decoder = Decoder(limits.max_list_size, limits.max_fields)
        self.end_stream = self.depends_on_itself = False
        self.clear()

    def clear(self) -> None:
        """Forget the block that has begun."""
        self.stream_id: int | None = None
        self.held_bytes = 0
        self._fragments: list[bytes] = []

    def begin(self, stream_id: int, end_stream: bool, depends_on_itself: bool) -> None:
        """A HEADERS frame has come, whose fragment follows."""
        self.stream_id = stream_id
        self.end_stream = end_stream
        self.depends_on_itself = depends_on_itself

    def append(self, fragment: bytes, now: int) -> None:
        """Keep a fragment that is not the last one. now: as `Connection.receive` takes it. Raises
        HTTP2ConnectionError."""
        if not fragment:
            self._guard.count(EMPTY_FRAMES, now)
        self._add(fragment)

    def finish(self, fragment: bytes) -> FieldSection:
        """Return the fields of the block that ends with a fragment. Raises HTTP2ConnectionError."""
        self._add(fragment)
        block = b"".join(self._fragments)
        self.clear()
        try:
            return self._decoder.decode(block)
        except HPACKError as error:
            raise HTTP2ConnectionError(COMPRESSION_ERROR, str(error)) from None

    def _add(self, fragment: bytes) -> None:
        limits = self._limits
        self._fragments.append(fragment)
        self.held_bytes += len(fragment)
        if len(self._fragments) > 1 + limits.max_continuations:
            raise HTTP2ConnectionError(
                ENHANCE_YOUR_CALM, f"a field block has more than {limits.max_continuations} CONTINUATION frames"
            )
        if self.held_bytes > limits.max_block_size:
            raise HTTP2ConnectionError(ENHANCE_YOUR_CALM, f"a field block is longer than {limits.max_block_size} bytes")
