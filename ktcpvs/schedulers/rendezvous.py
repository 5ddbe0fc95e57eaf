"""Weighted rendezvous hashing: a key has one server, and a server that leaves takes only its own keys along.

Every server draws a number from the key and its own address; the best draw for its weight serves. So the order of all
servers for a key is fixed, and when the first cannot serve, the next one does.
"""

from __future__ import annotations

import hashlib
import math

from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request, ServiceView

_MASK = (1 << 64) - 1


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _mixed(number: int) -> int:
    """64 bits well mixed (the finalizer of splitmix64)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


class Rendezvous:
    """Picks one of the service's servers by a key."""

    __slots__ = ("_choices",)

    def __init__(self, service: ServiceView, what: str) -> None:
        """what: is hashed, in words, for the reason."""
        reason = f"{service.why}by the hash of {what} among {len(service.destinations)}"
        self._choices = [(_hash(str(d.address).encode()), Choice(d, reason)) for d in service.destinations]

    def pick(self, key: bytes, request: Request) -> Choice | None:
        """The first server for `key` that is not quiesced and has not been tried; None when there is none."""
        drawn = _hash(key)
        best: Choice | None = None
        least = math.inf
        for seed, choice in self._choices:
            destination: Destination = choice.destination
            if destination.weight > 0 and destination not in request.tried:
                # An exponential draw whose rate is the weight: the smallest is each one's with its share.
                draw = -math.log((_mixed(drawn ^ seed) + 1) / (_MASK + 2)) / destination.weight
                if draw < least:
                    best, least = choice, draw
        return best
