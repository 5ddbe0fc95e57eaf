"""One direction of a connection in which the kernel takes part, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ktcpvs.model.grants import READING, TABLE
from ktcpvs.system.sockets import is_over
from ktcpvs.system.tcpinfo import queued
from ktcpvs.transport.relay.bare import Side
from ktcpvs.transport.relay.program import Program
from ktcpvs.transport.stream import Stream

if TYPE_CHECKING:
    from ktcpvs.transport.relay.kernel import KernelRelay


class Direction:
    """From `source` to `target`. state: of model.grants. slot: its place in the program; -1 while it has none.

    read, wrote: bytes that this process has read and written since the kernel took part. copied: read, not yet written.
    empty: the last read found no more. window: what is granted at once. seen: the tick of the last read. ended: the
    source's end has been carried on. stopped: nothing more is taken from the source, but what is held goes out.
    """

    __slots__ = (
        "_carried", "_origin", "_settled", "call", "copied", "empty", "ended", "from_side", "program", "read", "relay",
        "seen", "slot", "source", "state", "stopped", "target", "to_side", "tries", "window", "wrote",
    )  # fmt: skip

    def __init__(self, source: Stream, from_side: Side, target: Stream, to_side: Side, now: int) -> None:
        self.relay: KernelRelay | None = None  # while the program may tell something of this direction
        self.source = source
        self.target = target
        self.from_side = from_side
        self.to_side = to_side
        self.state = READING
        self.program: Program | None = None
        self.slot = -1
        self.read = self.wrote = 0
        self.copied = b""
        self.empty = False
        self.window = 0
        self.call: Any = None  # that looks again
        self.tries = 0  # how often it has
        self.seen = now
        self.ended = False
        self.stopped = False
        self._carried = 0  # bytes, but for what the program has redirected since it took part
        self._origin = 0  # what the target's queue had been given until then
        self._settled = 0  # so much redirected was seen in the target's queue

    @property
    def redirected(self) -> int:
        """Bytes that went through the kernel alone."""
        return self.program.redirected(self.slot) if self.program is not None else 0

    @property
    def bytes(self) -> int:
        """How many went through."""
        return self._carried + self.redirected

    @bytes.setter
    def bytes(self, value: int) -> None:
        self._carried = value - self.redirected

    def join(self, program: Program, slot: int) -> None:
        """The program is about to take part. Raises OSError."""
        self._origin = queued(self.to_side.sock)
        self.program, self.slot = program, slot
        self.read = self.wrote = self._settled = 0

    def part(self) -> None:
        """It takes part no more."""
        program, slot = self.program, self.slot
        if program is not None:
            program.part(slot)
            self._carried += program.redirected(slot)
            self.program, self.slot = None, -1

    def unread(self) -> int:
        """Bytes that were passed to this process and not read."""
        return self.program.passed(self.slot) - self.read if self.program is not None else 0

    def behind(self) -> int:
        """Bytes redirected that are not yet in the target's queue."""
        redirected = self.redirected
        if redirected == self._settled:
            return 0
        try:
            behind = self._origin + self.wrote + redirected - queued(self.to_side.sock)
        except OSError:
            behind = 0
        if behind > 0 and is_over(self.to_side.sock):
            behind = 0  # nobody takes them any more
        if behind <= 0:
            self._settled = redirected
        return max(behind, 0)

    def happened(self, event: str) -> None:
        self.state = TABLE[self.state][event]
