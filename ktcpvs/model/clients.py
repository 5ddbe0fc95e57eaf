"""What each client address takes of each service: a table of a fixed size, in memory that several processes may share.

A client has one of WAYS slots, which a keyed hash names; nobody can choose addresses that meet there. Where all are
taken, the idle one that was seen longest ago gives way; where none is idle, the client goes uncounted.

Counts have a column for each process, which alone writes there, so nothing is lost between two of them; what one that
died has counted is cleared. Times have one writer at a time at best: of two who take in the same moment one take may be
lost, which gives a client one request more.
"""

from __future__ import annotations

import hashlib

SLOTS = 1 << 17
"""How many clients are known at once; memory is taken only for those that are used."""

WAYS = 8
"""In how many slots a client may be."""

NOWHERE = -1
"""The slot of a client that is not counted."""

_SLACK = 1e-9
"""Seconds by which sums of times may be off."""


class ClientTable:
    """Slots by the names of clients."""

    def __init__(self, memory: memoryview, columns: int, column: int, key: bytes) -> None:
        """memory: `size(columns)` bytes, zeros at first. columns: how many processes count. column: where this one
        does. key: of the hash, the same in all of them, at most 64 bytes."""
        doubles, ints = SLOTS * 8, SLOTS * 4 * columns
        ends = [doubles, 2 * doubles, 3 * doubles, 4 * doubles, 4 * doubles + ints, 4 * doubles + 2 * ints]
        tags, seen, requests, heads, clients, held = (
            memory[start:end] for start, end in zip((0, *ends), ends, strict=False)
        )
        self._tags = tags.cast("Q")
        self._seen = seen.cast("d")
        self.requests = requests.cast("d")
        self.heads = heads.cast("d")
        self._connections = clients.cast("i")
        self._held = held.cast("i")
        self._start = column * SLOTS
        self._key = key

    @staticmethod
    def size(columns: int) -> int:
        """Bytes that a table of so many columns has."""
        return SLOTS * (4 * 8 + 2 * 4 * columns)

    def find(self, name: bytes, now: float, make: bool = True) -> int:
        """The slot of the client of that name, a new one if it has none; NOWHERE: all are in use. make: False only
        looks, NOWHERE: it has none."""
        digest = hashlib.blake2b(name, digest_size=12, key=self._key).digest()
        tag = int.from_bytes(digest[:8], "little") or 1
        first = int.from_bytes(digest[8:], "little") % (SLOTS // WAYS) * WAYS
        ways = self._tags[first : first + WAYS].tolist()
        if tag in ways:
            slot = first + ways.index(tag)
        elif not make:
            return NOWHERE
        elif 0 in ways:
            slot = first + ways.index(0)
            self._tags[slot] = tag
        else:
            idle = [slot for slot in range(first, first + WAYS) if not self.connections(slot)]
            if not idle:
                return NOWHERE
            slot = min(idle, key=self._seen.__getitem__)
            self._tags[slot], self.requests[slot], self.heads[slot] = tag, 0.0, 0.0
        if make:
            self._seen[slot] = now
        return slot

    def tag(self, slot: int) -> int:
        """Whose slot it is, as a number."""
        return self._tags[slot]

    def still(self, slot: int, tag: int, now: float) -> bool:
        """Is that still the slot of that client? Then it is seen again: a short way for one who was found before."""
        if self._tags[slot] != tag:
            return False
        self._seen[slot] = now
        return True

    def connections(self, slot: int) -> int:
        """How many connections the client has, in all processes."""
        return sum(self._connections[slot::SLOTS])

    def held(self, slot: int) -> int:
        """How many bytes of it are held, in all processes."""
        return sum(self._held[slot::SLOTS])

    def connect(self, slot: int, more: int) -> None:
        """So many connections more, here."""
        self._connections[self._start + slot] += more

    def hold(self, slot: int, more: int) -> None:
        """So many bytes more are held, here."""
        self._held[self._start + slot] += more

    def clear_column(self, column: int) -> None:
        """The process of that column is gone: it counts nothing any more."""
        nothing = memoryview(bytes(SLOTS * 4)).cast("i")
        for counts in (self._connections, self._held):
            counts[column * SLOTS : (column + 1) * SLOTS] = nothing


def take(times: memoryview[float], slot: int, now: float, cost: float, room: float, most: float) -> float:
    """Take of a token bucket, which is told by the time when it will be full: seconds to wait; 0: it was taken.

    times: of all slots. cost: seconds in which the bucket regains what is taken. room: something may be taken of a
    bucket that is full in so many seconds or less. most: no bucket needs more seconds; one that does had a slower limit
    before."""
    full: float = times[slot]
    if full < now:
        full = now
    elif full > now + most:
        full = times[slot] = now + most
    wait = full - now - room
    if wait > _SLACK:
        return wait
    times[slot] = full + cost
    return 0.0
