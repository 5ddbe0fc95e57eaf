"""The kernel relay's program redirects granted packets, passes the others, reports that once, and loses nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from overlap import connected_at, make_room, takes_back
from reactors import descriptors
from servers import LOOPBACK, chunks, read_all, read_exactly, reset, wait_for

from ktcpvs.model.grants import PACKET_COST
from ktcpvs.relay import program as module
from ktcpvs.relay.bytecode import (
    BROKEN,
    DONE_WORDS,
    GRANT_WORDS,
    HALF_USED,
    MAX_CUT,
    OVERFULL,
    PASSED,
    instructions,
)
from ktcpvs.relay.program import NO_GRANT, BytesLost, Program
from ktcpvs.system.bpf import BPFError, Map, available
from ktcpvs.system.instructions import disassemble

kernel = pytest.mark.skipif(available() is not None, reason=str(available()))

ROOT = Path(__file__).parents[2]

ALL = 1 << 40
"""A grant that is never used up, and a threshold that is never reached."""


def test_the_byte_code() -> None:
    code = instructions(slot_of=1, targets=2, done=3, grants=4, events=5)
    names = {1: "slot_of", 2: "targets", 3: "done", 4: "grants", 5: "events"}
    lines = disassemble(code, names)
    first = next(number for number, line in enumerate(lines) if "<= 4095" in line)
    steps = [number for number, line in enumerate(lines) if "<= 4095" in line]
    assert len(steps) == MAX_CUT // 4095
    without_numbers = [[line.split(" ", 1)[1] for line in lines[step + 1 : step + 8]] for step in steps]
    assert without_numbers == [without_numbers[0]] * len(steps)  # each step cuts off as much as the first
    assert "\n".join(lines[: first + 8]) == LISTING


LISTING = """\
 0 r6 = r1
 1 r7 = u32 [r6+0]
 2 if r7 == 0 goto 90
 3 call 46
 4 u64 [r10-8] = r0
 5 r1 = map slot_of
 7 r2 = r10
 8 r2 += -8
 9 call 1
10 if r0 == 0 goto 88
11 r1 = u32 [r0+0]
12 u32 [r10-16] = r1
13 r1 = map done
15 r2 = r10
16 r2 += -16
17 call 1
18 if r0 == 0 goto 88
19 r8 = r0
20 r9 = u32 [r8+24]
21 r1 = u32 [r6+48]
22 if r9 != r1 goto 92
23 r9 += r7
24 u32 [r8+24] = r9
25 r1 = map grants
27 r2 = r10
28 r2 += -16
29 call 1
30 if r0 == 0 goto 88
31 r9 = r0
32 u32 [r10-12] = 0
33 r1 = u64 [r8+8]
34 r2 = u64 [r9+0]
35 if r1 != r2 goto 70
36 r3 = u64 [r8+32]
37 r3 += r7
38 r3 += 2048
39 r2 = u64 [r9+8]
40 if r3 > r2 goto 69
41 r1 = u64 [r8+0]
42 r1 += r7
43 u64 [r8+0] = r1
44 u64 [r8+32] = r3
45 r2 = u64 [r9+24]
46 if r3 > r2 goto 49
47 u64 [r8+40] = r1
48 u64 [r8+48] = r3
49 r2 = u64 [r9+16]
50 if r3 <= r2 goto 62
51 r1 = u64 [r8+16]
52 if r1 == r2 goto 62
53 u64 [r8+16] = r2
54 u32 [r10-12] = 1
55 r1 = map events
57 r2 = r10
58 r2 += -16
59 r3 = 8
60 r4 = 0
61 call 130
62 r1 = r6
63 r2 = map targets
65 r3 = u32 [r10-16]
66 r4 = 0
67 call 52
68 exit
69 u32 [r10-12] = 2
70 r1 = u64 [r8+56]
71 r1 += r7
72 r1 += 2048
73 r2 = u64 [r9+32]
74 if r1 > r2 goto 1129
75 r2 = u64 [r8+8]
76 r2 += r7
77 u64 [r8+8] = r2
78 u64 [r8+56] = r1
79 r1 = u32 [r10-12]
80 if r1 == 0 goto 88
81 r1 = map events
83 r2 = r10
84 r2 += -16
85 r3 = 8
86 r4 = 0
87 call 130
88 r0 = 1
89 exit
90 r0 = 0
91 exit
92 r9 -= (u32) r1
93 if r9 > 524288 goto 1134
94 if r7 <= r9 goto 1134
95 if r9 <= 4095 goto 1119
96 r1 = r6
97 r2 = -4095
98 r3 = 0
99 r4 = 0
100 call 50
101 if r0 != 0 goto 1134
102 r9 += -4095"""


WITH_THESE_ALONE = """
import sys
from ktcpvs.system import privileges
from ktcpvs.relay.program import available
numbers = [privileges.KEPT[name] for name in sys.argv[1:]]
privileges._set_capabilities(sum(1 << number for number in numbers))
assert privileges.permitted() == sum(1 << number for number in numbers)
print(available())
"""


@kernel
@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["CAP_BPF", "CAP_NET_ADMIN"], "None"),
        (["CAP_BPF"], "needs CAP_BPF and CAP_NET_ADMIN"),
        (["CAP_NET_ADMIN"], "needs CAP_BPF and CAP_NET_ADMIN"),
    ],
)
def test_the_capabilities_that_it_needs(names: list[str], why: str) -> None:
    """It needs these and no others. Without CAP_PERFMON, which allows reading the kernel's memory, the verifier is
    stricter."""
    done = subprocess.run(
        [sys.executable, "-c", WITH_THESE_ALONE, *names], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.stdout, done.stderr) == (f"{why}\n", "")


class Relay(NamedTuple):
    """client <-> a, joined with b <-> server. Slot `ab` is the direction from a to b."""

    client: socket.socket
    a: socket.socket
    b: socket.socket
    server: socket.socket
    ab: int
    ba: int


@pytest.fixture
def program() -> Iterator[Program]:
    before = descriptors()
    program = Program(64)
    yield program
    program.close()
    program.close()
    assert descriptors() == before


def connect(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return two ends of a TCP connection, which send each write at once."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        make_room(listener)
        one = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=10))
        other = stack.enter_context(listener.accept()[0])
    for sock in (one, other):
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


@pytest.fixture
def sockets(program: Program) -> Iterator[Callable[[], Relay]]:
    """Makes the sockets of a relay, not yet joined, with two free slots."""
    with contextlib.ExitStack() as stack:
        slots = iter(range(program.slots))

        def make() -> Relay:
            return Relay(*connect(stack), *reversed(connect(stack)), next(slots), next(slots))

        yield make


@pytest.fixture
def relay(program: Program, sockets: Callable[[], Relay]) -> Relay:
    relay = sockets()
    program.join(relay.ab, relay.ba, relay.a, relay.b)
    return relay


def counts(program: Program, slot: int) -> tuple[int, int]:
    """Return R and P."""
    return program.redirected(slot), program.passed(slot)


def nothing_to_read(sock: socket.socket) -> bool:
    """Return False if there are bytes, an end or an error."""
    return not select.select([sock], [], [], 0)[0]


def more_than_fits(target: socket.socket, reader: socket.socket) -> int:
    """Return more bytes than the reduced buffers of these sockets can hold."""
    target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    return 3_000_000


class Facts(NamedTuple):
    """The TCP_INFO of a socket: its state, bytes received (a FIN counts as one), bytes ever queued for sending."""

    state: int
    came: int
    queued: int


def facts(sock: socket.socket) -> Facts:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (came,), (not_sent,) = struct.unpack_from("Q", info, 128), struct.unpack_from("I", info, 144)
    sent, again = struct.unpack_from("QQ", info, 200)
    return Facts(info[0], came, sent - again + not_sent)


# How the program handles a packet.


@kernel
def test_without_a_grant_it_passes(program: Program, relay: Relay) -> None:
    relay.client.sendall(b"hello")
    assert read_exactly(relay.a, 5) == b"hello"
    relay.server.sendall(b"good day")
    assert read_exactly(relay.b, 8) == b"good day"
    assert (counts(program, relay.ab), counts(program, relay.ba)) == ((0, 5), (0, 8))
    assert program.events() == []


@kernel
def test_with_a_grant_it_redirects(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, ALL, ALL)
    relay.client.sendall(b"hello")
    assert read_exactly(relay.server, 5) == b"hello"
    relay.server.sendall(b"good day")  # the other direction has no grant
    assert read_exactly(relay.b, 8) == b"good day"
    program.grant(relay.ba, 8, ALL, ALL)
    relay.server.sendall(b"again")
    assert read_exactly(relay.client, 5) == b"again"
    assert (counts(program, relay.ab), counts(program, relay.ba)) == ((5, 0), (5, 8))
    assert nothing_to_read(relay.a)
    assert program.events() == []


@kernel
def test_a_grant_of_another_p_is_void(program: Program, relay: Relay) -> None:
    relay.client.sendall(b"hello")
    read_exactly(relay.a, 5)
    program.grant(relay.ab, 4, ALL, ALL)
    relay.client.sendall(b"hello")
    assert read_exactly(relay.a, 5) == b"hello"
    assert counts(program, relay.ab) == (0, 10)
    assert program.events() == []


@kernel
def test_a_threshold_is_told_once(program: Program, relay: Relay) -> None:
    epoll = select.epoll()
    epoll.register(program.fileno(), select.EPOLLIN)

    def send(length: int) -> list[tuple[int, int]]:
        relay.client.sendall(bytes(length))
        read_exactly(relay.server, length)
        ready = epoll.poll(0)
        events = program.events()
        assert bool(ready) == bool(events)
        return events

    threshold = PACKET_COST + 500
    program.grant(relay.ab, 0, ALL, threshold)
    assert send(500) == []
    assert send(1) == [(relay.ab, HALF_USED)]
    assert send(100) == []
    program.grant(relay.ab, 0, ALL, threshold)
    assert send(100) == []
    program.grant(relay.ab, 0, ALL, 5 * PACKET_COST + 1500)
    assert send(799) == []
    assert send(100) == [(relay.ab, HALF_USED)]
    assert counts(program, relay.ab) == (1600, 0)
    assert program.charged(relay.ab) == 1600 + 6 * PACKET_COST
    epoll.close()


@kernel
def test_a_grant_is_used_up(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, 1000 + PACKET_COST, ALL)
    relay.client.sendall(bytes(1000))
    read_exactly(relay.server, 1000)
    relay.client.sendall(b"1")
    assert read_exactly(relay.a, 1) == b"1"
    assert counts(program, relay.ab) == (1000, 1)
    assert program.events() == [(relay.ab, PASSED)]
    relay.client.sendall(b"2")
    assert read_exactly(relay.a, 1) == b"2"
    assert program.events() == []
    program.grant(relay.ab, 2, 1001 + 2 * PACKET_COST, ALL)
    relay.client.sendall(b"345")  # the grant has room for one byte, but this is one packet
    assert read_exactly(relay.a, 3) == b"345"
    assert counts(program, relay.ab) == (1000, 5)
    assert program.events() == [(relay.ab, PASSED)]


@kernel
def test_packets_use_a_grant_up_however_small_they_are(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, 10 * (PACKET_COST + 1), ALL)
    for _ in range(10):
        relay.client.sendall(b"x")
        assert read_exactly(relay.server, 1) == b"x"
    relay.client.sendall(b"y")
    assert read_exactly(relay.a, 1) == b"y"
    assert counts(program, relay.ab) == (10, 1)
    assert program.events() == [(relay.ab, PASSED)]


@kernel
def test_the_place_is_noted_until_a_charge(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, ALL, ALL, 2 * PACKET_COST + 30)
    assert program.mark(relay.ab) == (0, 0)
    marks = []
    for size in (10, 20, 30):
        relay.client.sendall(bytes(size))
        read_exactly(relay.server, size)
        marks.append(program.mark(relay.ab))
    assert marks == [(10, PACKET_COST + 10), (30, 2 * PACKET_COST + 30), (30, 2 * PACKET_COST + 30)]
    program.grant(relay.ab, 0, ALL, ALL, ALL)
    relay.client.sendall(bytes(40))
    read_exactly(relay.server, 40)
    assert program.mark(relay.ab) == (100, program.charged(relay.ab)) == (100, 4 * PACKET_COST + 100)


@kernel
@pytest.mark.parametrize("granted", [False, True])
def test_what_is_passed_beyond_the_limit_is_dropped_and_told_once(
    program: Program, relay: Relay, granted: bool
) -> None:
    """Later packets are dropped too, even if there is room again, since bytes before them are missing."""
    program.limit(relay.ab, 3 * (PACKET_COST + 1))
    for _ in range(3):
        relay.client.sendall(b"x")
        assert read_exactly(relay.a, 1) == b"x"
    if granted:
        program.grant(relay.ab, 3, 0, ALL)
    for _ in range(3):
        relay.client.sendall(b"y")
    wait_for(lambda: facts(relay.a).came == 6)
    program.limit(relay.ab, ALL)
    program.grant(relay.ab, 3, ALL, ALL)
    relay.client.sendall(b"z")
    wait_for(lambda: facts(relay.a).came == 7)
    assert (nothing_to_read(relay.a), nothing_to_read(relay.server)) == (True, True)
    assert program.events() == [(relay.ab, OVERFULL)]
    assert counts(program, relay.ab) == (0, 3)
    assert program.charged_passed(relay.ab) == 3 * (PACKET_COST + 1)


@kernel
def test_a_grant_is_taken_back(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, ALL, ALL)
    relay.client.sendall(b"1")
    assert read_exactly(relay.server, 1) == b"1"
    program.void(relay.ab)
    relay.client.sendall(b"2")
    assert read_exactly(relay.a, 1) == b"2"
    assert counts(program, relay.ab) == (1, 1)
    assert program.events() == []


@kernel
def test_an_end_is_not_redirected(program: Program, relay: Relay) -> None:
    """The source's reader gets the FIN; the target stays open in both directions."""
    program.grant(relay.ab, 0, ALL, ALL)
    program.grant(relay.ba, 0, ALL, ALL)
    epoll = select.epoll()
    epoll.register(relay.a.fileno(), select.EPOLLRDHUP)
    relay.client.sendall(b"last words")
    relay.client.shutdown(socket.SHUT_WR)
    assert read_exactly(relay.server, 10) == b"last words"
    assert epoll.poll(10) == [(relay.a.fileno(), select.EPOLLRDHUP)]
    epoll.close()
    assert relay.a.recv(1) == b""
    assert facts(relay.a).came - 1 == 10
    assert nothing_to_read(relay.server)
    relay.server.sendall(b"answer")
    assert read_exactly(relay.client, 6) == b"answer"
    relay.b.sendall(b"!")
    relay.b.shutdown(socket.SHUT_WR)
    assert read_all(relay.server) == b"!"
    assert (counts(program, relay.ab), counts(program, relay.ba)) == ((10, 0), (6, 0))


@kernel
def test_a_socket_with_an_unknown_cookie(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, ALL, ALL)
    program._slot_of.delete(relay.a.getsockopt(socket.SOL_SOCKET, 57, 8))
    relay.client.sendall(b"whose?")
    assert read_exactly(relay.a, 6) == b"whose?"
    assert counts(program, relay.ab) == (0, 0)


@kernel
def test_directions_do_not_mix(program: Program, sockets: Callable[[], Relay]) -> None:
    relays = [sockets() for _ in range(5)]
    for relay in relays:
        program.join(relay.ab, relay.ba, relay.a, relay.b)
    for number, relay in enumerate(relays):
        program.grant(relay.ab, 0, (1000 + PACKET_COST) * number, ALL)
        relay.client.sendall(bytes(100 * number + 1))
    for number, relay in enumerate(relays):
        read_exactly(relay.server if number else relay.a, 100 * number + 1)
        assert counts(program, relay.ab) == ((100 * number + 1, 0) if number else (0, 1))
        assert counts(program, relay.ba) == (0, 0)
    assert program.events() == [(relays[0].ab, PASSED)]


# Retransmitted bytes.

LONG = random.Random(11).randbytes(300_000)


@kernel
@pytest.mark.parametrize("how", ["redirected", "passed"])
@pytest.mark.parametrize("again", [1, 4094, 4095, 4096, 8190, 60_000])
def test_bytes_that_come_again_are_cut_off(program: Program, relay: Relay, again: int, how: str) -> None:
    """They are at the beginning of a packet that contains new bytes too."""
    reader = relay.server if how == "redirected" else relay.a
    if how == "redirected":
        program.grant(relay.ab, 0, ALL, ALL)
    relay.client.sendall(LONG[:200_000])
    assert read_exactly(reader, 200_000) == LONG[:200_000]
    with takes_back(relay.client, again) as client:
        client.sendall(LONG[200_000 - again : 210_000])
        assert read_exactly(reader, 10_000) == LONG[200_000:210_000]
        client.sendall(LONG[210_000:])
        assert read_exactly(reader, 90_000) == LONG[210_000:]
        assert counts(program, relay.ab) == ((300_000, 0) if how == "redirected" else (0, 300_000))
        relay.a.sendall(b"back")
        assert read_exactly(client, 4) == b"back"
        assert (nothing_to_read(relay.a), nothing_to_read(relay.server)) == (True, True)
    assert program.events() == []


@kernel
def test_bytes_come_again_that_were_read_before_it_was_joined(program: Program, sockets: Callable[[], Relay]) -> None:
    relay = sockets()
    relay.client.sendall(b"before")
    assert read_exactly(relay.a, 6) == b"before"
    program.join(relay.ab, relay.ba, relay.a, relay.b, ALL, ALL)
    with takes_back(relay.client, 4) as client:
        client.sendall(b"fore, and after")
        assert read_exactly(relay.server, 11) == b", and after"
    assert counts(program, relay.ab) == (11, 0)


@kernel
def test_a_packet_that_was_read_in_part(program: Program, sockets: Callable[[], Relay]) -> None:
    """The kernel shows the program the whole packet."""
    relay = sockets()
    relay.client.sendall(b"one packet")
    assert read_exactly(relay.a, 4) == b"one "
    program.join(relay.ab, relay.ba, relay.a, relay.b, ALL, ALL)
    assert read_exactly(relay.server, 6) == b"packet"
    relay.client.sendall(b", and one more")
    assert read_exactly(relay.server, 14) == b", and one more"
    assert counts(program, relay.ab) == (20, 0)


@kernel
@pytest.mark.parametrize("gap", [1, 1 << 31, -15, -MAX_CUT - 1])
def test_what_does_not_follow_is_dropped_and_told_once(program: Program, relay: Relay, gap: int) -> None:
    """This never happens with TCP, but if it did, loss with a report is better than wrong data."""
    program.grant(relay.ab, 0, ALL, ALL)
    relay.client.sendall(b"first")
    assert read_exactly(relay.server, 5) == b"first"
    word = DONE_WORDS * relay.ab + 3
    program._done.words[word] = (program._done.words[word] - gap) & 0xFFFFFFFF
    for _ in range(3):
        relay.client.sendall(b"later")
    wait_for(lambda: facts(relay.a).came == 20)
    assert (nothing_to_read(relay.a), nothing_to_read(relay.server)) == (True, True)
    assert program.events() == [(relay.ab, BROKEN)]
    assert counts(program, relay.ab) == (5, 0)


@kernel
@pytest.mark.parametrize("before", [0, 1, 5, 10, 200_000])
def test_sequence_numbers_begin_anew_at_the_top(program: Program, before: int) -> None:
    """The first byte is sent before the sockets are joined. before: bytes from there to the wrap-around."""
    with contextlib.ExitStack() as stack:
        client, a, server, b = map(stack.enter_context, (*connected_at(-1 - before), *connect(stack)))
        client.sendall(b"1")
        assert read_exactly(a, 1) == b"1"
        program.join(0, 1, a, b, ALL, ALL)
        client.sendall(LONG)
        assert read_exactly(server, len(LONG)) == LONG
        again = stack.enter_context(takes_back(client, 20))
        again.sendall(LONG[-20:] + b"last")
        assert read_exactly(server, 4) == b"last"
        assert counts(program, 0) == (len(LONG) + 4, 0)
    assert program.events() == []


@kernel
def test_an_urgent_byte_keeps_its_place(program: Program, sockets: Callable[[], Relay]) -> None:
    """An urgent byte is sent before and after the sockets are joined."""
    relay = sockets()
    relay.client.sendall(b"a")
    relay.client.send(b"!", socket.MSG_OOB)
    relay.client.sendall(b"b")
    wait_for(lambda: facts(relay.a).came == 3)
    program.join(relay.ab, relay.ba, relay.a, relay.b, ALL, ALL)
    relay.client.send(b"?", socket.MSG_OOB)
    relay.client.sendall(b"c")
    assert read_exactly(relay.server, 5) == b"a!b?c"


@kernel
def test_the_kernel_is_tried_with_one_byte() -> None:
    before = descriptors()
    module.available.cache_clear()
    assert module.available() is None
    assert descriptors() == before


# Joining and leaving.


@kernel
def test_what_came_before_counts_as_passed(program: Program, sockets: Callable[[], Relay]) -> None:
    """Bytes read before do not count. Unread bytes are passed at once, so that this process knows how much to read."""
    relay = sockets()
    relay.client.sendall(b"before")
    assert read_exactly(relay.a, 6) == b"before"
    relay.client.sendall(b"waiting")
    wait_for(lambda: facts(relay.a).came == 13)
    program.join(relay.ab, relay.ba, relay.a, relay.b)
    assert (counts(program, relay.ab), counts(program, relay.ba)) == ((0, 7), (0, 0))
    program.grant(relay.ab, 7, ALL, ALL)
    relay.client.sendall(b"after")
    assert read_exactly(relay.server, 5) == b"after"
    assert read_exactly(relay.a, 7) == b"waiting"


@kernel
def test_what_came_before_is_redirected_where_it_is_granted(program: Program, sockets: Callable[[], Relay]) -> None:
    relay = sockets()
    relay.client.sendall(b"unread")
    relay.server.sendall(b"unread too")
    wait_for(lambda: not nothing_to_read(relay.a) and not nothing_to_read(relay.b))
    program.join(relay.ab, relay.ba, relay.a, relay.b, ALL, PACKET_COST + 8)
    assert read_exactly(relay.server, 6) == b"unread"
    assert counts(program, relay.ab) == (6, 0)
    assert counts(program, relay.ba) == (0, 10)  # exceeds the grant
    assert read_exactly(relay.b, 10) == b"unread too"
    relay.client.sendall(b", and later")
    assert read_exactly(relay.server, 11) == b", and later"


@kernel
def test_a_half_closed_socket_cannot_be_joined(program: Program, sockets: Callable[[], Relay]) -> None:
    for which in ("client", "server", "a", "b"):
        relay = sockets()
        getattr(relay, which).shutdown(socket.SHUT_WR)
        wait_for(lambda relay=relay: {facts(relay.a).state, facts(relay.b).state} != {1})
        with pytest.raises(BPFError, match="open in both directions") as caught:
            program.join(relay.ab, relay.ba, relay.a, relay.b)
        assert caught.value.errno == errno.EOPNOTSUPP
        assert not isinstance(caught.value, BytesLost)
        assert is_empty(program, relay)


@kernel
def test_other_sockets_cannot_be_joined(program: Program, sockets: Callable[[], Relay]) -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(BPFError, match="only TCP") as caught:
        program.join(0, 1, one, sockets().a)
    assert caught.value.errno == errno.EOPNOTSUPP


def is_empty(program: Program, relay: Relay) -> bool:
    """Return whether none of the sockets is in a map."""
    cookies = [sock.getsockopt(socket.SOL_SOCKET, 57, 8) for sock in (relay.a, relay.b)]
    slots = [struct.pack("I", slot) for slot in (relay.ab, relay.ba)]
    found = [program._slot_of.lookup(cookie) for cookie in cookies]
    return found + [program._targets.lookup(slot) for slot in slots] == [None] * 4


class Interrupted:
    """A map that calls a function before the socket with number `at` (0 or 1) is added."""

    def __init__(self, targets: Map, at: int, happen: Callable[[], object]) -> None:
        self._targets, self._at, self._happen = targets, at, happen
        self.delete = targets.delete
        self.lookup = targets.lookup

    def update(self, key: bytes, value: bytes) -> None:
        if self._at == 0:
            self._happen()
        self._at -= 1
        self._targets.update(key, value)


@kernel
@pytest.mark.parametrize("at", [0, 1])
def test_a_socket_is_half_closed_while_it_is_joined(
    program: Program, sockets: Callable[[], Relay], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    relay = sockets()

    def end() -> None:
        for peer, sock in ((relay.client, relay.a), (relay.server, relay.b)):
            peer.shutdown(socket.SHUT_WR)
            wait_for(lambda sock=sock: facts(sock).state == 8)

    monkeypatch.setattr(program, "_targets", Interrupted(program._targets, at, end))
    with pytest.raises(BPFError, match="update of a map: Operation not supported") as caught:
        program.join(relay.ab, relay.ba, relay.a, relay.b)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert not isinstance(caught.value, BytesLost)
    assert is_empty(program, relay)
    relay.a.sendall(b"as before")
    assert read_exactly(relay.client, 9) == b"as before"
    assert (relay.a.recv(1), relay.b.recv(1)) == (b"", b"")


@kernel
def test_bytes_that_are_lost_when_joining_fails(
    program: Program, sockets: Callable[[], Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` is in the map and receives something; then adding `b` fails, since it is half-closed."""
    relay = sockets()

    def end() -> None:
        relay.client.sendall(b"lost")
        wait_for(lambda: program.passed(relay.ab) == 4)
        relay.server.shutdown(socket.SHUT_WR)
        wait_for(lambda: facts(relay.b).state == 8)

    monkeypatch.setattr(program, "_sources", Interrupted(program._sources, 1, end))
    with pytest.raises(BytesLost, match="bytes were lost: update of a map: Operation not supported"):
        program.join(relay.ab, relay.ba, relay.a, relay.b)
    assert is_empty(program, relay)


@kernel
def test_passed_bytes_wait_behind_what_goes_to_their_source(program: Program, relay: Relay) -> None:
    """So an empty read does not show that all passed bytes have been read; only P does."""
    program.grant(relay.ba, 0, ALL, ALL)
    size = more_than_fits(relay.a, relay.client)
    relay.server.sendall(bytes(size))
    wait_for(lambda: program.redirected(relay.ba) == size)
    assert facts(relay.a).queued < size
    relay.client.sendall(b"hello")
    wait_for(lambda: program.passed(relay.ab) == 5)
    assert not nothing_to_read(relay.a)  # a reader is even woken, but finds nothing
    relay.a.setblocking(False)
    with pytest.raises(BlockingIOError):
        relay.a.recv(5)
    relay.a.settimeout(10)
    read_exactly(relay.client, size)
    assert read_exactly(relay.a, 5) == b"hello"


@kernel
def test_what_is_under_way_is_lost_by_parting(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, ALL, ALL)
    size = more_than_fits(relay.b, relay.server)
    relay.client.sendall(bytes(size))
    wait_for(lambda: program.redirected(relay.ab) == size)
    program.leave(relay.ab, relay.ba)
    relay.b.shutdown(socket.SHUT_WR)
    arrived = len(read_all(relay.server))
    assert arrived == facts(relay.b).queued < size


@kernel
def test_parted_sockets_are_as_before(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, ALL, ALL)
    relay.client.sendall(b"1")
    assert read_exactly(relay.server, 1) == b"1"
    relay.server.sendall(b"2")
    assert read_exactly(relay.b, 1) == b"2"
    program.leave(relay.ab, relay.ba)
    assert is_empty(program, relay)
    relay.client.sendall(b"3")
    assert read_exactly(relay.a, 1) == b"3"
    assert counts(program, relay.ab) == (1, 0)
    program.leave(relay.ab, relay.ba)
    program.join(relay.ab, relay.ba, relay.a, relay.b)
    assert program._grants.words[GRANT_WORDS * relay.ab] == NO_GRANT
    assert counts(program, relay.ab) == (0, 0)
    relay.client.sendall(b"4")
    assert read_exactly(relay.a, 1) == b"4"
    assert counts(program, relay.ab) == (0, 1)


@kernel
def test_a_target_that_is_gone(program: Program, relay: Relay) -> None:
    """Packets granted to it are lost, and the kernel does not report that."""
    program.grant(relay.ab, 0, ALL, ALL)
    relay.b.close()
    relay.client.sendall(b"hello")
    wait_for(lambda: program.redirected(relay.ab) == 5)
    assert nothing_to_read(relay.a)
    assert relay.server.recv(1) == b""
    program.leave(relay.ab, relay.ba)
    relay.client.sendall(b"later")
    assert read_exactly(relay.a, 5) == b"later"


@kernel
def test_resets_are_seen_while_granted(program: Program, relay: Relay) -> None:
    program.grant(relay.ab, 0, ALL, ALL)
    program.grant(relay.ba, 0, ALL, ALL)
    epoll = select.epoll()
    epoll.register(relay.a.fileno(), select.EPOLLRDHUP)
    relay.client.sendall(b"hello")
    assert read_exactly(relay.server, 5) == b"hello"
    assert epoll.poll(0) == []  # redirected packets wake no reader
    reset(relay.client)
    assert epoll.poll(10) == [(relay.a.fileno(), select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLHUP)]
    with pytest.raises(ConnectionResetError):
        relay.a.recv(1)
    epoll.close()


@kernel
def test_nothing_is_left_of_many(program: Program) -> None:
    before = descriptors()
    with contextlib.ExitStack() as stack:
        a, b = connect(stack)[0], connect(stack)[0]
        open_now = descriptors()
        for number in range(200):
            program.join(number % 64, (number + 1) % 64, a, b)
            program.leave(number % 64, (number + 1) % 64)
        assert descriptors() == open_now
    for _ in range(200):
        with contextlib.ExitStack() as stack:
            a, b = connect(stack)[0], connect(stack)[0]
            program.join(0, 1, a, b)
        program.leave(0, 1)
    assert descriptors() == before
    assert program._cookies == {}


@kernel
def test_what_cannot_be_made_leaves_nothing_open() -> None:
    before = descriptors()
    with pytest.raises(BPFError):
        Program(0)
    with pytest.raises(BPFError):
        Program(1 << 31)
    assert descriptors() == before


# A small relay that follows the rules of grants.


class Direction:
    """Relays passed bytes from source to target, and grants again when all of them are queued at the target."""

    def __init__(self, program: Program, slot: int, source: socket.socket, target: socket.socket) -> None:
        self.program, self.slot, self.source, self.target = program, slot, source, target
        self.read = 0
        self.ended = False
        self.chance = random.Random(slot)

    def turn(self) -> None:
        program, slot = self.program, self.slot
        data = None if nothing_to_read(self.source) else self.source.recv(65536)
        facts(self.source)  # waits until the program has finished its packet
        passed = program.passed(slot)
        if data:
            # Redirected bytes must be in the queue first. No grant is in force while passed bytes are relayed.
            self.read += len(data)
            self.wait_for_the_queue(self.read - len(data))
            self.target.sendall(data)
        elif self.read == passed:
            if data is None:
                allowed = program.charged(slot) + self.chance.randrange(200_000)
                program.grant(slot, passed, allowed, allowed // 2)
            else:
                self.wait_for_the_queue(self.read)
                self.target.shutdown(socket.SHUT_WR)
                self.ended = True

    def wait_for_the_queue(self, written: int) -> None:
        wait_for(lambda: facts(self.target).queued == written + self.program.redirected(self.slot), pause=0)


@kernel
def test_many_directions_at_once(program: Program, sockets: Callable[[], Relay]) -> None:
    """Random chunks in both directions over five relays arrive unchanged, some by the kernel and some by this
    process."""
    relays = [sockets() for _ in range(5)]
    directions: list[Direction] = []
    threads: list[threading.Thread] = []
    sent: dict[int, str] = {}
    came: dict[int, str] = {}
    arrived = dict.fromkeys(range(program.slots), 0)

    def send(slot: int, sock: socket.socket) -> None:
        chance, digest, total = random.Random(slot), hashlib.sha256(), 0
        for number in range(600):
            if number >= 60 and program.redirected(slot):
                break  # on a busy machine, this process may have been quicker than the kernel until here
            data = chance.randbytes(chance.choice((1, 100, 5_000, 150_000)))
            digest.update(data)
            sock.sendall(data)
            total += len(data)
            if chance.random() < 0.5 or number >= 60:  # a pause in which a grant can be made
                wait_for(lambda total=total: arrived[slot] == total)
        sock.shutdown(socket.SHUT_WR)
        sent[slot] = digest.hexdigest()

    def receive(slot: int, sock: socket.socket) -> None:
        digest = hashlib.sha256()
        for data in chunks(sock):
            digest.update(data)
            arrived[slot] += len(data)
        came[slot] = digest.hexdigest()

    for relay in relays:
        program.join(relay.ab, relay.ba, relay.a, relay.b)
        for slot, source, target, sender, receiver in (
            (relay.ab, relay.a, relay.b, relay.client, relay.server),
            (relay.ba, relay.b, relay.a, relay.server, relay.client),
        ):
            directions.append(Direction(program, slot, source, target))
            threads.append(threading.Thread(target=send, args=(slot, sender)))
            threads.append(threading.Thread(target=receive, args=(slot, receiver)))
    for thread in threads:
        thread.start()

    def all_ended() -> bool:
        for direction in directions:
            if not direction.ended:
                direction.turn()
        return all(direction.ended for direction in directions)

    until = time.monotonic() + 60
    while not all_ended():  # without the longer and longer pauses of `wait_for`: each turn moves a small part
        assert time.monotonic() < until, "all directions to end"
        time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert len(sent) == 10
    assert came == sent
    assert all(program.redirected(direction.slot) > 0 for direction in directions)
    assert sum(program.passed(direction.slot) for direction in directions) > 0
    kinds = {kind for _, kind in program.events()}
    assert kinds == {HALF_USED, PASSED}
