"""One direction of a connection in which the kernel takes part, in numbers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ktcpvs.model.grants import READING, TABLE
from ktcpvs.relay.bare import Side
from ktcpvs.relay.program import Program
from ktcpvs.streams.stream import Stream
from ktcpvs.system.sockets import is_over, send_buffer, set_send_buffer, unsent
from ktcpvs.system.tcpinfo import not_sent, queued

if TYPE_CHECKING:
    from ktcpvs.relay.kernel import KernelRelay


MARKS = 8
"""How finely it is known which charge of what was passed has been read: in so many parts of the limit."""


class Direction:
    """From `source` to `target`. state: of model.grants. slot: its place in the program; -1 while it has none.

    read, wrote: bytes that this process has read and written since the kernel took part. copied: read, not yet written.
    empty: the last read found no more. window: the charge that is granted at once. seen: the tick of the last read.
    ended: the source's end has been carried on. stopped: nothing more is taken from the source, but what is held goes
    out.
    """

    __slots__ = (
        "_carried", "_charge_read", "_known", "_marks", "_origin", "_send_buffer", "_settled", "_wrote_before", "call",
        "copied", "empty", "ended", "from_side", "program", "read", "relay", "seen", "slot", "source", "state",
        "stopped", "target", "to_side", "tries", "window", "wrote",
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
        self._known = (0, 0)  # R and C at a moment before which all that was redirected is in the target's queue
        self._wrote_before = 0  # what `wrote` was when the last grant was made
        self._marks: list[tuple[int, int]] = []  # P and Q at some moments: who has read P has read all charged in Q
        self._charge_read = 0  # at least this charge of what was passed has been read
        self._send_buffer = 0  # what `send_buffer` of the target was before it was made larger; 0 while it is not

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
        self.read = self.wrote = self._wrote_before = self._settled = 0
        self._known = (0, 0)
        self._marks, self._charge_read = [], 0

    def part(self) -> None:
        """It takes part no more."""
        program, slot = self.program, self.slot
        if program is not None:
            program.part(slot)
            if self.to_side.fd >= 0:
                self.narrow()
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

    def waits(self) -> int:
        """Bytes that were redirected or written and that the target's TCP could not send yet."""
        try:
            return self.behind() + not_sent(self.to_side.sock)
        except OSError:
            return 0

    def under_way(self) -> int:
        """What was redirected and not yet acknowledged by the target's peer, as a charge, and at most.

        Only the bytes are known, not in how many packets they came. So this is their bytes, and the cost of all packets
        since a moment for which everything before it is known to have been acknowledged.
        """
        program, slot = self.program, self.slot
        if program is None:
            return 0
        charged = program.charged(slot)  # read first: what is counted in R is then at least what is charged
        mark = program.mark(slot)
        redirected = self.redirected
        # What this process has written since the last grant stands behind all that was redirected.
        size = self.behind() + unsent(self.to_side.sock) - (self.wrote - self._wrote_before)
        if size <= 0:
            self._known = (redirected, charged)
            return 0
        if self._known[0] < mark[0] <= redirected - size:
            self._known = mark
        settled, settled_charge = self._known
        more = redirected - settled
        return min(size, more) + max(program.charged(slot) - settled_charge - more, 0)

    def widen(self, most: int) -> None:
        """Let the target's queue take all that may be granted. most: the setting relay_window, in bytes.

        Raises OSError.

        Else redirected packets would wait in a list of the kernel's that no buffer is charged for, and what is passed
        from the same socket behind them, without limit: TCP would not hold its sender back.
        """
        if not self._send_buffer:
            self._send_buffer = send_buffer(self.to_side.sock)
        set_send_buffer(self.to_side.sock, -max(4 * most, abs(self._send_buffer)))

    def narrow(self) -> None:
        """Let the target's queue take what it took before: this process writes, until the kernel takes no more."""
        size, self._send_buffer = self._send_buffer, 0
        if size:
            with contextlib.suppress(OSError):  # it is closed by its peer already
                set_send_buffer(self.to_side.sock, size)

    def grant(self, charge: int) -> None:
        """The program may redirect packets of that charge from now on. All that was passed is written."""
        program, slot = self.program, self.slot
        assert program is not None
        more, charged = max(charge, 0), program.charged(slot)
        self._wrote_before = self.wrote
        program.grant(slot, self.read, charged + more, charged + more // 2, charged + more * 3 // 8)

    def limit_passed(self, most: int) -> None:
        """Move the limit for passed packets that wait unread on, as far as reading has come. most: as a charge."""
        program, slot = self.program, self.slot
        if program is None:
            return
        marks = self._marks
        while marks and marks[0][0] <= self.read:
            self._charge_read = marks.pop(0)[1]
        program.limit(slot, self._charge_read + most)
        charged, passed = program.charged_passed(slot), program.passed(slot)  # in this order, as above
        if not marks or charged - marks[-1][1] > most // MARKS:
            marks.append((passed, charged))

    def happened(self, event: str) -> None:
        self.state = TABLE[self.state][event]
