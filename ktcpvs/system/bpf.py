"""The kernel's bpf(2): maps, programs of SK_SKB type, and a ring of records, spoken to without a compiler or headers.

What is made here is held by descriptors and by nothing else, so that nothing stays in the kernel when this process is
gone. Numbers and structures are those of linux/bpf.h. A map is to be used by one thread.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from functools import cache
from typing import Self

from ktcpvs.system.instructions import R0, assemble, leave, mov

HASH, ARRAY, SOCKMAP, RINGBUF = 1, 2, 15, 27
"""Types of maps (enum bpf_map_type)."""

NO_PREALLOC, MMAPABLE = 1 << 0, 1 << 10
"""Flags of maps: memory is taken for entries that there are only; memory can be shared with the kernel."""

SK_PASS, SK_DROP = 1, 0
"""Answers of an SK_SKB program (enum sk_action)."""

_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _PROG_LOAD, _PROG_ATTACH, _PROG_DETACH = 0, 1, 2, 3, 5, 8, 9
_SK_SKB, _SK_SKB_VERDICT = 14, 38
_LOG_SIZE = 1 << 20
_ATTEMPTS = 5
"""So often a program is loaded anew when the kernel was interrupted."""

_NUMBER_OF_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8


class BPFError(OSError):
    """The kernel has refused; `str()` of it is what and why, in one line."""

    def __str__(self) -> str:
        return str(self.strerror)


@cache
def available() -> str | None:
    """None when this process can load programs for sockets, else the reason why not, in one line. Tries it, once."""
    if sys.platform != "linux":
        return "only Linux has bpf(2)"
    if _number() is None:
        return f"bpf(2) is not known for the machine {os.uname().machine}"
    try:
        with Map(SOCKMAP, 4, 4, 1) as sockets:
            program = load_program(assemble([mov(R0, SK_PASS), leave()]))
            try:
                attach(program, sockets)
            finally:
                os.close(program)
    except BPFError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return "needs CAP_BPF and CAP_NET_ADMIN"
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            return f"kernel too old: {os.uname().release} refuses {error}"
        return str(error)
    return None


@cache
def _number() -> int | None:
    return _NUMBER_OF_CALL.get(os.uname().machine) if sys.maxsize > 1 << 32 else None


@cache
def _syscall() -> ctypes._NamedFuncPointer:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]
    return call


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char], what: str) -> int:
    """What the kernel answers; `what` is tried, for the error's text. Raises BPFError."""
    number = _number()
    if number is None:
        raise BPFError(errno.ENOSYS, f"{what}: no bpf(2) known for this machine")
    answer = int(_syscall()(number, command, ctypes.addressof(attributes), len(attributes)))
    if answer < 0:
        code = ctypes.get_errno()
        raise BPFError(code, f"{what}: {os.strerror(code)}")
    return answer


def _buffer(content: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(content, len(content))


def _shared(fd: int, length: int, offset: int = 0, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> mmap.mmap:
    try:
        return mmap.mmap(fd, length, prot=protection, offset=offset)
    except OSError as error:
        raise BPFError(error.errno, f"memory of a map: {error.strerror}") from None


class Map:
    """Keys and values of fixed sizes, in bytes. Raises BPFError when it cannot be made."""

    def __init__(self, kind: int, key_size: int, value_size: int, entries: int, flags: int = 0) -> None:
        self._fd = -1
        made = _buffer(struct.pack("5I", kind, key_size, value_size, entries, flags))
        self._fd = _bpf(_MAP_CREATE, made, f"a map of type {kind}")
        # A sockmap says EINVAL for what is not there.
        self._missing = (errno.ENOENT, errno.EINVAL) if kind == SOCKMAP else (errno.ENOENT,)
        # The kernel is given the same buffers each time; what a command does not know must be zero.
        self._key = ctypes.create_string_buffer(key_size or 1)
        self._value = ctypes.create_string_buffer(value_size or 1)
        places = ctypes.addressof(self._key), ctypes.addressof(self._value)
        self._element = _buffer(struct.pack("I4xQQ", self._fd, *places))
        self._place = _buffer(struct.pack("I4xQ", self._fd, places[0]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """-1 when it is closed."""
        return self._fd

    def update(self, key: bytes, value: bytes) -> None:
        """Enter it, or replace what is there. For a sockmap the value is a socket's descriptor. Raises BPFError."""
        self._key.raw, self._value.raw = key, value
        _bpf(_UPDATE, self._element, "update of a map")

    def delete(self, key: bytes) -> bool:
        """Take it out; False when it is not there. Raises BPFError."""
        self._key.raw = key
        try:
            _bpf(_DELETE, self._place, "deletion from a map")
        except BPFError as error:
            if error.errno in self._missing:
                return False
            raise
        return True

    def lookup(self, key: bytes) -> bytes | None:
        """The value; None when there is none. Of a sockmap: the socket's cookie, if values have 8 bytes.

        Raises BPFError.
        """
        self._key.raw = key
        try:
            _bpf(_LOOKUP, self._element, "lookup in a map")
        except BPFError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return self._value.raw

    def close(self) -> None:
        """The map is gone when no program has it any more; safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Array(Map):
    """Entries 0, 1, 2, ... of so many words each, in memory that is shared with the kernel: no call is needed.

    words: all of them in one row; each is read and written whole.
    """

    def __init__(self, words: int, entries: int) -> None:
        super().__init__(ARRAY, 4, 8 * words, entries, MMAPABLE)
        try:
            self._memory = _shared(self._fd, 8 * words * entries)
        except BPFError:
            super().close()
            raise
        self.words = memoryview(self._memory).cast("Q")

    def close(self) -> None:
        if self._fd >= 0:
            self.words.release()
            self._memory.close()
        super().close()


class RingBuffer(Map):
    """Records that programs write and this process reads, in their order. Its descriptor is readable while there are
    some.

    size: bytes, a power of two and whole pages; a record takes 8 more than it has, in steps of 8.
    """

    def __init__(self, size: int) -> None:
        super().__init__(RINGBUF, 0, 0, size)
        self._size = size
        page = mmap.PAGESIZE
        try:
            self._front = _shared(self._fd, page)
            try:
                # The data is mapped twice in a row, so that no record is in two pieces.
                self._back = _shared(self._fd, page + 2 * size, page, mmap.PROT_READ)
            except BPFError:
                self._front.close()
                raise
        except BPFError:
            super().close()
            raise
        self._consumed = memoryview(self._front)[:8].cast("Q")
        self._produced = memoryview(self._back)[:8].cast("Q")
        self._data = memoryview(self._back)[page:]

    def read(self) -> list[bytes]:
        """The records that there are; they are gone from the ring."""
        records: list[bytes] = []
        place = self._consumed[0]
        # A record is whole when its busy bit is gone. Loads of this thread must not change places for that: on x86 they
        # never do, and elsewhere an interpreter's are too far apart.
        while place < self._produced[0]:
            start = (place & self._size - 1) + _HEADER
            (header,) = struct.unpack_from("I", self._data, start - _HEADER)
            if header & _BUSY:
                break
            length = header & ~_DISCARD
            if header == length:
                records.append(bytes(self._data[start : start + length]))
            place += _HEADER + (length + 7 & ~7)
            self._consumed[0] = place
        return records

    def close(self) -> None:
        if self._fd >= 0:
            for view in (self._consumed, self._produced, self._data):
                view.release()
            self._front.close()
            self._back.close()
        super().close()


def load_program(code: bytes, licence: str = "Dual MIT/GPL") -> int:
    """A program of type SK_SKB: its descriptor. Raises BPFError; the verifier's last words stand in it."""
    instructions, name = _buffer(code), _buffer(licence.encode() + b"\0")
    what = struct.pack("IIQQ", _SK_SKB, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(name))
    try:
        return _load(what + bytes(16))
    except BPFError as refused:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:  # once more, for what the verifier says
            return _load(what + struct.pack("IIQ", 1, _LOG_SIZE, ctypes.addressof(log)))
        except BPFError:
            said = [line for line in log.value.decode("ascii", "replace").splitlines() if line.strip()]
            said = [line for line in said if not line.startswith(("processed ", "verification time"))]
            raise BPFError(refused.errno, "; ".join([str(refused), *said[-2:]])) from None


def _load(form: bytes) -> int:
    attributes = _buffer(form)
    for _ in range(_ATTEMPTS - 1):
        try:
            return _bpf(_PROG_LOAD, attributes, "a program for sockets")
        except BPFError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
    return _bpf(_PROG_LOAD, attributes, "a program for sockets")


def attach(program: int, sockets: Map) -> None:
    """From now on the program judges what comes for each socket that is put into that sockmap. Raises BPFError."""
    _bpf(_PROG_ATTACH, _buffer(struct.pack("4I", sockets.fileno(), program, _SK_SKB_VERDICT, 0)), "attaching a program")


def detach(program: int, sockets: Map) -> None:
    """It judges for no socket that is put in later. Raises BPFError when it is not attached."""
    _bpf(_PROG_DETACH, _buffer(struct.pack("4I", sockets.fileno(), program, _SK_SKB_VERDICT, 0)), "detaching a program")
