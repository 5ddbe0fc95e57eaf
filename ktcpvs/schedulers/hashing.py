"""Hashes of keys, and draws of servers by them, for the schedulers that hash."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import struct
from typing import TYPE_CHECKING

_MASK = (1 << 64) - 1

MAX_REMEMBERED_HASHES = 8192
"""The most keys whose hashes each process remembers: clients come again, and a hash costs more than finding it."""

MAX_REMEMBERED_KEY = 128
"""Keys that are longer, in bytes, are hashed each time."""


def hash_bytes(data: bytes) -> int:
    """Return the 64-bit hash of `data`: BLAKE2b, so that it is the same in all processes and on all machines."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


_remembered = functools.lru_cache(MAX_REMEMBERED_HASHES)(hash_bytes)


def hash_key(key: bytes) -> int:
    """Return the 64-bit hash of a key; those of keys that came lately are remembered."""
    return _remembered(key) if len(key) <= MAX_REMEMBERED_KEY else hash_bytes(key)


@functools.lru_cache(MAX_REMEMBERED_HASHES)
def hash_client(client: str) -> int:
    """Return the 64-bit hash of a client's address."""
    return hash_bytes(client.encode("ascii", "replace"))


def mixed(number: int) -> int:
    """Mix the bits of a 64-bit number (the finalizer of splitmix64)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def pack_seeds(seeds: list[int]) -> bytes:
    """Return the hashes of servers as `draws` wants them."""
    return struct.pack(f"{len(seeds)}Q", *seeds)


def plain_draws(number: int, seeds: bytes) -> list[float]:
    """Return a pseudo-random number for each server, exponentially distributed with the rate 1. number: the hash of a
    key. seeds: of the servers, from `pack_seeds`."""
    servers = struct.unpack(f"{len(seeds) // 8}Q", seeds)
    return [-math.log((float(mixed(number ^ seed)) + 1.0) / 18446744073709551616.0) for seed in servers]


draws = plain_draws

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._hashing import draws as draws
