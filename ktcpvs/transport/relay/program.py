"""The program that relays in the kernel, its maps, and what this process says to it and hears from it.

A direction is a slot: a number, a source socket and a target socket. For each packet that comes for a source the
program decides: redirect it to the target, or pass it on to this process, which relays it. It redirects by *grants*
only, so that no more is under way in the kernel than was granted, and nothing overtakes what was passed.

Per slot the program alone writes how many bytes it redirected (R) and passed (P), and this process alone writes the
grant (gP, A, T): redirect while `P == gP and R + length <= A`. Whatever is passed makes P differ and the grant void,
without a lock. Records in a ring tell this process that R has come above T, and that the first packet of a grant
was passed.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import socket
import struct

from ktcpvs.system.bpf import (
    HASH,
    NO_PREALLOC,
    SK_DROP,
    SK_PASS,
    SOCKMAP,
    Array,
    BPFError,
    Map,
    RingBuffer,
    attach,
    load_program,
)
from ktcpvs.system.instructions import (
    DW,
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R8,
    R9,
    R10,
    Label,
    Line,
    W,
    add,
    assemble,
    call,
    ja,
    jeq,
    jgt,
    jle,
    jne,
    ldx,
    leave,
    map_by_fd,
    mov,
    st,
    stx,
)

HALF_USED, PASSED = 1, 2
"""Kinds of records: R is above T; a packet was passed that would have been redirected, had there been more room."""

NO_GRANT = (1 << 64) - 1
"""No P is ever this number."""

WORDS = 4
"""Words of a slot in `done` and in `grants`."""

RECORDS = 4
"""So many records of a slot there is room for in the ring; at most two are ever unread for each grant."""

_SO_COOKIE = 57
_COOKIE_SIZE = 8
_TCP_ESTABLISHED = 1
_RECORD = struct.Struct("II")
_RECORD_SIZE = 8 + _RECORD.size

# The kernel's helper functions (linux/bpf.h).
_MAP_LOOKUP, _SOCKET_COOKIE, _REDIRECT, _RING_OUTPUT = 1, 46, 52, 130

# Bytes in front of R10, the end of the stack.
_COOKIE, _KIND, _SLOT = -8, -12, -16

# Bytes within a slot of `done` and `grants`.
_R, _P, _TOLD = 0, 8, 16
_GP, _A, _T = 0, 8, 16


class Lost(BPFError):
    """Two sockets could not be joined, and bytes were lost while that was found out: both must be reset."""


def instructions(slot_of: int, targets: int, done: int, grants: int, events: int) -> bytes:
    """The byte code for the maps with these descriptors."""

    program: list[Line] = [
        mov(R6, R1),  # R6: the packet
        ldx(W, R7, R6, 0),  # R7: its length (__sk_buff.len)
        jeq(R7, 0, "drop"),  # a FIN; redirected, it would make the target fail with EPIPE
        call(_SOCKET_COOKIE),  # whose packet? R1 is still the packet
        stx(DW, R10, _COOKIE, R0),
        map_by_fd(R1, slot_of),  # look for slot_of[cookie]
        mov(R2, R10),
        add(R2, _COOKIE),
        call(_MAP_LOOKUP),
        jeq(R0, 0, "pass"),  # none of ours
        ldx(W, R1, R0, 0),
        stx(W, R10, _SLOT, R1),
        map_by_fd(R1, done),  # R8: done[slot]
        mov(R2, R10),
        add(R2, _SLOT),
        call(_MAP_LOOKUP),
        jeq(R0, 0, "pass"),  # never so, but the verifier wants it
        mov(R8, R0),
        map_by_fd(R1, grants),  # R9: grants[slot]
        mov(R2, R10),
        add(R2, _SLOT),
        call(_MAP_LOOKUP),
        jeq(R0, 0, "pass"),  # never so
        mov(R9, R0),
        ldx(DW, R1, R8, _P),  # is there a grant? gP == P
        ldx(DW, R2, R9, _GP),
        jne(R1, R2, "count"),
        ldx(DW, R1, R8, _R),  # is there room? R + length <= A
        add(R1, R7),
        ldx(DW, R2, R9, _A),
        jgt(R1, R2, "used up"),
        stx(DW, R8, _R, R1),  # R += length, before anybody can see the packet at the target
        ldx(DW, R2, R9, _T),  # is it time to tell? R > T
        jle(R1, R2, "redirect"),
        ldx(DW, R3, R8, _TOLD),  # and was this T not told yet?
        jeq(R3, R2, "redirect"),
        stx(DW, R8, _TOLD, R2),
        st(W, R10, _KIND, HALF_USED),  # tell (slot, HALF_USED)
        map_by_fd(R1, events),
        mov(R2, R10),
        add(R2, _SLOT),
        mov(R3, _RECORD.size),
        mov(R4, 0),  # wake the reader, unless it is reading
        call(_RING_OUTPUT),
        Label("redirect"),
        mov(R1, R6),  # the packet goes to targets[slot]
        map_by_fd(R2, targets),
        ldx(W, R3, R10, _SLOT),
        mov(R4, 0),  # out of that socket, not into it
        call(_REDIRECT),
        leave(),  # SK_PASS; SK_DROP when the target is gone
        Label("used up"),
        ldx(DW, R1, R8, _P),  # P += length, before this process is told
        add(R1, R7),
        stx(DW, R8, _P, R1),
        st(W, R10, _KIND, PASSED),  # tell (slot, PASSED)
        map_by_fd(R1, events),
        mov(R2, R10),
        add(R2, _SLOT),
        mov(R3, _RECORD.size),
        mov(R4, 0),
        call(_RING_OUTPUT),
        ja("pass"),
        Label("count"),
        ldx(DW, R1, R8, _P),  # P += length; nobody waits to be told
        add(R1, R7),
        stx(DW, R8, _P, R1),
        Label("pass"),
        mov(R0, SK_PASS),
        leave(),
        Label("drop"),
        mov(R0, SK_DROP),
        leave(),
    ]
    return assemble(program)


class Program:
    """The program at work, with room for `slots` directions. Raises BPFError when the kernel refuses.

    It costs eleven descriptors. Sockets leave the maps by themselves when they are closed.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._cookies: dict[int, bytes] = {}  # slot -> cookie of its source
        with contextlib.ExitStack() as made:
            enter = made.enter_context
            self._slot_of = enter(Map(HASH, _COOKIE_SIZE, 4, slots, NO_PREALLOC))
            self._targets = enter(Map(SOCKMAP, 4, _COOKIE_SIZE, slots))
            self._sources = enter(Map(SOCKMAP, 4, _COOKIE_SIZE, slots))
            self._done = enter(Array(WORDS, slots))
            self._grants = enter(Array(WORDS, slots))
            self._events = enter(RingBuffer(_ring_size(slots)))
            maps = (self._slot_of, self._targets, self._done, self._grants, self._events)
            self._program = load_program(instructions(*(each.fileno() for each in maps)))
            made.callback(os.close, self._program)
            attach(self._program, self._sources)
            self._made = made.pop_all()

    def close(self) -> None:
        """All directions end, as by `part`; safe to call twice."""
        self._made.close()
        self._cookies.clear()

    def fileno(self) -> int:
        """Readable (epoll, level-triggered) while there are `events`."""
        return self._events.fileno()

    def events(self) -> list[tuple[int, int]]:
        """What the program has told since the last call: (slot, HALF_USED or PASSED). Maybe of a direction that has
        parted since."""
        return [_RECORD.unpack(record) for record in self._events.read()]

    def join(
        self, slot_a: int, slot_b: int, a: socket.socket, b: socket.socket, grant_a: int = 0, grant_b: int = 0
    ) -> None:
        """From now on the program sees all that comes for `a` and `b`, and what waits unread in the kernel.

        slot_a: the direction from `a` to `b`; slot_b: the other. Both are free. grant_a, grant_b: bytes that are
        redirected; what comes after them, or 0, is passed, so P is what this process has to read of a direction's
        source from now on.

        The last read of either socket must have found nothing, or less than was asked for. Of a packet that was read in
        part the kernel would show all again, and lose as much later.

        Raises BPFError, and all is as before: EOPNOTSUPP for a socket that is not TCP, or has got or sent a FIN. Raises
        Lost.
        """
        for sock in (a, b):
            if not _is_established(sock):
                raise BPFError(errno.EOPNOTSUPP, "only TCP connections that are open both ways can be joined")
        for slot, source in ((slot_a, a), (slot_b, b)):
            self.clear(slot)
            self._cookies[slot] = source.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_SIZE)
        try:
            for slot in (slot_a, slot_b):
                self._slot_of.update(self._cookies[slot], _NUMBER.pack(slot))
            for slot, target, granted in ((slot_a, b, grant_a), (slot_b, a, grant_b)):
                self._targets.update(_NUMBER.pack(slot), _DESCRIPTOR.pack(target.fileno()))
                if granted:
                    self.grant(slot, 0, granted, max(granted // 2, 1))
            # Last of all, when both targets are there: what comes for a source is judged from then on.
            for slot, source in ((slot_a, a), (slot_b, b)):
                self._sources.update(_NUMBER.pack(slot), _DESCRIPTOR.pack(source.fileno()))
        except BPFError as error:
            self.part(slot_a, slot_b)
            if any(count(slot) for count in (self.passed, self.redirected) for slot in (slot_a, slot_b)):
                raise Lost(errno.ECONNABORTED, f"bytes were lost: {error}") from None
            raise
        for sock in (a, b):
            # The kernel looks whether there is enough to wake a reader: so the program is shown what waits already.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def clear(self, *slots: int) -> None:
        """Nothing has been done in these slots, which are free, and nothing is granted."""
        for slot in slots:
            self._done.words[WORDS * slot : WORDS * (slot + 1)] = _NOTHING_DONE
            self._grants.words[WORDS * slot : WORDS * (slot + 1)] = _NOTHING_GRANTED

    def part(self, *slots: int) -> None:
        """These directions end, and the slots are free. Safe to call twice, and after the sockets were closed.

        What is under way in the kernel is lost: redirected and not yet in the target's queue, or passed and not yet
        read. A source that lost what was passed can only be closed.
        """
        for slot in slots:
            self.void(slot)
            self._sources.delete(_NUMBER.pack(slot))
            self._targets.delete(_NUMBER.pack(slot))
        for slot in slots:
            if (cookie := self._cookies.pop(slot, None)) is not None:
                self._slot_of.delete(cookie)

    def redirected(self, slot: int) -> int:
        """R: so many bytes went to the target, or are on their way there."""
        return self._done.words[WORDS * slot]

    def passed(self, slot: int) -> int:
        """P: so many bytes came to this process, or are on their way."""
        return self._done.words[WORDS * slot + 1]

    def grant(self, slot: int, passed: int, allowed: int, threshold: int) -> None:
        """Redirect until R is `allowed` bytes, as long as P is `passed`; tell once when R is above `threshold`.

        passed: P, all of which must have been read and be in the target's queue. That a read of the source gives
        nothing is no proof: what was passed waits in the kernel behind what is redirected to that same socket. A
        threshold told already is not told again, and 0 never is.

        The grant may be void before it is made, and nobody is told then: so look at `passed` once more, after a
        getsockopt(TCP_INFO) of the source, which waits until the program has done with its packet.
        """
        words, start = self._grants.words, WORDS * slot
        # gP last: it makes the others count. On x86 stores are seen in their order. Where they are not, an older A may
        # be used once: it was granted too.
        words[start + 2] = threshold
        words[start + 1] = allowed
        words[start] = passed

    def void(self, slot: int) -> None:
        """Redirect nothing more. A packet may still be on its way through the program: after a getsockopt(TCP_INFO) of
        the source R does not change any more."""
        self._grants.words[WORDS * slot] = NO_GRANT


_NUMBER, _DESCRIPTOR = struct.Struct("I"), struct.Struct("Q")
_NOTHING_DONE = memoryview(bytes(8 * WORDS)).cast("Q")
_NOTHING_GRANTED = memoryview(struct.pack("4Q", NO_GRANT, 0, 0, 0)).cast("Q")


def _is_established(sock: socket.socket) -> bool:
    """True for a TCP connection that nobody has ended."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED
    except OSError:
        return False


def _ring_size(slots: int) -> int:
    """Bytes of a ring with room for all records of so many slots."""
    size = mmap.PAGESIZE
    while size <= slots * RECORDS * _RECORD_SIZE:
        size *= 2
    return size
