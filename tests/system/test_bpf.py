"""BPF: the assembler is correct, and the kernel accepts maps, shared memory, rings and programs; nothing leaks."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ktcpvs.system.bpf import (
    HASH,
    SK_PASS,
    SOCKMAP,
    Array,
    BPFError,
    Map,
    RingBuffer,
    attach,
    available,
    detach,
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
    R10,
    BadProgram,
    Instruction,
    Label,
    W,
    add,
    assemble,
    call,
    disassemble,
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

ROOT = Path(__file__).parent.parent.parent
ENDING = [mov(R0, SK_PASS), leave()]
RING_OUTPUT = 130

kernel = pytest.mark.skipif(available() is not None, reason=str(available()))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def number(value: int) -> bytes:
    return struct.pack("I", value)


# Instructions.


def test_instructions_are_bytes_and_text() -> None:
    program = [
        mov(R6, R1),
        mov(R0, -2),
        Label("again"),
        add(R2, R10),
        add(R2, -16),
        ldx(W, R1, R6, 4),
        ldx(DW, R1, R6, -8),
        stx(W, R10, -4, R1),
        stx(DW, R10, -8, R1),
        st(W, R10, -12, 1),
        st(DW, R10, -16, 2),
        map_by_fd(R1, 7),
        map_by_fd(R1, 8),
        jeq(R1, 0, "end"),
        jne(R1, R2, "end"),
        jgt(R1, R2, "again"),
        jle(R1, 5, "again"),
        ja("end"),
        call(130),
        Label("end"),
        leave(),
    ]
    code = assemble(program)
    assert disassemble(code, {7: "seven"}) == [
        " 0 r6 = r1",
        " 1 r0 = -2",
        " 2 r2 += r10",
        " 3 r2 += -16",
        " 4 r1 = u32 [r6+4]",
        " 5 r1 = u64 [r6-8]",
        " 6 u32 [r10-4] = r1",
        " 7 u64 [r10-8] = r1",
        " 8 u32 [r10-12] = 1",
        " 9 u64 [r10-16] = 2",
        "10 r1 = map seven",
        "12 r1 = map 8",
        "14 if r1 == 0 goto 20",
        "15 if r1 != r2 goto 20",
        "16 if r1 > r2 goto 2",
        "17 if r1 <= 5 goto 2",
        "18 goto 20",
        "19 call 130",
        "20 exit",
    ]
    # Encoded by hand, from RFC 9669.
    assert code[:8].hex(" ") == "bf 16 00 00 00 00 00 00"
    assert code[8:16].hex(" ") == "b7 00 00 00 fe ff ff ff"
    assert code[10 * 8 : 12 * 8].hex(" ") == "18 11 00 00 07 00 00 00 00 00 00 00 00 00 00 00"
    assert code[15 * 8 : 16 * 8].hex(" ") == "5d 21 04 00 00 00 00 00"
    assert code[16 * 8 : 17 * 8].hex(" ") == "2d 21 f1 ff 00 00 00 00"


def test_labels_that_lead_nowhere() -> None:
    with pytest.raises(BadProgram, match="no label named away"):
        assemble([ja("away"), leave()])
    with pytest.raises(BadProgram, match="two labels named here"):
        assemble([Label("here"), leave(), Label("here"), leave()])


@pytest.mark.parametrize("forward", [True, False])
def test_a_label_as_far_as_it_may_be_and_farther(forward: bool) -> None:
    def program(between: int) -> list[Instruction | Label]:
        filling: list[Instruction | Label] = [mov(R0, 0)] * between
        return [ja("end"), *filling, Label("end"), leave()] if forward else [Label("end"), *filling, ja("end"), leave()]

    most = 32767
    lines = disassemble(assemble(program(most)))
    assert lines[0 if forward else most].endswith(f"goto {most + 1 if forward else 0}")
    with pytest.raises(BadProgram, match="too far away"):
        assemble(program(most + 1))


def test_numbers_that_do_not_fit() -> None:
    for bad in (mov(R0, 1 << 31), ldx(W, R0, R1, 1 << 15)):
        with pytest.raises(BadProgram, match="instruction 1: a number is too large"):
            assemble([mov(R0, 0), bad])


def test_an_unknown_instruction_is_refused() -> None:
    with pytest.raises(BadProgram, match="instruction 1: unknown code 0xdc"):
        disassemble(assemble([leave(), Instruction(0xDC)]))


# Permissions.


def test_the_reason_why_not_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available() is None or "\n" not in str(available())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "freebsd14")
        assert available.__wrapped__() == "only Linux has bpf(2)"


def test_on_an_unknown_machine() -> None:
    script = (
        "import os, sys, types\n"
        "os.uname = lambda: types.SimpleNamespace(machine='s390x', release='6.1')\n"
        "from ktcpvs.system import bpf\n"
        "print(bpf.available())\n"
        "try:\n    bpf.Map(1, 4, 4, 1)\nexcept bpf.BPFError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "bpf(2) is not known for the machine s390x",
        "a map of type 1: no bpf(2) known for this machine",
    ]


@kernel
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_without_capabilities() -> None:
    script = (
        "from ktcpvs.system.bpf import available\nimport os\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(available())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "needs CAP_BPF and CAP_NET_ADMIN\n", done.stderr


@kernel
def test_looking_leaves_nothing_open() -> None:
    before = open_files()
    assert available.__wrapped__() is None
    assert open_files() == before


# Maps.


@kernel
def test_a_hash() -> None:
    with Map(HASH, 8, 4, 2) as numbers:
        one, two, three = (struct.pack("Q", key) for key in (1, 2, 3))
        assert numbers.lookup(one) is None
        assert not numbers.delete(one)
        numbers.update(one, number(5))
        numbers.update(two, number(6))
        numbers.update(one, number(7))
        assert (numbers.lookup(one), numbers.lookup(two)) == (number(7), number(6))
        with pytest.raises(BPFError, match="update of a map: Argument list too long") as caught:
            numbers.update(three, number(8))
        assert caught.value.errno == errno.E2BIG
        assert numbers.delete(one)
        assert numbers.lookup(one) is None
        numbers.update(three, number(8))
        assert numbers.fileno() >= 0
    numbers.close()
    assert numbers.fileno() == -1
    with pytest.raises(BPFError, match="Bad file descriptor"):
        numbers.lookup(three)


@kernel
def test_an_array_is_memory_shared_with_the_kernel() -> None:
    with Array(3, 1000) as table:
        assert len(table.words) == 3000
        assert not any(table.words)
        table.words[3 * 999 + 1] = (1 << 64) - 1
        assert table.lookup(number(999)) == struct.pack("3Q", 0, (1 << 64) - 1, 0)
        table.update(number(7), struct.pack("3Q", 1, 2, 3))
        assert list(table.words[21:24]) == [1, 2, 3]
        assert table.lookup(number(1000)) is None


@kernel
def test_what_cannot_be_made_leaves_nothing_open() -> None:
    before = open_files()
    with pytest.raises(BPFError, match="a map of type 12345: Invalid argument"):
        Map(12345, 4, 4, 1)
    with pytest.raises(BPFError):
        Array(1, 0)
    with pytest.raises(BPFError):
        RingBuffer(5000)
    with Map(HASH, 4, 4, 1) as numbers:
        with pytest.raises(BPFError, match="attaching a program"):
            attach(numbers.fileno(), numbers)
        with pytest.raises(BPFError, match="detaching a program"):
            detach(numbers.fileno(), numbers)
    assert open_files() == before


@kernel
def test_when_there_are_no_more_descriptors() -> None:
    """Each thing is made in several steps; whichever fails, what was made before is closed again."""
    script = (
        "import os, resource\n"
        "from ktcpvs.system.bpf import Array, BPFError, RingBuffer, available\n"
        "available()\n"
        "def count(): return len(os.listdir('/proc/self/fd'))\n"
        "before, limits = count(), resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "for make, steps in ((lambda: Array(1, 1), 2), (lambda: RingBuffer(4096), 3)):\n"
        "    for more in range(steps + 1):\n"
        "        highest = max(map(int, os.listdir('/proc/self/fd')[:-1]))\n"
        "        assert highest == before - 2, (highest, before)\n"
        "        resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + more, limits[1]))\n"
        "        try:\n            make().close()\n            print('made', end=' ')\n"
        "        except BPFError as error:\n            print(error.errno, end=' ')\n"
        "        resource.setrlimit(resource.RLIMIT_NOFILE, limits)\n"
        "        assert count() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{errno.EMFILE} {errno.EMFILE} made " + 3 * f"{errno.EMFILE} " + "made ", done.stderr


# Programs.


@kernel
def test_what_the_verifier_says() -> None:
    before = open_files()
    with pytest.raises(BPFError, match=r"a program for sockets: .*R0 !read_ok") as caught:
        load_program(assemble([leave()]))
    assert "\n" not in str(caught.value)
    assert open_files() == before


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection, which send each write at once."""
    with contextlib.ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=10))
            other = stack.enter_context(listener.accept()[0])
        for sock in (one, other):
            sock.settimeout(10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield one, other


@pytest.fixture
def told(pair: tuple[socket.socket, socket.socket]) -> Iterator[SimpleNamespace]:
    """`say(text)` sends it over a connection; a program puts its length into `ring` and passes it."""
    one, other = pair
    with RingBuffer(4096) as ring, Map(SOCKMAP, 4, 8, 1) as sockets:
        program = load_program(
            assemble(
                [
                    ldx(W, R2, R1, 0),
                    stx(DW, R10, -16, R2),
                    st(DW, R10, -8, 0),
                    map_by_fd(R1, ring.fileno()),
                    mov(R2, R10),
                    add(R2, -16),
                    mov(R3, 13),
                    mov(R4, 0),
                    call(RING_OUTPUT),
                    *ENDING,
                ]
            )
        )
        attach(program, sockets)
        sockets.update(number(0), struct.pack("Q", other.fileno()))

        def say(length: int) -> None:
            one.sendall(bytes(length))
            assert len(other.recv(length, socket.MSG_WAITALL)) == length

        yield SimpleNamespace(ring=ring, say=say, sockets=sockets, program=program, other=other)
        os.close(program)


def lengths(records: list[bytes]) -> list[int]:
    assert all(len(record) == 13 for record in records)
    return [int.from_bytes(record, "little") for record in records]


@kernel
def test_a_ring_tells_in_order(told: SimpleNamespace) -> None:
    epoll = select.epoll()
    epoll.register(told.ring.fileno(), select.EPOLLIN)
    assert told.ring.read() == []
    assert epoll.poll(0) == []
    told.say(3)
    told.say(4)
    assert epoll.poll(10) == [(told.ring.fileno(), select.EPOLLIN)]
    assert lengths(told.ring.read()) == [3, 4]
    assert told.ring.read() == []
    assert epoll.poll(0) == []
    told.say(5)
    assert epoll.poll(10)
    assert lengths(told.ring.read()) == [5]
    epoll.close()


@kernel
def test_a_ring_goes_round(told: SimpleNamespace) -> None:
    """Records take 24 bytes of 4,096, so that some lie across the end."""
    said = [1 + number % 100 for number in range(1000)]
    heard: list[int] = []
    for place, length in enumerate(said):
        told.say(length)
        if place % 7 == 0:
            heard += lengths(told.ring.read())
    assert heard + lengths(told.ring.read()) == said


@kernel
def test_a_full_ring_loses_the_later_records_only(told: SimpleNamespace) -> None:
    for length in range(1, 301):
        told.say(length)
    assert lengths(told.ring.read()) == list(range(1, 171))
    told.say(9)
    assert lengths(told.ring.read()) == [9]


@kernel
def test_a_sockmap_returns_the_cookies_of_its_sockets(told: SimpleNamespace) -> None:
    cookie = told.other.getsockopt(socket.SOL_SOCKET, 57, 8)
    assert told.sockets.lookup(number(0)) == cookie
    assert told.sockets.delete(number(0))
    assert told.sockets.lookup(number(0)) is None
    assert not told.sockets.delete(number(0))
    told.say(3)
    assert told.ring.read() == []


@kernel
def test_a_program_that_is_detached(told: SimpleNamespace) -> None:
    detach(told.program, told.sockets)
    with pytest.raises(BPFError, match="detaching a program"):
        detach(told.program, told.sockets)
