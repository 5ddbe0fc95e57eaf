"""Hashes of keys, and servers picked by them, for the schedulers that hash."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import struct
from collections.abc import Container, Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from ktcpvs.interfaces import Choice, Destination
from ktcpvs.schedulers.choices import is_usable

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


def plain_hash_client(client: str) -> int:
    """Return the 64-bit hash of a client's address."""
    return hash_bytes(client.encode("ascii", "replace"))


hash_client = functools.lru_cache(MAX_REMEMBERED_HASHES)(plain_hash_client)
"""As `plain_hash_client`; the hashes of clients that came lately are remembered."""


def mixed(number: int) -> int:
    """Mix the bits of a 64-bit number (the finalizer of splitmix64)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def pack_seeds(destinations: Iterable[Destination]) -> bytes:
    """Return the hashes of the addresses of servers as `pick` wants them, 8 bytes each."""
    return b"".join([struct.pack("Q", hash_bytes(str(one.address).encode())) for one in destinations])


def _draws(
    number: int, seeds: bytes, choices: Sequence[Choice], tried: Container[Destination]
) -> list[tuple[float, int, Destination]]:
    """Return (draw, index, server) of each server that has a weight and has not been tried. The draw is pseudo-random,
    exponentially distributed with the weight as its rate: a server has the smallest with its share."""
    servers = struct.unpack(f"{len(seeds) // 8}Q", seeds)
    usable = [
        (index, seed, choice.destination)
        for index, (choice, seed) in enumerate(zip(choices, servers, strict=True))
        if is_usable(choice.destination, tried)
    ]
    return [
        (-math.log((float(mixed(number ^ seed)) + 1.0) / 18446744073709551616.0) / one.weight, index, one)
        for index, seed, one in usable
    ]


def plain_pick(number: int, seeds: bytes, choices: tuple[Choice, ...], tried: Container[Destination]) -> Choice | None:
    """Return the choice whose server is the first for a key, of those that have a weight and have not been tried; None:
    there is none. number: the hash of the key. seeds: of the servers of `choices`, from `pack_seeds`."""
    found = min(_draws(number, seeds, choices, tried), default=None, key=itemgetter(0, 1))
    return None if found is None else choices[found[1]]


def plain_pick_bounded(
    number: int,
    seeds: bytes,
    choices: tuple[Choice, ...],
    tried: Container[Destination],
    others: tuple[Choice, ...],
    load_factor: float,
) -> Choice | None:
    """As `plain_pick`, but pass over servers with `load_factor` times their share of the connections and the new one.
    others: in place of `choices` for a server that is not the first for the key."""
    drawn = _draws(number, seeds, choices, tried)
    if not drawn:
        return None
    total, weights = 1, 0.0
    for _, _, destination in drawn:  # in the order of the servers: rounding is the same for all keys, as in C
        total += destination.active
        weights += destination.weight
    drawn.sort(key=itemgetter(0, 1))
    _, index, first = drawn[0]
    if first.active * weights < total * load_factor * first.weight:
        return choices[index]
    share = total * load_factor / weights
    below = (others[index] for _, index, one in drawn if one.active < share * one.weight)
    return next(below, choices[index])


pick = plain_pick
pick_bounded = plain_pick_bounded

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._hashing import configure_clients
        from ktcpvs.schedulers._hashing import pick as pick
        from ktcpvs.schedulers._hashing import pick_bounded as pick_bounded

        hash_client = configure_clients(plain_hash_client, MAX_REMEMBERED_HASHES)
