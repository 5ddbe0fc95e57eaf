"""The live counts. Counting happens here alone, through leases; schedulers look and never count."""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.model.address import Address


class Destination:
    """A real server inside one service, with its live counters.

    address: Address. weight, maxconn: int, follow every edit; maxconn 0: no limit. active: connections that it has now,
    those being made included; for schedulers that decide per request, requests. total: those that were made. failures:
    connections that could not be made. reused: requests that went on a kept connection. bytes_in: bytes from clients to
    it. bytes_out: bytes from it to clients. freed: called with it when one that counted has ended; None: nobody waits.
    watchers: called with it whenever `active` changes.
    """

    __slots__ = (
        "active", "address", "bytes_in", "bytes_out", "failures", "freed", "maxconn", "reused", "total", "watchers",
        "weight",
    )  # fmt: skip

    def __init__(self, address: Address, weight: int = 1, maxconn: int = 0) -> None:
        self.address = address
        self.weight = weight
        self.maxconn = maxconn
        self.reused = 0
        self.freed: Callable[[Destination], object] | None = None
        self.watchers: tuple[Callable[[Destination], object], ...] = ()
        self.active = 0
        self.total = 0
        self.failures = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Destination {self.address} weight {self.weight}, {self.active} active>"

    @property
    def is_full(self) -> bool:
        """True when it has as many connections as it may have."""
        return 0 < self.maxconn <= self.active

    def tell(self) -> None:
        """Its number of connections has changed."""
        for watcher in self.watchers:
            watcher(self)

    def lease(self) -> Lease:
        """Count one connection in; it counts until the lease's `end()`."""
        return Lease(self)


class Lease:
    """One connection's place at a destination."""

    __slots__ = ("destination", "ended")

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.ended = False
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
            destination.active -= 1
            destination.failures += failed
            if destination.watchers:
                destination.tell()
            if destination.freed is not None:
                destination.freed(destination)
