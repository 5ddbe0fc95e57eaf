"""The live counts. Counting happens here alone, through leases; schedulers look and never count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ktcpvs.model.address import Address, host_field
from ktcpvs.model.health import Health
from ktcpvs.model.latency import Latencies


class Destination:
    """A real server inside one service, with its live counters.

    address: Address. name: the configured server that it is one address of; None: it is configured itself. weight,
    maxconn: follow every edit; weight: a whole number, but for a server that comes slowly; maxconn 0: no limit. active:
    connections that it has now, those being made included; for schedulers that decide per request, requests. total:
    those that were made. failures: connections that could not be made, and requests that were not answered. retries:
    those that were tried again after it failed them. latencies: of requests, where they are switched one by one. heard:
    the tick when it last said something to a request. errors: how many in a row. health: may it be chosen? reused:
    requests that went on a kept connection. bytes_in: bytes from clients to it. bytes_out: bytes from it to clients.
    freed: called with it when one that counted has ended; None: nobody waits. watchers: called with it whenever
    `active` changes. is_shared: `active` changes without anybody being told.
    """

    is_shared = False

    __slots__ = (
        "active", "address", "bytes_in", "bytes_out", "errors", "failures", "freed", "health", "heard",
        "latencies", "maxconn", "name", "retries", "reused", "total", "watchers", "weight",
    )  # fmt: skip

    def __init__(self, address: Address, weight: int = 1, maxconn: int = 0) -> None:
        self.address = address
        self.name: str | None = None
        self.weight: float = weight
        self.maxconn = maxconn
        self.reused = 0
        self.freed: Callable[[Destination], object] | None = None
        self.watchers: tuple[Callable[[Destination], object], ...] = ()
        self.active = 0
        self.total = 0
        self.failures = 0
        self.retries = 0
        self.latencies = Latencies()
        self.heard = 0
        self.errors = 0
        self.health = Health()
        self.bytes_in = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Destination {self.address} weight {self.weight}, {self.active} active>"

    @property
    def host_field(self) -> bytes:
        """The value of Host for a request without one: the server's name, or its address, with the port."""
        return (self.name or host_field(self.address)).encode("ascii")

    @property
    def is_full(self) -> bool:
        """True when it has as many connections as it may have."""
        return 0 < self.maxconn <= self.active

    @property
    def own(self) -> int:
        """The connections of this process alone."""
        return self.active

    def take(self) -> None:
        """One connection more."""
        self.active += 1

    def give(self) -> None:
        """One less."""
        self.active -= 1

    def tell(self) -> None:
        """Its number of connections has changed."""
        for watcher in self.watchers:
            watcher(self)

    def lease(self) -> Lease:
        """Count one connection in; it counts until the lease's `end()`."""
        return Lease(self)


class SharedDestination(Destination):
    """A real server that several processes use: `active` counts the connections of all of them.

    Each process has a place of its own in `row`, where it alone writes.
    """

    __slots__ = ("_place", "row")

    is_shared = True

    def __init__(self, address: Address, weight: int, maxconn: int, row: Any, place: int) -> None:
        """row: one count for each process, a sequence of int. place: this one's."""
        self.row = row
        self._place = place
        super().__init__(address, weight, maxconn)

    @property
    def active(self) -> int:
        return sum(self.row)

    @active.setter
    def active(self, value: int) -> None:
        """Only a new one is set, to what it is already."""

    @property
    def own(self) -> int:
        return int(self.row[self._place])

    def take(self) -> None:
        self.row[self._place] += 1

    def give(self) -> None:
        self.row[self._place] -= 1


class Lease:
    """One connection's place at a destination."""

    __slots__ = ("destination", "ended")

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.ended = False
        if destination.is_shared:
            destination.take()
        else:
            destination.active += 1
        if destination.watchers:
            destination.tell()

    def made(self) -> None:
        """The connection was made."""
        self.destination.total += 1

    def end(self, failed: bool = False) -> None:
        """Count the connection out; `failed` when it could not be made. Safe to call twice."""
        if not self.ended:
            self.ended = True
            destination = self.destination
            if destination.is_shared:
                destination.give()
            else:
                destination.active -= 1
            if failed:
                destination.failures += 1
            if destination.watchers:
                destination.tell()
            if destination.freed is not None:
                destination.freed(destination)
