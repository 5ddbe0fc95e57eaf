"""Weighted rendezvous hashing: a key has one server, and a server that leaves moves only its own keys.

Each server gets a pseudo-random number from the key and its own address, and the best number for its weight wins. So a
key has a fixed order of all servers, and if the first cannot serve, the next one does.
"""

from __future__ import annotations

import math

from ktcpvs.interfaces import Choice, Request, ServiceView
from ktcpvs.model.why import HASH
from ktcpvs.schedulers.hashing import draws, hash_bytes, hash_key, pack_seeds


class Rendezvous:
    """Picks one of a service's servers by a key."""

    __slots__ = ("_choices", "_seeds")

    def __init__(self, service: ServiceView, what: str) -> None:
        """what: the key in words, for the reason."""
        reason = f"{service.why}by the hash of {what} among {len(service.destinations)}"
        why = service.why_of(HASH)
        self._choices = [Choice(destination, reason, why=why) for destination in service.destinations]
        self._seeds = pack_seeds([hash_bytes(str(one.address).encode()) for one in service.destinations])

    def pick(self, key: bytes, request: Request) -> Choice | None:
        """Return the first server for `key` that is not quiesced and has not been tried, or None."""
        return self.pick_by(hash_key(key), request)

    def pick_by(self, number: int, request: Request) -> Choice | None:
        """As `pick`, by the hash of a key."""
        best: Choice | None = None
        least = math.inf
        for choice, draw in zip(self._choices, draws(number, self._seeds), strict=True):
            destination = choice.destination
            weight = destination.weight
            if weight > 0 and destination not in request.tried:
                # Exponentially distributed with the weight as its rate: a server is smallest with its share.
                draw /= weight
                if draw < least:
                    best, least = choice, draw
        return best
