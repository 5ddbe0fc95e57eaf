"""chash, consistent hashing with bounded loads: a key has its server, unless that has much more than its share.

As in Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016), and HAProxy's
`hash-balance-factor`: no server gets more than `load_factor` times its share of all connections, rounded up. A key
whose server has that many goes to the next server in its own order, and comes back when there is room.

The order of the servers for a key is that of weighted rendezvous hashing instead of a ring: it respects weights
exactly, needs no table, and the keys of a full server spread over all others, where on a ring they fill the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    Choice,
    Considered,
    IExplains,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    NumberOption,
    Request,
    SchedulerOption,
    ServiceView,
)
from ktcpvs.model.why import HASH
from ktcpvs.schedulers.hashing import draws, hash_bytes, pack_seeds
from ktcpvs.schedulers.keys import KEY_OPTION, Key, key_of

LOAD_FACTOR = 1.25
"""The option `load_factor` where it is not given."""


@implementer(IScheduler, IExplains)
class BoundCHash:
    """chash over the servers of one service. load_factor: how many times its share of the connections a server may
    have, at least 1."""

    def __init__(self, service: ServiceView, key: Key, load_factor: float) -> None:
        count = len(service.destinations)
        self._destinations = service.destinations
        self._load_factor = load_factor
        self._seeds = pack_seeds([hash_bytes(str(one.address).encode()) for one in service.destinations])
        self._key = key
        self._number = key.number
        hashed = f"{service.why}by the hash of {key.name} among {count}"
        why = service.why_of(HASH)
        self._choices = [
            (
                destination,
                Choice(destination, hashed, why=why),
                Choice(destination, f"{hashed}, those before it have their share", why=why),
            )
            for destination in service.destinations
        ]

    def choose(self, request: Request) -> Choice | None:
        number = self._number(request)
        tried = request.tried
        best: Choice | None = None
        least = best_weight = 0.0
        best_active = total = 0
        weights = 0.0
        for (destination, choice, _), draw in zip(self._choices, draws(number, self._seeds), strict=True):
            weight = destination.weight
            if weight > 0 and destination not in tried:
                active = destination.active
                total += active
                weights += weight
                draw /= weight
                if best is None or draw < least:
                    best, least, best_weight, best_active = choice, draw, weight, active
        if best is None or best_active * weights < (total + 1) * self._load_factor * best_weight:
            return best
        return self._next(number, (total + 1) * self._load_factor / weights, request) or best

    def _next(self, number: int, share: float, request: Request) -> Choice | None:
        """Return the first server in the order of a hash that has less than its share. share: for a weight of 1."""
        order = [
            (draw / destination.weight, index)
            for index, (destination, draw) in enumerate(
                zip(self._destinations, draws(number, self._seeds), strict=True)
            )
            if destination.weight > 0 and destination not in request.tried
        ]
        for _, index in sorted(order):
            destination, _, choice = self._choices[index]
            if destination.active < share * destination.weight:
                return choice
        return None

    def explain(self, request: Request) -> Considered:
        """Say which key is hashed."""
        return Considered((), (f"{self._key.describe(request)}, which is hashed",), self._destinations)


@implementer(ISchedulerFactory, IUsesOptions)
class CHash:
    """Per connection: by the hash of the client's address or another key, with bounded loads."""

    name = "chash"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    options: Mapping[str, SchedulerOption] = MappingProxyType(
        {
            "key": KEY_OPTION,
            "load_factor": NumberOption(
                default=LOAD_FACTOR,
                minimum=1,
                maximum=1000,
                help="how many times its share of the load a server may have",
            ),
        }
    )

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundCHash:
        return BoundCHash(service, key_of(service, self.name), service.options.get("load_factor", LOAD_FACTOR))
