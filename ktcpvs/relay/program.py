"""The BPF program that relays in the kernel, and its maps, through which this process and the program communicate.

`bytecode` describes what the program does with a packet, and the numbers R, P, C, Q, mR, mC, gP, A, T, M, L and N.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import socket
import struct
from functools import cache

from ktcpvs.relay.bytecode import DONE_WORDS, GRANT_WORDS, RECORD, instructions
from ktcpvs.system import bpf
from ktcpvs.system.bpf import HASH, NO_PREALLOC, SOCKMAP, Array, BPFError, Map, RingBuffer, attach, load_program
from ktcpvs.system.tcpinfo import next_sequence

NO_GRANT = NO_LIMIT = (1 << 64) - 1
"""A value that P never reaches and Q never exceeds."""

RECORDS_PER_SLOT = 4
"""The records of one slot for which the ring has room: at most two for each grant, and one more, are ever unread."""

_TRY_TIMEOUT = 1.0
"""Seconds that the trial with one byte may take."""

_SO_COOKIE = 57
_COOKIE_SIZE = 8
_TCP_ESTABLISHED = 1
_RECORD_SIZE = 8 + RECORD.size


class BytesLost(BPFError):
    """Two sockets could not be joined, and bytes were lost in the attempt: both must be reset."""


@cache
def available() -> str | None:
    """Return None if the kernel can relay for this process, else the reason why not, in one line. This relays one byte
    over the loopback interface, once."""
    return bpf.available() or _try_it()


def _try_it() -> str | None:
    """As `available`. A kernel before 5.16 does not show the program where a packet begins."""
    with contextlib.ExitStack() as stack:
        try:
            program = stack.enter_context(contextlib.closing(Program(2)))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            peer, source, _, target = (
                stack.enter_context(sock)
                for _ in range(2)
                for sock in (socket.create_connection(listener.getsockname()), listener.accept()[0])
            )
            program.join(0, 1, source, target)
            peer.sendall(b"?")
            if select.select([source.fileno(), program.fileno()], [], [], _TRY_TIMEOUT)[0] == [source.fileno()]:
                return None
        except OSError as error:
            return f"a try failed: {error.strerror or error}"
    return f"kernel too old: {os.uname().release} does not show where a packet begins"


class Program:
    """The loaded program, with room for `slots` directions. Raises BPFError if the kernel refuses it.

    It uses eleven descriptors. The kernel removes sockets from the maps when they are closed.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._cookies: dict[int, bytes] = {}  # slot -> cookie of its source
        with contextlib.ExitStack() as made:
            enter = made.enter_context
            self._slot_of = enter(Map(HASH, _COOKIE_SIZE, 4, slots, NO_PREALLOC))
            self._targets = enter(Map(SOCKMAP, 4, _COOKIE_SIZE, slots))
            self._sources = enter(Map(SOCKMAP, 4, _COOKIE_SIZE, slots))
            self._done = enter(Array(DONE_WORDS, slots))
            self._grants = enter(Array(GRANT_WORDS, slots))
            self._events = enter(RingBuffer(_ring_size(slots)))
            maps = (self._slot_of, self._targets, self._done, self._grants, self._events)
            self._program = load_program(instructions(*(each.fileno() for each in maps)))
            made.callback(os.close, self._program)
            attach(self._program, self._sources)
            self._made = made.pop_all()

    def close(self) -> None:
        """End all directions, as by `leave`; safe to call twice."""
        self._made.close()
        self._cookies.clear()

    def fileno(self) -> int:
        """Return a descriptor that is readable (epoll, level-triggered) while there are `events`."""
        return self._events.fileno()

    def events(self) -> list[tuple[int, int]]:
        """Return the records since the last call: (slot, HALF_USED, PASSED, BROKEN or OVERFULL). The direction may have
        left in the meantime."""
        return [RECORD.unpack(record) for record in self._events.read()]

    def join(
        self, slot_a: int, slot_b: int, a: socket.socket, b: socket.socket, grant_a: int = 0, grant_b: int = 0
    ) -> None:
        """Let the program handle all packets for `a` and `b`, including those that are unread in the kernel.

        slot_a: of the direction from `a` to `b`; slot_b: of the other. Both are free. grant_a, grant_b: the charge up
        to which packets are redirected. Later packets, or all where it is 0, are passed: so P is what this process has
        to read of a direction's source from now on. There is no limit yet for what is passed: see `limit`.

        The last read of either socket must have returned nothing, or less than its size. The kernel shows the program
        the whole of a packet that was read in part, and no more than MAX_CUT can be cut off.

        Raises BPFError without any effect: EOPNOTSUPP for a socket that is not TCP, or has received or sent a FIN;
        EAGAIN if bytes come too fast. Raises BytesLost.
        """
        for sock in (a, b):
            if not _is_established(sock):
                raise BPFError(errno.EOPNOTSUPP, "only TCP connections that are open in both directions can be joined")
        for slot, source in ((slot_a, a), (slot_b, b)):
            self.clear(slot)
            self._done.words[DONE_WORDS * slot + 3] = _next_of(source)
        for slot, source in ((slot_a, a), (slot_b, b)):
            self._cookies[slot] = source.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_SIZE)
        try:
            for slot in (slot_a, slot_b):
                self._slot_of.update(self._cookies[slot], _NUMBER.pack(slot))
            for slot, target, granted in ((slot_a, b, grant_a), (slot_b, a, grant_b)):
                self._targets.update(_NUMBER.pack(slot), _DESCRIPTOR.pack(target.fileno()))
                if granted:
                    self.grant(slot, 0, granted, max(granted // 2, 1), granted * 3 // 8)
            # Last, when both targets are in the map: from then on the program handles the packets for a source.
            for slot, source in ((slot_a, a), (slot_b, b)):
                self._sources.update(_NUMBER.pack(slot), _DESCRIPTOR.pack(source.fileno()))
        except BPFError as error:
            self.leave(slot_a, slot_b)
            if any(count(slot) for count in (self.passed, self.redirected) for slot in (slot_a, slot_b)):
                raise BytesLost(errno.ECONNABORTED, f"bytes were lost: {error}") from None
            raise
        for sock in (a, b):
            # This makes the kernel check whether to wake a reader, and so show the program the unread packets.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def clear(self, *slots: int) -> None:
        """Reset the counts of these free slots, and grant nothing."""
        for slot in slots:
            self._done.words[DONE_WORDS * slot : DONE_WORDS * (slot + 1)] = _NOTHING_DONE
            self._grants.words[GRANT_WORDS * slot : GRANT_WORDS * (slot + 1)] = _NOTHING_GRANTED

    def leave(self, *slots: int) -> None:
        """End these directions and free the slots. Safe to call twice, and after the sockets were closed.

        Bytes in transit in the kernel are lost: those redirected and not yet in the target's queue, and those passed
        and not yet read. A source that has lost passed bytes can only be closed.
        """
        for slot in slots:
            self.void(slot)
            self._sources.delete(_NUMBER.pack(slot))
            self._targets.delete(_NUMBER.pack(slot))
        for slot in slots:
            if (cookie := self._cookies.pop(slot, None)) is not None:
                self._slot_of.delete(cookie)

    def redirected(self, slot: int) -> int:
        """R: bytes that were redirected to the target, including those in transit."""
        return self._done.words[DONE_WORDS * slot]

    def charged(self, slot: int) -> int:
        """C: the charge of all packets that were redirected."""
        return self._done.words[DONE_WORDS * slot + 4]

    def mark(self, slot: int) -> tuple[int, int]:
        """R and C after the last packet for which C was at most M; (0, 0) when there was none."""
        words, start = self._done.words, DONE_WORDS * slot
        charged = words[start + 6]  # the program writes it last, so what is read next is as new or newer
        return words[start + 5], charged

    def passed(self, slot: int) -> int:
        """P: bytes that were passed to this process, including unread ones."""
        return self._done.words[DONE_WORDS * slot + 1]

    def charged_passed(self, slot: int) -> int:
        """Q: the charge of all packets that were passed."""
        return self._done.words[DONE_WORDS * slot + 7]

    def limit(self, slot: int, charge: int) -> None:
        """Drop a packet that would make Q exceed `charge`, and all later ones; a record OVERFULL reports that."""
        self._grants.words[GRANT_WORDS * slot + 4] = charge

    def grant(self, slot: int, passed: int, allowed: int, threshold: int, mark: int = 0) -> None:
        """Redirect until C is `allowed`, as long as P is `passed`; write a record once when C is above `threshold`;
        note R and C while C is at most `mark`.

        passed: P, all of which must have been read and be in the target's queue. An empty read of the source does not
        prove that: passed bytes may wait in the kernel behind bytes that are redirected to the same socket. There is no
        second record for the same threshold, and none for 0.

        The grant may be void already, without a record. So check `passed` once more after a getsockopt(TCP_INFO) of the
        source, which returns when the program has finished its packet.
        """
        words, start = self._grants.words, GRANT_WORDS * slot
        # gP is written last, since it puts the others in force. x86 shows stores in order. On a processor that does
        # not, an # older A may be used once, which was granted too.
        words[start + 3] = mark
        words[start + 2] = threshold
        words[start + 1] = allowed
        words[start] = passed

    def void(self, slot: int) -> None:
        """Redirect nothing more. The program may still be handling a packet: R changes no more after a
        getsockopt(TCP_INFO) of the source."""
        self._grants.words[GRANT_WORDS * slot] = NO_GRANT


_NUMBER, _DESCRIPTOR = struct.Struct("I"), struct.Struct("Q")
_NOTHING_DONE = memoryview(bytes(8 * DONE_WORDS)).cast("Q")
_NOTHING_GRANTED = memoryview(struct.pack("5Q", NO_GRANT, 0, 0, 0, NO_LIMIT)).cast("Q")


def _is_established(sock: socket.socket) -> bool:
    """Return whether a TCP connection is open in both directions."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED
    except OSError:
        return False


def _next_of(sock: socket.socket) -> int:
    """Return N of a source. Raises BPFError."""
    try:
        return next_sequence(sock)
    except OSError as error:
        raise BPFError(error.errno, f"the next sequence number: {error.strerror}") from None


def _ring_size(slots: int) -> int:
    """Return the size in bytes of a ring with room for all records of that many slots."""
    size = mmap.PAGESIZE
    while size <= slots * RECORDS_PER_SLOT * _RECORD_SIZE:
        size *= 2
    return size
