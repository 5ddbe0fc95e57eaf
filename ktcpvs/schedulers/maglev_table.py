"""The lookup table of Maglev hashing: entry -> server, for keys that are hashed to an entry.

As in Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4: each
server has its own order of all entries, from two hashes of its address, and the servers take turns; in a turn a server
takes the first free entry of its order. So each gets its share, nearly exactly, and a server that comes or leaves moves
hardly more than that share. A server with twice the weight has twice as many turns.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Generator
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING

from ktcpvs.schedulers.hashing import hash_bytes

LOOKS_PER_STEP = 10_000
"""The entries that are looked at in one step where the table is filled in Python, which takes some milliseconds."""

COMPILED_LOOKS_PER_STEP = 200_000
"""The same where it is filled in C."""

_NONE = 0xFFFF

MAX_SERVERS = _NONE - 1
"""The most servers of a table, which has two bytes for each entry."""

_Server = tuple[int, int, float]
"""(the first entry in a server's order, the distance to the next one, its weight)."""


def order_of(address: str, size: int) -> tuple[int, int]:
    """Return the first entry in a server's order, and the distance from each to the next."""
    return hash_bytes(b"offset " + address.encode()) % size, hash_bytes(b"skip " + address.encode()) % (size - 1) + 1


def plain_filling(servers: tuple[_Server, ...], size: int) -> Generator[None, None, bytes]:
    """Fill a table, in steps; it has two bytes for each entry: the number of its server. size: a prime.

    Servers with equal weights take turns in their order; of others, the turn number n of a server is due at n / weight.
    """
    table = array("H", [_NONE]) * size
    places = [offset for offset, _, _ in servers]
    turns = [(1 / weight, number, 1) for number, (_, _, weight) in enumerate(servers)]
    heapify(turns)
    left = LOOKS_PER_STEP
    for _ in range(size):
        _, number, turn = turns[0]
        _, skip, weight = servers[number]
        place = places[number]
        while table[place] != _NONE:
            place = (place + skip) % size
            left -= 1
        table[place] = number
        left -= 5  # the rest takes about as long as five looks
        if left <= 0:
            yield
            left = LOOKS_PER_STEP
        places[number] = place
        heapreplace(turns, ((turn + 1) / weight, number, turn + 1))
    return table.tobytes()


filling = plain_filling

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._compiled import begin, take

        def filling(servers: tuple[_Server, ...], size: int) -> Generator[None, None, bytes]:
            """Fill a table, in steps, as `plain_filling` does."""
            turns, table, taken = begin(servers, size), bytearray(2 * size), bytearray(size // 8 + 1)
            filled = 0
            while (filled := take(turns, table, taken, filled, COMPILED_LOOKS_PER_STEP)) < size:
                yield
            return bytes(table)
