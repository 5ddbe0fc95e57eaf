"""chash, consistent hashing with bounded loads: a key has its server, unless that has much more than its share.

As in Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016), and HAProxy's
`hash-balance-factor`: no server gets more than `load_factor` times its share of all connections, rounded up. A key
whose server has that many goes to the next server in its own order, and comes back when there is room.

The order of the servers for a key is that of weighted rendezvous hashing instead of a ring: it respects weights
exactly, needs no table, and the keys of a full server spread over all others, where on a ring they fill the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_EACH_SERVER,
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
from ktcpvs.schedulers.choices import choices_of
from ktcpvs.schedulers.hashing import pack_seeds, pick_bounded
from ktcpvs.schedulers.keys import KEY_OPTION, Key, key_of
from ktcpvs.schedulers.options import option_of


@implementer(IScheduler, IExplains)
class BoundCHash:
    """chash over the servers of one service. load_factor: how many times its share of the connections a server may
    have, at least 1."""

    __slots__ = ("_choices", "_destinations", "_key", "_load_factor", "_number", "_others", "_seeds")

    def __init__(self, service: ServiceView, key: Key, load_factor: float) -> None:
        count = len(service.destinations)
        self._destinations = service.destinations
        self._load_factor = load_factor
        self._seeds = pack_seeds(service.destinations)
        self._key = key
        self._number = key.number
        hashed = f"{service.why}by the hash of {key.name} among {count}"
        self._choices = choices_of(service, hashed, HASH)
        self._others = choices_of(service, f"{hashed}, those before it have their share", HASH)

    def choose(self, request: Request) -> Choice | None:
        number, tried = self._number(request), request.tried
        return pick_bounded(number, self._seeds, self._choices, tried, self._others, self._load_factor)

    def explain(self, request: Request) -> Considered:
        """Say which key is hashed."""
        return Considered((), (f"{self._key.describe(request)}, which is hashed",), self._destinations)


CHOOSE_IN_PYTHON = BoundCHash.choose
"""`BoundCHash.choose` as it is written here, whichever is used."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._hashing import configure_chash

        BoundCHash.choose = configure_chash(BoundCHash)


@implementer(ISchedulerFactory, IUsesOptions)
class CHash:
    """Per connection: by the hash of the client's address or another key, with bounded loads."""

    name = "chash"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT, USES_EACH_SERVER))

    options: Mapping[str, SchedulerOption] = MappingProxyType(
        {
            "key": KEY_OPTION,
            "load_factor": NumberOption(
                default=1.25,
                minimum=1,
                maximum=1000,
                help="how many times its share of the load a server may have",
            ),
        }
    )

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundCHash:
        return BoundCHash(service, key_of(service, self.name), option_of(service, self.options, "load_factor"))
