"""Per-client limits: a table of fixed size with the counts of each client, in memory that several processes may share.

A keyed hash assigns WAYS slots to each client, one of which it uses. The key is secret, so clients cannot choose
addresses that collide. If all are taken, the idle client that was seen longest ago loses its slot; if none is idle, the
client is not counted.

Counts have a column for each process, in which no other process writes, so no update is lost; the column of a process
that died is cleared. Times are written by all processes without a lock: when two of them take at the same moment, one
take may be lost, which gives a client one more request.
"""

from __future__ import annotations

import hashlib

SLOTS = 1 << 17
"""The most clients at once. Memory is used for those that exist only."""

WAYS = 8
"""The slots among which a client has one."""

NOWHERE = -1
"""The slot of a client that is not counted."""

_SLACK = 1e-9
"""Seconds that rounding may add to sums of times."""


class ClientTable:
    """Slots, found by the names of clients."""

    def __init__(self, memory: memoryview, columns: int, column: int, key: bytes) -> None:
        """memory: `size(columns)` bytes, zeros at first. columns: the number of processes. column: the one of this
        process. key: of the hash, the same in all processes, at most 64 bytes."""
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
        """Return the size in bytes of a table with that number of columns."""
        return SLOTS * (4 * 8 + 2 * 4 * columns)

    def find(self, name: bytes, now: float, make: bool = True) -> int:
        """Return the slot of the client of that name, a new one if it has none. NOWHERE: all its slots are in use.

        make: False makes no new slot; NOWHERE: the client has none.
        """
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
        """Return a number that identifies the client in that slot."""
        return self._tags[slot]

    def still(self, slot: int, tag: int, now: float) -> bool:
        """Whether the slot still belongs to that client, which then counts as seen now: a fast path after `find`."""
        if self._tags[slot] != tag:
            return False
        self._seen[slot] = now
        return True

    def connections(self, slot: int) -> int:
        """Return the number of the client's connections, in all processes."""
        return sum(self._connections[slot::SLOTS])

    def held(self, slot: int) -> int:
        """Return how many bytes of the client are held, in all processes."""
        return sum(self._held[slot::SLOTS])

    @property
    def is_idle(self) -> bool:
        """True while no client has connections or held bytes, in any process."""
        return not any(self._connections) and not any(self._held)

    def connect(self, slot: int, more: int) -> None:
        """Add to the client's connections in this process."""
        self._connections[self._start + slot] += more

    def hold(self, slot: int, more: int) -> None:
        """Add to the client's held bytes in this process."""
        self._held[self._start + slot] += more

    def clear_column(self, column: int) -> None:
        """Clear the counts of a process that is gone."""
        nothing = memoryview(bytes(SLOTS * 4)).cast("i")
        for counts in (self._connections, self._held):
            counts[column * SLOTS : (column + 1) * SLOTS] = nothing


def take(times: memoryview[float], slot: int, now: float, cost: float, room: float, most: float) -> float:
    """Take from a token bucket, which is stored as the time when it will be full. Return the seconds to wait; 0: taken.

    times: of all slots. cost: seconds in which the bucket regains what is taken. room: the take succeeds if the bucket
    will be full within so many seconds. most: the seconds in which an empty bucket becomes full; a stored time beyond
    that comes from a slower limit in the past, and is reduced.
    """
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
