"""Weighted rendezvous hashing: a key has one server, and a server that leaves moves only its own keys.

Each server gets a pseudo-random number from the key and its own address, and the best number for its weight wins. So a
key has a fixed order of all servers, and if the first cannot serve, the next one does.
"""

from __future__ import annotations

import hashlib
import math

from ktcpvs.interfaces import Choice, Destination, Request, ServiceView
from ktcpvs.model.why import HASH

_MASK = (1 << 64) - 1


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _mixed(number: int) -> int:
    """Mix the bits of a 64-bit number (the finalizer of splitmix64)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


class Rendezvous:
    """Picks one of a service's servers by a key."""

    __slots__ = ("_choices",)

    def __init__(self, service: ServiceView, what: str) -> None:
        """what: the key in words, for the reason."""
        reason = f"{service.why}by the hash of {what} among {len(service.destinations)}"
        why = service.why_of(HASH)
        self._choices = [(_hash(str(d.address).encode()), Choice(d, reason, why=why)) for d in service.destinations]

    def pick(self, key: bytes, request: Request) -> Choice | None:
        """Return the first server for `key` that is not quiesced and has not been tried, or None."""
        drawn = _hash(key)
        best: Choice | None = None
        least = math.inf
        for seed, choice in self._choices:
            destination: Destination = choice.destination
            if destination.weight > 0 and destination not in request.tried:
                # Exponentially distributed with the weight as its rate: a server is smallest with its share.
                draw = -math.log((_mixed(drawn ^ seed) + 1) / (_MASK + 2)) / destination.weight
                if draw < least:
                    best, least = choice, draw
        return best
