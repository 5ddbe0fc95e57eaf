"""The counts of one direction of a connection that the kernel relays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ktcpvs.model.grants import READING, TABLE
from ktcpvs.relay.program import Program
from ktcpvs.relay.socket_relay import Side
from ktcpvs.streams.stream import Stream
from ktcpvs.system import tcpinfo
from ktcpvs.system.sockets import is_over, send_buffer, set_send_buffer, unsent
from ktcpvs.system.tcpinfo import queued

MARKS_PER_LIMIT = 8
"""The number of marks within the limit for passed packets, by which the charge that has been read is known."""


class KernelDirection:
    """From `source` to `target`. state: of model.grants. slot: its number in the program; -1: it has none.

    read, wrote: bytes that this process has read and written since the kernel has taken part. pending: bytes read and
    not yet written. empty: the last read found no more. window: the charge of one grant. last_data: the tick of the
    last read. ended: the source's FIN has been forwarded. stopped: nothing more is read from the source; bytes read or
    redirected before are still delivered. on_event: called with this direction and the kind of each record that the
    program writes about it; None: records are ignored.
    """

    __slots__ = (
        "_acknowledged", "_charge_read", "_count", "_delivered", "_marks", "_origin", "_send_buffer", "_wrote_before",
        "empty", "ended", "from_side", "last_data", "on_event", "pending", "program", "read", "retries", "retry_call",
        "slot", "source", "state", "stopped", "target", "to_side", "window", "wrote",
    )  # fmt: skip

    def __init__(self, source: Stream, from_side: Side, target: Stream, to_side: Side, now: int) -> None:
        self.on_event: Callable[[KernelDirection, int], None] | None = None
        self.source = source
        self.target = target
        self.from_side = from_side
        self.to_side = to_side
        self.state = READING
        self.program: Program | None = None
        self.slot = -1
        self.read = self.wrote = 0
        self.pending = b""
        self.empty = False
        self.window = 0
        self.retry_call: Any = None  # an IDelayedCall
        self.retries = 0  # since bytes were last relayed
        self.last_data = now
        self.ended = False
        self.stopped = False
        self._count = 0  # relayed bytes, without those that the program has redirected since it has taken part
        self._origin = 0  # bytes queued at the target until then
        self._delivered = 0  # redirected bytes that were found in the target's queue
        self._acknowledged = (0, 0)  # R and C at a moment by which all redirected bytes are acknowledged
        self._wrote_before = 0  # `wrote` when the last grant was made
        self._marks: list[tuple[int, int]] = []  # pairs of P and Q: once P bytes are read, the charge Q is read
        self._charge_read = 0  # a lower bound for the charge of the passed packets that have been read
        self._send_buffer = (
            0  # of the target before it was enlarged, as returned by `send_buffer`; 0: it is not enlarged
        )

    @property
    def redirected(self) -> int:
        """Bytes that were relayed by the kernel alone."""
        return self.program.redirected(self.slot) if self.program is not None else 0

    @property
    def bytes(self) -> int:
        """The number of bytes relayed."""
        return self._count + self.redirected

    @bytes.setter
    def bytes(self, value: int) -> None:
        self._count = value - self.redirected

    def join(self, program: Program, slot: int) -> None:
        """Prepare for the program to take part. Raises OSError."""
        self._origin = queued(self.to_side.sock)
        self.program, self.slot = program, slot
        self.read = self.wrote = self._wrote_before = self._delivered = 0
        self._acknowledged = (0, 0)
        self._marks, self._charge_read = [], 0

    def leave(self) -> None:
        """The program no longer takes part."""
        program, slot = self.program, self.slot
        if program is not None:
            program.leave(slot)
            if self.to_side.fd >= 0:
                self.restore_send_buffer()
            self._count += program.redirected(slot)
            self.program, self.slot = None, -1

    def unread(self) -> int:
        """Bytes that were passed to this process and are unread."""
        return self.program.passed(self.slot) - self.read if self.program is not None else 0

    def in_transit(self) -> int:
        """Redirected bytes that are not yet in the target's queue."""
        redirected = self.redirected
        if redirected == self._delivered:
            return 0
        try:
            missing = self._origin + self.wrote + redirected - queued(self.to_side.sock)
        except OSError:
            missing = 0
        if missing > 0 and is_over(self.to_side.sock):
            missing = 0  # they will never arrive
        if missing <= 0:
            self._delivered = redirected
        return max(missing, 0)

    def not_sent(self) -> int:
        """Bytes that were redirected or written and that the target's TCP has not sent yet."""
        try:
            return self.in_transit() + tcpinfo.not_sent(self.to_side.sock)
        except OSError:
            return 0

    def unacknowledged_charge(self) -> int:
        """An upper bound for the charge of redirected packets that the target's peer has not acknowledged.

        TCP reports bytes, but not in how many packets they came. So this is the unacknowledged bytes, and the cost of
        all packets since the last moment by which everything is known to be acknowledged.
        """
        program, slot = self.program, self.slot
        if program is None:
            return 0
        charged = program.charged(slot)  # read before R, so that R includes at least everything that is charged
        mark = program.mark(slot)
        redirected = self.redirected
        # What this process has written since the last grant follows all redirected bytes.
        size = self.in_transit() + unsent(self.to_side.sock) - (self.wrote - self._wrote_before)
        if size <= 0:
            self._acknowledged = (redirected, charged)
            return 0
        if self._acknowledged[0] < mark[0] <= redirected - size:
            self._acknowledged = mark
        acknowledged, acknowledged_charge = self._acknowledged
        more = redirected - acknowledged
        return min(size, more) + max(program.charged(slot) - acknowledged_charge - more, 0)

    def enlarge_send_buffer(self, most: int) -> None:
        """Enlarge the target's queue for the largest grant. most: the setting relay_window, in bytes.

        Otherwise redirected packets would wait in a list of the kernel that is charged to no buffer, with passed
        packets of the same socket behind them. That list has no limit, since TCP would not slow the sender down. Raises
        OSError.
        """
        if not self._send_buffer:
            self._send_buffer = send_buffer(self.to_side.sock)
        set_send_buffer(self.to_side.sock, -max(4 * most, abs(self._send_buffer)))

    def restore_send_buffer(self) -> None:
        """Restore the size of the target's queue, since this process writes until the queue is full."""
        size, self._send_buffer = self._send_buffer, 0
        if size:
            with contextlib.suppress(OSError):  # the peer has already closed it
                set_send_buffer(self.to_side.sock, size)

    def grant(self, charge: int) -> None:
        """Let the program redirect packets of that charge. All passed bytes must have been written."""
        program, slot = self.program, self.slot
        assert program is not None
        more, charged = max(charge, 0), program.charged(slot)
        self._wrote_before = self.wrote
        program.grant(slot, self.read, charged + more, charged + more // 2, charged + more * 3 // 8)

    def limit_passed(self, most: int) -> None:
        """Advance the limit for passed packets by what has been read. most: the charge that may be unread."""
        program, slot = self.program, self.slot
        if program is None:
            return
        marks = self._marks
        while marks and marks[0][0] <= self.read:
            self._charge_read = marks.pop(0)[1]
        program.limit(slot, self._charge_read + most)
        charged, passed = program.charged_passed(slot), program.passed(slot)  # in this order, as above
        if not marks or charged - marks[-1][1] > most // MARKS_PER_LIMIT:
            marks.append((passed, charged))

    def transition(self, event: str) -> None:
        """Change the state."""
        self.state = TABLE[self.state][event]

    def __repr__(self) -> str:
        return f"<KernelDirection of {self.bytes} bytes, {self.state}>"
