"""maglev, Maglev hashing: a client's address has its server, which is found with one look into a table.

The table (`maglev_table.py`) is made for the servers and their weights as configured. A server that cannot serve keeps
its entries: a key that meets one of them takes the entry at a distance that its hash gives, and then the next one at
that distance. So the keys of a dead server spread over all others, and no other key moves. A server that has a part of
its weight, in a slow start or since its checks ask for that, serves that part of its keys in the same way.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from typing import NamedTuple
from weakref import WeakValueDictionary

from zope.interface import implementer

from ktcpvs.errors import BadValue
from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    Choice,
    Considered,
    IExplains,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    Request,
    ServiceView,
)
from ktcpvs.schedulers.binding import BindsInSteps
from ktcpvs.schedulers.hashing import hash_bytes, hash_client, mixed
from ktcpvs.schedulers.maglev_table import MAX_SERVERS, filling, order_of
from ktcpvs.schedulers.rendezvous import Rendezvous

TABLE_SIZE = 65_537
"""The entries of a table, a prime: 128 KiB."""

MAX_TABLES = 2_000
"""The most tables of a process: services and rules with the same servers and weights share one."""

MAX_PROBES = 64
"""The most entries that are looked at for one key. After these, rendezvous hashing finds one of the usable servers."""


class _Server(NamedTuple):
    """A server of a table. weight: as configured. seed: the hash of its address."""

    choice: Choice
    weight: float
    seed: int


class MaglevTable:
    """A table. entries: the numbers of servers."""

    __slots__ = ("__weakref__", "entries")

    def __init__(self, entries: bytes) -> None:
        self.entries = array("H", entries)


@implementer(IScheduler, IExplains)
class BoundMaglev:
    """maglev over the servers of one service. servers: as they are numbered in the table."""

    def __init__(self, service: ServiceView, servers: list[_Server], table: MaglevTable | None) -> None:
        """table: None: no server has a weight."""
        self._destinations = service.destinations
        self._servers = servers
        self._table = table
        self._entries = table.entries if table is not None else array("H")
        self._others = Rendezvous(service, "the client's address")

    def choose(self, request: Request) -> Choice | None:
        number = hash_client(request.client)
        if self._table is None:
            return self._others.pick_by(number, request)
        choice, weight, _ = self._servers[self._entries[number % TABLE_SIZE]]
        destination = choice.destination
        if destination.weight >= weight and destination not in request.tried:
            return choice
        return self._probe(number, request)

    def _probe(self, number: int, request: Request) -> Choice | None:
        """Return the choice of the first entry for a hash whose server can serve."""
        distance = (number >> 32) % (TABLE_SIZE - 1) + 1
        for probe in range(MAX_PROBES):
            choice, weight, seed = self._servers[self._entries[(number + probe * distance) % TABLE_SIZE]]
            destination = choice.destination
            now = destination.weight
            if now <= 0 or destination in request.tried:
                continue
            if now >= weight or mixed(number ^ seed) * weight < now * (1 << 64):
                return choice
        return self._others.pick_by(number, request)

    def describe_key(self, request: Request) -> str:
        """Return what is hashed for `request`, in words."""
        entry = hash_client(request.client) % TABLE_SIZE
        return f"the client's address is '{request.client}': entry {entry} of {TABLE_SIZE}"

    def explain(self, request: Request) -> Considered:
        return Considered((), (self.describe_key(request),), self._destinations)


@implementer(ISchedulerFactory, IUsesOptions)
class Maglev(BindsInSteps):
    """Per connection: by the hash of the client's address, with one look into Maglev's table."""

    name = "maglev"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def __init__(self, max_tables: int = MAX_TABLES) -> None:
        self._max_tables = max_tables
        self._tables: WeakValueDictionary[tuple[tuple[str, float], ...], MaglevTable] = WeakValueDictionary()

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundMaglev]:
        reason = f"{service.why}by the hash of the client's address among {len(service.destinations)}"
        weighed = [(str(one.address), one) for one in service.destinations if one.share > 0]
        weighed.sort(key=lambda pair: pair[0])  # the order in a configuration makes no difference
        servers = [
            _Server(Choice(destination, reason), destination.share, hash_bytes(address.encode()))
            for address, destination in weighed
        ]
        key = tuple([(address, destination.share) for address, destination in weighed])
        table = self._tables.get(key)
        if table is None and servers:
            self._check(service, len(servers))
            table = MaglevTable((yield from _fill(key)))
            self._tables[key] = table
            yield
        return BoundMaglev(service, servers, table)

    def _check(self, service: ServiceView, count: int) -> None:
        """Raise BadValue for more tables, or more servers in one, than there may be."""
        if count > MAX_SERVERS:
            raise BadValue(f"service {service.ident}: maglev has at most {MAX_SERVERS} servers, and these are {count}")
        if len(self._tables) >= self._max_tables:
            raise BadValue(
                f"service {service.ident}: maglev has at most {self._max_tables} tables, one for each set of servers "
                "and weights that rules use; chash and sh need none"
            )


def _fill(servers: tuple[tuple[str, float], ...]) -> Generator[None, None, bytes]:
    orders = tuple([(*order_of(address, TABLE_SIZE), float(weight)) for address, weight in servers])
    return (yield from filling(orders, TABLE_SIZE))
