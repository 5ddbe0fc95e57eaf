"""Weighted rendezvous hashing: a key has one server, and a server that leaves moves only its own keys.

Each server gets a pseudo-random number from the key and its own address, and the best number for its weight wins. So a
key has a fixed order of all servers, and if the first cannot serve, the next one does.
"""

from __future__ import annotations

from ktcpvs.interfaces import Choice, Request, ServiceView
from ktcpvs.model.why import HASH
from ktcpvs.schedulers.choices import choices_of
from ktcpvs.schedulers.hashing import hash_key, pack_seeds, pick


class Rendezvous:
    """Picks one of a service's servers by a key."""

    __slots__ = ("_choices", "_seeds")

    def __init__(self, service: ServiceView, what: str) -> None:
        """what: the key in words, for the reason."""
        reason = f"{service.why}by the hash of {what} among {len(service.destinations)}"
        self._choices = choices_of(service, reason, HASH)
        self._seeds = pack_seeds(service.destinations)

    def pick(self, key: bytes, request: Request) -> Choice | None:
        """Return the first server for `key` that is not quiesced and has not been tried, or None."""
        return self.pick_by(hash_key(key), request)

    def pick_by(self, number: int, request: Request) -> Choice | None:
        """As `pick`, by the hash of a key."""
        return pick(number, self._seeds, self._choices, request.tried)
