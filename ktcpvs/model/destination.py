"""The live counts. Counting happens here alone, through leases; schedulers look and never count."""

from __future__ import annotations

from ktcpvs.model.address import Address


class Destination:
    """A real server inside one service, with its live counters.

    address: Address. weight: int, follows every edit. active: connections that it has now, those being made
    included. total: connections that were made. failures: connections that could not be made.
    bytes_in: bytes from clients to it. bytes_out: bytes from it to clients.
    """

    __slots__ = ("active", "address", "bytes_in", "bytes_out", "failures", "total", "weight")

    def __init__(self, address: Address, weight: int = 1) -> None:
        self.address = address
        self.weight = weight
        self.active = 0
        self.total = 0
        self.failures = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Destination {self.address} weight {self.weight}, {self.active} active>"

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

    def made(self) -> None:
        """The connection was made."""
        self.destination.total += 1

    def end(self, failed: bool = False) -> None:
        """Count the connection out; `failed` when it could not be made. Safe to call twice."""
        if not self.ended:
            self.ended = True
            self.destination.active -= 1
            self.destination.failures += failed
