"""The byte code of the kernel relay's program: how it handles a packet, as readable instructions.

A direction has a slot: a number, a source socket and a target socket. The program either redirects a packet for a
source to the target, or passes it to this process, which relays it. It redirects only by *grants*, so that no more than
was granted is in transit in the kernel, and nothing overtakes passed packets.

For each slot, only the program writes the number of bytes redirected (R) and passed (P), and only this process writes
the grant (gP, A, T, M): redirect while `P == gP and C + length + PACKET_COST <= A`. C is the charge of all redirected
packets: their bytes, and PACKET_COST for each, because the kernel needs memory for a packet of one byte as well. Any
packet that is passed makes P differ and the grant void, without a lock. Records in a ring tell this process that C is
above T, and that the first packet of a grant was passed.

While C is at most M, the program notes R and C after each packet (mR, mC). When mR bytes are in the target's queue, at
most `C - mC` is still in transit, in whatever packets.

Passed packets can wait in the kernel where no receive buffer is charged for them. The program charges them in the same
way (Q), and drops the packet that would make Q exceed the limit (L) that this process has written: such a connection is
reset.

A packet may begin with bytes that were received before: TCP's sender has retransmitted them, cut into other packets,
while the first ones were on their way. A reader of the socket does not get them twice, but a program does. So it keeps
the sequence number of the next byte (N), compares it with the packet's, which is in the packet's control block, and
cuts off what is before N.
"""

from __future__ import annotations

import struct

from ktcpvs.model.grants import PACKET_COST
from ktcpvs.system.bpf import SK_DROP, SK_PASS
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
    sub32,
)

HALF_USED, PASSED, BROKEN, OVERFULL = 1, 2, 3, 4
"""Kinds of records. HALF_USED: C is above T. PASSED: a packet was passed because the grant is used up. BROKEN: a packet
does not follow what came before. OVERFULL: Q would have exceeded L. After BROKEN and OVERFULL the program drops this
packet and all later ones, so that the connection can only be reset."""

DONE_WORDS, GRANT_WORDS = 8, 5
"""Words of a slot in `done` and in `grants`."""

MAX_CUT = 512 << 10
"""Bytes that can be cut off a packet: the length of the longest packet that Linux makes of what it received."""

_MAX_HELPER_CUT = 4095
"""Bytes that one call of the helper cuts off at most."""

RECORD = struct.Struct("II")
"""slot, kind"""

# The kernel's helper functions (linux/bpf.h).
_MAP_LOOKUP, _SOCKET_COOKIE, _ADJUST_ROOM, _REDIRECT, _RING_OUTPUT = 1, 46, 50, 52, 130

# Bytes within struct __sk_buff (linux/bpf.h). Its cb[0] is where TCP keeps a packet's first sequence number.
_LEN, _SEQUENCE = 0, 48

# Bytes in front of R10, the end of the stack.
_COOKIE, _KIND, _SLOT = -8, -12, -16

# Bytes within a slot of `done` and `grants`.
_R, _P, _TOLD, _NEXT, _IS_BROKEN, _C, _MARK_R, _MARK_C, _Q = 0, 8, 16, 24, 28, 32, 40, 48, 56
_GP, _A, _T, _M, _L = 0, 8, 16, 24, 32


def instructions(slot_of: int, targets: int, done: int, grants: int, events: int) -> bytes:
    """Return the byte code for the maps with these descriptors."""

    tell: list[Line] = [  # a record to the ring: the slot, and the kind that follows it on the stack
        map_by_fd(R1, events),
        mov(R2, R10),
        add(R2, _SLOT),
        mov(R3, RECORD.size),
        mov(R4, 0),  # wake the reader, unless it is reading
        call(_RING_OUTPUT),
    ]
    # Unrolled: the verifier refuses a loop to a process without CAP_PERFMON, because it also follows the jumps that a
    # processor may predict wrongly, and these need not end.
    cut: list[Line] = [
        jle(R9, _MAX_HELPER_CUT, "rest"),
        mov(R1, R6),
        mov(R2, -_MAX_HELPER_CUT),
        mov(R3, 0),
        mov(R4, 0),
        call(_ADJUST_ROOM),
        jne(R0, 0, "broken"),  # no memory
        add(R9, -_MAX_HELPER_CUT),
    ] * (MAX_CUT // _MAX_HELPER_CUT)
    program: list[Line] = [
        mov(R6, R1),  # R6: the packet
        ldx(W, R7, R6, _LEN),  # R7: its length
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
        jeq(R0, 0, "pass"),  # cannot happen, but the verifier asks for it
        mov(R8, R0),
        ldx(W, R9, R8, _NEXT),  # does it begin with N?
        ldx(W, R1, R6, _SEQUENCE),
        jne(R9, R1, "cut"),
        Label("follows"),
        add(R9, R7),  # N += length
        stx(W, R8, _NEXT, R9),
        map_by_fd(R1, grants),  # R9: grants[slot]
        mov(R2, R10),
        add(R2, _SLOT),
        call(_MAP_LOOKUP),
        jeq(R0, 0, "pass"),  # cannot happen
        mov(R9, R0),
        st(W, R10, _KIND, 0),  # no record is due
        ldx(DW, R1, R8, _P),  # is there a grant? gP == P
        ldx(DW, R2, R9, _GP),
        jne(R1, R2, "count"),
        ldx(DW, R3, R8, _C),  # is there room? C + length + PACKET_COST <= A
        add(R3, R7),
        add(R3, PACKET_COST),
        ldx(DW, R2, R9, _A),
        jgt(R3, R2, "used up"),
        ldx(DW, R1, R8, _R),  # R += length, before anybody can see the packet at the target
        add(R1, R7),
        stx(DW, R8, _R, R1),
        stx(DW, R8, _C, R3),
        ldx(DW, R2, R9, _M),  # is it to be noted? C <= M
        jgt(R3, R2, "noted"),
        stx(DW, R8, _MARK_R, R1),
        stx(DW, R8, _MARK_C, R3),  # the reader reads this one first
        Label("noted"),
        ldx(DW, R2, R9, _T),  # is it time to tell? C > T
        jle(R3, R2, "redirect"),
        ldx(DW, R1, R8, _TOLD),  # and was this T not told yet?
        jeq(R1, R2, "redirect"),
        stx(DW, R8, _TOLD, R2),
        st(W, R10, _KIND, HALF_USED),  # tell (slot, HALF_USED)
        *tell,
        Label("redirect"),
        mov(R1, R6),  # the packet goes to targets[slot]
        map_by_fd(R2, targets),
        ldx(W, R3, R10, _SLOT),
        mov(R4, 0),  # out of that socket, not into it
        call(_REDIRECT),
        leave(),  # SK_PASS; SK_DROP when the target is gone
        Label("used up"),
        st(W, R10, _KIND, PASSED),
        Label("count"),
        ldx(DW, R1, R8, _Q),  # is there room? Q + length + PACKET_COST <= L
        add(R1, R7),
        add(R1, PACKET_COST),
        ldx(DW, R2, R9, _L),
        jgt(R1, R2, "overfull"),
        ldx(DW, R2, R8, _P),  # P += length, before this process is told; and before Q, which is read first
        add(R2, R7),
        stx(DW, R8, _P, R2),
        stx(DW, R8, _Q, R1),
        ldx(W, R1, R10, _KIND),
        jeq(R1, 0, "pass"),
        *tell,  # (slot, PASSED)
        Label("pass"),
        mov(R0, SK_PASS),
        leave(),
        Label("drop"),
        mov(R0, SK_DROP),
        leave(),
        Label("cut"),  # R9: bytes that have come before, N - sequence
        sub32(R9, R1),
        jgt(R9, MAX_CUT, "broken"),  # or there is a gap, which looks like 4 GB
        jle(R7, R9, "broken"),  # nothing new; TCP lets none of these through
        *cut,
        Label("rest"),
        mov(R1, R6),
        mov(R2, 0),
        sub32(R2, R9),
        mov(R3, 0),
        mov(R4, 0),
        call(_ADJUST_ROOM),
        jne(R0, 0, "broken"),
        ldx(W, R7, R6, _LEN),  # what is left follows
        ldx(W, R9, R8, _NEXT),
        ja("follows"),
        Label("overfull"),
        ldx(W, R1, R8, _NEXT),  # N -= length: it has not come, so nothing that comes later follows
        sub32(R1, R7),
        stx(W, R8, _NEXT, R1),
        st(W, R10, _KIND, OVERFULL),
        ja("end"),
        Label("broken"),
        st(W, R10, _KIND, BROKEN),
        Label("end"),
        ldx(W, R1, R8, _IS_BROKEN),  # tell (slot, BROKEN or OVERFULL) once
        jne(R1, 0, "drop"),
        st(W, R8, _IS_BROKEN, 1),
        *tell,
        ja("drop"),
    ]
    return assemble(program)
