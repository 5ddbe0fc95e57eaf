"""The kernel's bpf(2): maps, programs of type SK_SKB, and ring buffers, without a compiler or kernel headers.

Only descriptors keep these objects alive, so that nothing stays in the kernel after this process. Numbers and
structures are those of linux/bpf.h. Only one thread may use a map.
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
"""Flags of maps: allocate memory for existing entries only; share memory with the kernel."""

SK_PASS, SK_DROP = 1, 0
"""Return values of an SK_SKB program (enum sk_action)."""

_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _PROG_LOAD, _PROG_ATTACH, _PROG_DETACH = 0, 1, 2, 3, 5, 8, 9
_SK_SKB, _SK_SKB_VERDICT = 14, 38
_LOG_SIZE = 1 << 20
_MAX_ATTEMPTS = 5
"""The most attempts to load a program when the kernel was interrupted."""

_NUMBER_OF_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8


class BPFError(OSError):
    """The kernel refused a command; str() says which and why, in one line."""

    def __str__(self) -> str:
        return str(self.strerror)


@cache
def available() -> str | None:
    """Return None if this process can load programs for sockets, else the reason in one line. It tries once."""
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
    """Call the kernel and return its result. what: the command in words, for the error. Raises BPFError."""
    number = _number()
    if number is None:
        raise BPFError(errno.ENOSYS, f"{what}: no bpf(2) known for this machine")
    result = int(_syscall()(number, command, ctypes.addressof(attributes), len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise BPFError(code, f"{what}: {os.strerror(code)}")
    return result


def _buffer(content: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(content, len(content))


def _shared(fd: int, length: int, offset: int = 0, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> mmap.mmap:
    try:
        return mmap.mmap(fd, length, prot=protection, offset=offset)
    except OSError as error:
        raise BPFError(error.errno, f"memory of a map: {error.strerror}") from None


class Map:
    """A map from keys to values, which have fixed sizes in bytes. Raises BPFError if it cannot be made."""

    def __init__(self, kind: int, key_size: int, value_size: int, entries: int, flags: int = 0) -> None:
        self._fd = -1
        made = _buffer(struct.pack("5I", kind, key_size, value_size, entries, flags))
        self._fd = _bpf(_MAP_CREATE, made, f"a map of type {kind}")
        # A sockmap returns EINVAL for a missing key.
        self._missing: tuple[int, ...] = (errno.ENOENT, errno.EINVAL) if kind == SOCKMAP else (errno.ENOENT,)
        # All calls use the same buffers; fields that a command does not use must be zero.
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
        """Return the descriptor; -1: the map is closed."""
        return self._fd

    def update(self, key: bytes, value: bytes) -> None:
        """Add or replace an entry. For a sockmap, the value is a socket's descriptor. Raises BPFError."""
        self._key.raw, self._value.raw = key, value
        _bpf(_UPDATE, self._element, "update of a map")

    def delete(self, key: bytes) -> bool:
        """Remove an entry; return False if there is none. Raises BPFError."""
        self._key.raw = key
        try:
            _bpf(_DELETE, self._place, "deletion from a map")
        except BPFError as error:
            if error.errno in self._missing:
                return False
            raise
        return True

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value, or None. For a sockmap with values of 8 bytes: the socket's cookie.

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
        """Close the map; it exists until no program uses it. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Array(Map):
    """A map with entries 0, 1, 2, ... in memory that is shared with the kernel, so that access needs no system call.

    words: the words of all entries in a row; each word is read and written atomically.
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
    """Records that programs write and this process reads, in order. Its descriptor is readable while there are records.

    size: in bytes, a power of two and whole pages; a record takes 8 bytes more than its data, rounded up to 8.
    """

    def __init__(self, size: int) -> None:
        super().__init__(RINGBUF, 0, 0, size)
        self._size = size
        page = mmap.PAGESIZE
        try:
            self._front = _shared(self._fd, page)
            try:
                # The data is mapped twice in a row, so that every record is contiguous.
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
        """Return all records and remove them from the ring."""
        records: list[bytes] = []
        place = self._consumed[0]
        # A record is complete when its busy bit is clear. That needs this thread's loads in program order: x86 never
        # reorders them, and elsewhere an interpreter's loads are too far apart to be reordered.
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
    """Load a program of type SK_SKB and return its descriptor. Raises BPFError with the verifier's last messages."""
    instructions, name = _buffer(code), _buffer(licence.encode() + b"\0")
    what = struct.pack("IIQQ", _SK_SKB, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(name))
    try:
        return _load(what + bytes(16))
    except BPFError as refused:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:  # once more, for the log of the verifier
            return _load(what + struct.pack("IIQ", 1, _LOG_SIZE, ctypes.addressof(log)))
        except BPFError:
            said = [line for line in log.value.decode("ascii", "replace").splitlines() if line.strip()]
            said = [line for line in said if not line.startswith(("processed ", "verification time"))]
            raise BPFError(refused.errno, "; ".join([str(refused), *said[-2:]])) from None


def _load(form: bytes) -> int:
    attributes = _buffer(form)
    for _ in range(_MAX_ATTEMPTS - 1):
        try:
            return _bpf(_PROG_LOAD, attributes, "a program for sockets")
        except BPFError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
    return _bpf(_PROG_LOAD, attributes, "a program for sockets")


def attach(program: int, sockets: Map) -> None:
    """Attach a program, which then gets all packets for sockets that are added to that sockmap. Raises BPFError."""
    _bpf(_PROG_ATTACH, _buffer(struct.pack("4I", sockets.fileno(), program, _SK_SKB_VERDICT, 0)), "attaching a program")


def detach(program: int, sockets: Map) -> None:
    """Detach a program from a sockmap, for sockets that are added later. Raises BPFError if it is not attached."""
    _bpf(_PROG_DETACH, _buffer(struct.pack("4I", sockets.fileno(), program, _SK_SKB_VERDICT, 0)), "detaching a program")
