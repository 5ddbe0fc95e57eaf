"""The kernel relay: a BPF program redirects packets for one socket to the other, by grants.

This process handles a direction when half of its grant is used, when the grant is used up and packets are passed to
this process, and when the source has ended; `model.grants` has the states. Connections that cannot be joined in the
kernel are copied here.
"""

from __future__ import annotations

from collections.abc import Callable
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

from twisted.logger import Logger

from ktcpvs.model import grants
from ktcpvs.model.grants import BLOCKED, ENDED, ENDING, GONE, GRANTED, HOLDING, READING, READY, WAITING
from ktcpvs.relay.bytecode import BROKEN, HALF_USED, OVERFULL
from ktcpvs.relay.kernel_direction import KernelDirection
from ktcpvs.relay.program import BytesLost
from ktcpvs.relay.program_slots import ProgramSlots
from ktcpvs.relay.socket_relay import SocketRelay
from ktcpvs.streams.detached import DetachedTransport
from ktcpvs.streams.poller import ERR, HUP, IN, OUT, RDHUP, SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.bpf import BPFError
from ktcpvs.system.sockets import is_over, unread
from ktcpvs.system.tcpinfo import silent_for
from ktcpvs.system.timer_wheel import TimerWheel

_log = Logger(namespace="ktcpvs")

WHOLE_QUEUE = 8 << 20
"""More than a socket's queue holds, in bytes: a read of this size that returns less has emptied the queue."""

READ_SIZE = 128 << 10
"""The most bytes in one read when the queue need not be emptied."""

MAX_READS_PER_TURN = 4
"""Reads from one source in one turn; then other connections have their turn."""

MIN_RETRY_DELAY, MAX_RETRY_DELAY = 0.001, 0.25
"""Seconds until the next check whether redirected bytes are in the target's queue: the shortest and the longest
delay."""

Buffer = bytes | memoryview

_scratch = memoryview(mmap(-1, WHOLE_QUEUE, MAP_PRIVATE | MAP_ANONYMOUS))
"""The buffer for reading, shared by all; nothing stays in it. It takes no memory until a relay has read into it."""


class KernelRelay(SocketRelay):
    """One connection. Its sockets are added to the program's maps once both have been read empty."""

    __slots__ = ("_slots",)

    def __init__(
        self,
        client: Stream,
        server: Stream,
        wheel: TimerWheel,
        finished: Callable[[], object],
        poller: SocketPoller,
        slots: ProgramSlots,
    ) -> None:
        """finished: called once, when both directions have ended."""
        super().__init__(client, server, wheel, finished, poller, KernelDirection)
        self._slots = slots

    @property
    def is_joined(self) -> bool:
        """Whether the sockets are in the program's maps."""
        return self.inward.program is not None and self.outward.program is not None

    def start(self, waiting: bytes = b"", answer: bytes = b"") -> None:
        """As SocketRelay."""
        for direction, first in (self.inward, waiting), (self.outward, answer):
            if first:
                direction.state = BLOCKED
        super().start(waiting, answer)
        for direction in self.inward, self.outward:
            if direction.state is BLOCKED:
                self._guarded(self._write, direction)
            elif direction.state is READING:  # the other direction may have found that this one has ended
                self._guarded(self._read, direction)

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, in either direction, as reported by the kernel."""
        last_data: int = max(self.inward.last_data, self.outward.last_data)
        if self.is_joined and self._client.fd >= 0 and self._server.fd >= 0:
            silent = min(silent_for(self._client.sock), silent_for(self._server.sock))
            last_data = max(last_data, self._wheel.now - int(silent))
        return last_data

    # Events.

    def _ready(self, incoming: KernelDirection, outgoing: KernelDirection, events: int) -> None:
        self._guarded(self._is_ready, incoming, outgoing, events)

    def _is_ready(self, incoming: KernelDirection, outgoing: KernelDirection, events: int) -> None:
        if events & ERR and self._is_reset(incoming, outgoing):
            return
        if events & OUT and outgoing.state is BLOCKED:
            self._guarded(self._write, outgoing)
        if events & (IN | RDHUP | HUP) and incoming.from_side.fd >= 0:
            if incoming.state is GRANTED:
                incoming.transition(grants.PEER_ENDED)
            elif incoming.state is READY:
                incoming.transition(grants.BYTES_CAME)
            if incoming.state is READING:
                self._guarded(self._read, incoming, True)

    def program_event(self, direction: KernelDirection, kind: int) -> None:
        """The program has written a record about a direction."""
        granted = direction.state is GRANTED
        if kind == BROKEN:
            _log.error("a relay is reset: a packet does not follow the bytes received before it")
            self._reset()
        elif kind == OVERFULL:
            _log.info("a relay is reset: too many bytes wait to be read")
            self._reset()
        elif kind == HALF_USED:
            direction.transition(grants.HALF)
            if granted:
                self._extend_grant(direction)
        else:
            direction.transition(grants.PASSED)
            if granted:
                direction.window = grants.less_window(direction.window, self._slots.window)
                self._guarded(self._read, direction)

    def _guarded(self, do: Callable[..., object], *arguments: Any) -> None:
        """Call `do`; if it raises, which is a bug, only this connection ends."""
        try:
            do(*arguments)
        except Exception:
            _log.failure("a relay failed")
            self._reset()

    def _reset(self) -> None:
        self.inward.source.abort()
        self.outward.source.abort()

    # The bytes that this process relays.

    def _read(self, direction: KernelDirection, polled: bool = False) -> None:
        """Read and write on. polled: epoll has reported that there is something to read."""
        side = direction.from_side
        # A side that could not be written is no longer polled, so it is read empty at once.
        for _ in range(MAX_READS_PER_TURN if not side.write_failed else WHOLE_QUEUE // READ_SIZE):
            most = WHOLE_QUEUE if direction.program is None and not direction.empty else READ_SIZE
            try:
                size = side.sock.recv_into(_scratch, most)
            except BlockingIOError:
                direction.empty = True
                self._read_empty(direction, polled)
                return
            except OSError:
                side.transport.broken()
                return
            if not size:
                self._source_ended(direction)
                return
            polled = False
            direction.empty = size < most
            direction.last_data = self._wheel.now
            direction.read += size
            direction.bytes += size
            direction.limit_passed(self._slots.passed_limit)
            direction.transition(grants.DATA)
            if not self._send(direction, _scratch[:size]):
                return
            if direction.empty and not direction.unread():
                self._read_empty(direction, False)
                return
        self._update_polling()

    def _read_empty(self, direction: KernelDirection, polled: bool) -> None:
        """The source has been read empty, and everything is written. polled: epoll has reported that there is something
        to read."""
        if direction.from_side.write_failed:
            direction.from_side.transport.broken()
        elif direction.program is None:
            direction.transition(grants.EMPTIED)
            self._join()
        elif not direction.unread():
            self._grant(direction)
        elif polled:  # the data waits in the kernel behind bytes that are redirected to the source
            direction.transition(grants.NOT_YET)
            self._retry_later(direction)
        else:
            direction.transition(grants.NOTHING)
        self._update_polling()

    def _send(self, direction: KernelDirection, data: Buffer) -> bool:
        """Write what was read. Return False if a part of it cannot be written now and is pending."""
        if direction.state is HOLDING and direction.in_transit():
            direction.pending = bytes(data)
            self._retry_later(direction)
            self._update_polling()
            return False
        direction.restore_send_buffer()
        try:
            sent = direction.to_side.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._write_failed(direction)
            return False
        direction.wrote += sent
        if sent < len(data):
            direction.pending = bytes(data[sent:])
            direction.transition(grants.FULL)
            self._update_polling()
            return False
        direction.pending = b""
        direction.transition(grants.WRITTEN)
        direction.retries = 0
        return True

    def _write(self, direction: KernelDirection) -> None:
        """Write pending bytes, then read on."""
        if self._send(direction, direction.pending):
            if direction.stopped:
                direction.transition(grants.LOST)
            direction.to_side.transport.drained()
            if direction.state is GONE:
                self._leave_when_delivered(direction)
            elif direction.state is READING:
                if direction.empty and not direction.unread():
                    self._read_empty(direction, False)
                else:
                    self._read(direction)

    # The kernel takes over.

    def _join(self) -> None:
        """Let the program handle all further packets, once both directions are ready."""
        inward, outward = self.inward, self.outward
        if not (inward.state is READY and outward.state is READY):
            return
        client, server = self._client.sock, self._server.sock
        slots = self._slots
        try:
            program, slot = slots.take()
        except BPFError as error:
            _log.debug("a relay is not moved to the kernel: {why}", why=error)
            return
        directions = (inward, slot), (outward, slot + 1)
        try:
            for direction, number in directions:
                direction.join(program, number)
                direction.enlarge_send_buffer(slots.window)
                direction.window = grants.first_window(slots.window)
                direction.on_event = self.program_event
                slots.enter(program, number, direction)
            # Bytes that are unread now are added to the first grant.
            most = [direction.window + grants.charge(unread(direction.from_side.sock)) for direction, _ in directions]
            program.join(slot, slot + 1, client, server, *most)
        except OSError as error:
            for direction, number in directions:
                direction.leave()
                slots.leave(program, number)
            slots.give(program, slot)
            if isinstance(error, BytesLost):
                raise
            _log.debug("a relay is not moved to the kernel: {why}", why=error)
            return
        for direction, _ in directions:
            direction.limit_passed(slots.passed_limit)
            direction.transition(grants.JOINED)
        self._update_polling()
        for direction, _ in directions:
            self._check_grant(direction)

    def _grant(self, direction: KernelDirection) -> None:
        """All passed bytes are written: let the kernel redirect again."""
        direction.transition(grants.ALL_PASSED)
        direction.enlarge_send_buffer(self._slots.window)
        direction.grant(direction.window - direction.unacknowledged_charge())
        self._update_polling()
        self._check_grant(direction)

    def _check_grant(self, direction: KernelDirection) -> None:
        """Read on if a packet was passed before the grant was made, for which there is no record."""
        if direction.state is not GRANTED:
            return
        silent_for(direction.from_side.sock)  # returns when the program is done with its packet
        if direction.unread():
            direction.transition(grants.VOID)
            self._read(direction)

    def _extend_grant(self, direction: KernelDirection) -> None:
        """Extend the grant, half of which is used."""
        window = grants.next_window(direction.window, direction.not_sent(), self._slots.window)
        if window:
            direction.window = window
            direction.grant(window - direction.unacknowledged_charge())

    # Retries.

    def _retry_later(self, direction: KernelDirection) -> None:
        if direction.retry_call is None:
            delay = min(MIN_RETRY_DELAY * 2**direction.retries, MAX_RETRY_DELAY)
            direction.retries = min(direction.retries + 1, 16)
            direction.retry_call = self._poller.call_later(delay, self._retry, direction)

    def _retry(self, direction: KernelDirection) -> None:
        direction.retry_call = None
        self._guarded(self._try_again, direction)

    def _try_again(self, direction: KernelDirection) -> None:
        if direction.state is HOLDING:
            self._write(direction)
        elif direction.state is WAITING:
            direction.transition(grants.AGAIN)
            self._read(direction, True)
        elif direction.state is ENDING:
            self._forward_end(direction)
        elif direction.in_transit():
            self._retry_later(direction)
        else:
            self._delivered(direction)

    def _delivered(self, direction: KernelDirection) -> None:
        """All redirected bytes are in the target's queue: send a FIN or close that has waited for that."""
        direction.retries = 0
        if direction.to_side.fd >= 0:
            direction.to_side.transport.drained()
        if direction.state is GONE:
            self._leave(direction)

    def _leave_when_delivered(self, direction: KernelDirection) -> None:
        """The direction is closed: remove it when all redirected bytes are in the target's queue."""
        if direction.in_transit():
            self._retry_later(direction)
        else:
            self._leave(direction)

    # The ends.

    def _source_ended(self, direction: KernelDirection) -> None:
        if direction.from_side.write_failed:
            direction.from_side.transport.broken()
        elif direction.unread():
            direction.transition(grants.NOT_YET)
            self._retry_later(direction)
            self._update_polling()
        else:
            direction.transition(grants.END)
            self._update_polling()
            self._forward_end(direction)

    def _forward_end(self, direction: KernelDirection) -> None:
        if direction.in_transit():
            self._retry_later(direction)
            return
        direction.transition(grants.SETTLED)
        direction.ended = True
        direction.target.half_close()
        if self.inward.ended and self.outward.ended:
            self._finished()

    def _is_reset(self, incoming: KernelDirection, outgoing: KernelDirection) -> bool:
        """Return whether a side was reset after epoll has reported an error; False if it has only ended in both
        directions."""
        if not is_over(incoming.from_side.sock):
            return False
        self._write_failed(outgoing)
        return True

    def _write_failed(self, direction: KernelDirection) -> None:
        """The target is closed for writing. First relay what it had sent before."""
        side = direction.to_side
        back = self.outward if direction is self.inward else self.inward
        direction.pending = b""
        if direction.state is not GONE:
            direction.transition(grants.LOST)
        if side.write_failed:
            return
        side.write_failed = True
        if side.events:  # epoll would keep reporting the error
            self._poller.unregister(side.fd)
            side.events = 0
        self._update_polling()
        if back.state in (ENDING, ENDED, GONE):
            side.transport.broken()
        elif back.state is GRANTED:
            back.transition(grants.PEER_ENDED)
        elif back.state is READY:
            back.transition(grants.BYTES_CAME)
        if back.state is READING:
            self._guarded(self._read, back)

    def _leave(self, direction: KernelDirection) -> None:
        """Remove a closed direction from the program."""
        program, slot = direction.program, direction.slot
        if program is None:
            return
        direction.leave()
        self._slots.leave(program, slot)
        if self.inward.program is None and self.outward.program is None:
            self._slots.give(program, slot & ~1)

    def _events(self, incoming: KernelDirection, outgoing: KernelDirection) -> int:
        if incoming.from_side.write_failed:
            return 0
        events: int = ERR
        if incoming.state in (READING, READY):
            events |= IN
        elif incoming.state is GRANTED:
            events |= RDHUP
        if outgoing.state is BLOCKED:
            events |= OUT
        # epoll keeps reporting a socket that has ended in both directions, so stop polling it.
        return 0 if events == ERR and outgoing.state in (ENDED, GONE) else events

    # As the owner of the transports.

    def has_unsent(self, transport: DetachedTransport) -> bool:
        _, _, outgoing = self._side_of(transport)
        if outgoing.pending:
            return True
        if outgoing.in_transit():
            self._retry_later(outgoing)
            return True
        return False

    def stop_reading(self, transport: DetachedTransport) -> None:
        _, incoming, _ = self._side_of(transport)
        self._stop(incoming)
        self._update_polling()

    def _stop(self, direction: KernelDirection) -> None:
        """Stop relaying from the source. Bytes that are pending or already redirected are still delivered."""
        direction.stopped = True
        if direction.program is not None:
            direction.program.void(direction.slot)
        if direction.state not in (HOLDING, BLOCKED, GONE):
            direction.transition(grants.LOST)

    def forget(self, transport: DetachedTransport) -> None:
        side, incoming, outgoing = self._side_of(transport)
        self._remove(side)
        self._stop(incoming)
        outgoing.pending = b""
        if outgoing.state is not GONE:
            outgoing.transition(grants.LOST)
        if outgoing.retry_call is not None:
            outgoing.retry_call.cancel()
            outgoing.retry_call = None
        self._leave(outgoing)
        if incoming.state is GONE:
            self._leave_when_delivered(incoming)
        self._update_polling()
