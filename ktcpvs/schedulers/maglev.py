"""maglev, Maglev hashing: a key, as a client's address, has its server, which is found with one look into a table.

The table (`maglev_table.py`) is made for the servers and their weights as configured. A server that cannot serve keeps
its entries: a key that meets one of them takes the entry at a distance that its hash gives, and then the next one at
that distance. So the keys of a dead server spread over all others, and no other key moves. A server that has a part of
its weight, in a slow start or since its checks ask for that, serves that part of its keys in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from math import isqrt
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from zope.interface import implementer

from ktcpvs.errors import BadValue
from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    Choice,
    Considered,
    IExplains,
    IntegerOption,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    Request,
    SchedulerOption,
    ServiceView,
)
from ktcpvs.model.why import HASH
from ktcpvs.schedulers.binding import BindsInSteps
from ktcpvs.schedulers.hashing import hash_bytes, mixed
from ktcpvs.schedulers.keys import KEY_OPTION, Key, key_of
from ktcpvs.schedulers.maglev_table import MAX_SERVERS, filling, order_of
from ktcpvs.schedulers.options import option_of
from ktcpvs.schedulers.rendezvous import Rendezvous

TABLE_SIZE = 65_537
"""The entries of a table, a prime: 128 KiB."""

MIN_TABLE_SIZE, MAX_TABLE_SIZE = 251, 1_000_003

MAX_ENTRIES = 131_072_000
"""The most entries of all tables of a process: 250 MiB, or nearly 2,000 tables of the usual size. Services and rules
with the same servers and weights share one."""

MAX_PROBES = 64
"""The most entries that are looked at for one key. After these, rendezvous hashing finds one of the usable servers."""


_Servers = tuple[tuple[str, float], ...]
"""(address, weight) of the servers of a table, sorted."""


class _Server(NamedTuple):
    """A server of a table. weight: as configured. seed: the hash of its address."""

    choice: Choice
    weight: float
    seed: int


class MaglevTable:
    """A table. entries: the numbers of servers, two bytes each."""

    __slots__ = ("__weakref__", "entries")

    def __init__(self, entries: bytes) -> None:
        self.entries = entries


@implementer(IScheduler, IExplains)
class BoundMaglev:
    """maglev over the servers of one service. servers: as they are numbered in the table."""

    __slots__ = ("_destinations", "_entries", "_key", "_number", "_others", "_servers", "_size", "_table")

    def __init__(self, service: ServiceView, key: Key, servers: tuple[_Server, ...], table: MaglevTable | None) -> None:
        """table: None: no server has a weight."""
        self._destinations = service.destinations
        self._key = key
        self._number = key.number
        self._servers = servers
        self._table = table
        self._entries = memoryview(table.entries if table is not None else b"").cast("H")
        self._size = len(self._entries)
        self._others = Rendezvous(service, key.name)

    def choose(self, request: Request) -> Choice | None:
        number = self._number(request)
        if self._table is None:
            return self.probe(number, request)
        choice, weight, _ = self._servers[self._entries[number % self._size]]
        destination = choice.destination
        if destination.weight >= weight and destination not in request.tried:
            return choice
        return self.probe(number, request)

    def probe(self, number: int, request: Request) -> Choice | None:
        """Return the choice of the first entry for a hash whose server can serve, or None."""
        size = self._size
        if not size:
            return self._others.pick_by(number, request)
        distance = (number >> 32) % (size - 1) + 1
        for probe in range(MAX_PROBES):
            choice, weight, seed = self._servers[self._entries[(number + probe * distance) % size]]
            destination = choice.destination
            now = destination.weight
            if now <= 0 or destination in request.tried:
                continue
            if now >= weight or mixed(number ^ seed) * weight < now * (1 << 64):
                return choice
        return self._others.pick_by(number, request)

    def explain(self, request: Request) -> Considered:
        """Say which key is hashed, and which entry of the table it has."""
        entry = f": entry {self._number(request) % self._size} of {self._size}" if self._size else ""
        return Considered((), (f"{self._key.describe(request)}{entry}",), self._destinations)


CHOOSE_IN_PYTHON = BoundMaglev.choose
"""`BoundMaglev.choose` as it is written here, whichever is used."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._hashing import configure_maglev

        BoundMaglev.choose = configure_maglev({"maglev": BoundMaglev, "table": MaglevTable})


@implementer(ISchedulerFactory, IUsesOptions)
class Maglev(BindsInSteps):
    """Per connection: by the hash of the client's address or another key, with one look into Maglev's table."""

    name = "maglev"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    options: Mapping[str, SchedulerOption] = MappingProxyType(
        {
            "key": KEY_OPTION,
            "table_size": IntegerOption(
                default=TABLE_SIZE, minimum=MIN_TABLE_SIZE, maximum=MAX_TABLE_SIZE,
                help="entries of the table: a prime, at least 100 times the servers",
            ),
        }
    )  # fmt: skip

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        """max_entries: the most of all tables together."""
        self._max_entries = max_entries
        self._tables: WeakValueDictionary[tuple[int, _Servers], MaglevTable] = WeakValueDictionary()

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundMaglev]:
        size = option_of(service, self.options, "table_size")
        if not _is_prime(size):
            raise BadValue(f"service {service.ident}: maglev table_size {size} is no prime; {_next_prime(size)} is one")
        hashed = key_of(service, self.name)
        reason = f"{service.why}by the hash of {hashed.name} among {len(service.destinations)}"
        weighed = [(str(one.address), one) for one in service.destinations if one.share > 0]
        weighed.sort(key=lambda pair: pair[0])  # the order in a configuration makes no difference
        why = service.why_of(HASH)
        servers = [
            _Server(Choice(destination, reason, why=why), destination.share, hash_bytes(address.encode()))
            for address, destination in weighed
        ]
        key = tuple([(address, destination.share) for address, destination in weighed])
        table = self._tables.get((size, key))
        if table is None and servers:
            self._check(service, len(servers), size)
            table = MaglevTable((yield from _fill(key, size)))
            self._tables[size, key] = table
            yield
        return BoundMaglev(service, hashed, tuple(servers), table)

    def _check(self, service: ServiceView, count: int, size: int) -> None:
        """Raise BadValue for more tables, or more servers in one, than there may be."""
        if count > MAX_SERVERS:
            raise BadValue(f"service {service.ident}: maglev has at most {MAX_SERVERS} servers, and these are {count}")
        if sum(size for size, _ in self._tables) + size > self._max_entries:
            raise BadValue(
                f"service {service.ident}: the tables of maglev, one for each set of servers and weights, have at most "
                f"{self._max_entries} entries together: make table_size smaller, or use chash, which needs none"
            )


def _fill(servers: _Servers, size: int) -> Generator[None, None, bytes]:
    orders = tuple([(*order_of(address, size), float(weight)) for address, weight in servers])
    return (yield from filling(orders, size))


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, isqrt(number) + 1))


def _next_prime(number: int) -> int:
    return next(one for one in range(number, 2 * number) if _is_prime(one))
