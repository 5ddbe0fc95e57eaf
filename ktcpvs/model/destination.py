"""The live counters of real servers. Leases do all counting; schedulers only read the counters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ktcpvs.model.address import SRV, Address, host_field
from ktcpvs.model.health import Health
from ktcpvs.model.latency import Latencies
from ktcpvs.model.recent import ErrorRate, Latency, no_time

NO_LABELS: Mapping[str, str] = {}
"""The labels of a server without any."""


class Destination:
    """A real server inside one service, with its live counters.

    address: Address. name: the configured host name, or `srv:NAME`, that this address belongs to; None: the address
    itself is configured. share, weight, maxconn: follow every edit; share: the weight as configured, 0 unless the
    server is ready; weight: the current one, a part of it during slow start, or as checks ask; maxconn 0: no limit.
    max_pending: the most requests that wait for it while it is full; 0: no limit. pending: how many do so, in this
    process. active: current connections, those being established included; requests, for schedulers that choose per
    request. total: connections established. failures: connections that could not be established, and requests without a
    response. retries: requests that were sent to another server after this one failed. latencies: of requests, for
    schedulers that choose per request. heard: the tick when it last sent a response. errors: consecutive failed
    requests. last_error, failed_at: why it has last failed one, in words, and the Unix time then; "" and 0: it never
    has. health: whether it may be chosen. is_standby: it is up, and only requests of its sessions come to it: servers
    of earlier priorities suffice, or its checks ask for that. reused: requests on a kept connection. bytes_in: bytes
    from clients to it. bytes_out: bytes from it to clients. freed: called with the destination when a lease has ended;
    None: nothing waits for that. watchers: called with the destination whenever `active` changes. is_shared: `active`
    also changes without such a call, since other processes use the server too. labels: name -> value, as configured;
    "" for a name alone. clock: returns monotonic seconds. measured_latency, measured_errors: what `latency` and
    `error_rate` return and read; None: no scheduler has read them, and nothing is measured.
    """

    is_shared = False

    __slots__ = (
        "active", "address", "bytes_in", "bytes_out", "clock", "errors", "failed_at", "failures", "freed", "health",
        "heard", "is_standby", "labels", "last_error", "latencies", "max_pending", "maxconn", "measured_errors",
        "measured_latency", "name",
        "pending", "retries", "reused", "share", "total", "watchers", "weight",
    )  # fmt: skip

    def __init__(self, address: Address, weight: int = 1, maxconn: int = 0) -> None:
        self.address = address
        self.name: str | None = None
        self.weight: float = weight
        self.share = weight
        self.maxconn = maxconn
        self.max_pending = 0
        self.pending = 0
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
        self.last_error = ""
        self.failed_at = 0.0
        self.health = Health()
        self.is_standby = False
        self.bytes_in = 0
        self.bytes_out = 0
        self.labels = NO_LABELS
        self.clock: Callable[[], float] = no_time
        self.measured_latency: Latency | None = None
        self.measured_errors: ErrorRate | None = None

    def __repr__(self) -> str:
        return f"<Destination {self.address} weight {self.weight}, {self.active} active>"

    @property
    def host_field(self) -> bytes:
        """The value of Host for a request without one: the server's name, or its address, with the port."""
        return (self.host_name or host_field(self.address)).encode("ascii")

    @property
    def host_name(self) -> str | None:
        """The host name with port that it is configured by; None: it is by its address, or by SRV records."""
        return None if self.name is None or self.name.startswith(SRV) else self.name

    @property
    def latency(self) -> Latency:
        """The time that it takes to begin its responses, in this process. From the first time that it is read, that is
        measured."""
        if self.measured_latency is None:
            self.measured_latency = Latency(self.clock)
        return self.measured_latency

    @property
    def error_rate(self) -> float:
        """The share of its recent requests or connections that have failed, 0 to 1, in this process. From the first
        time that it is read, that is measured."""
        if self.measured_errors is None:
            self.measured_errors = ErrorRate(self.clock)
        return self.measured_errors.value

    @property
    def is_measured(self) -> bool:
        """Whether a scheduler has read its latency or its error rate."""
        return self.measured_latency is not None or self.measured_errors is not None

    def measure_no_more(self) -> None:
        """Forget its latency and its error rate, until a scheduler reads them again."""
        self.measured_latency = self.measured_errors = None

    @property
    def queued(self) -> int:
        """The number of requests that wait for it while it is full, in this process."""
        return self.pending

    @property
    def state(self) -> str:
        """`up`, `down` or `ejected`."""
        return self.health.state

    @property
    def is_full(self) -> bool:
        """Whether it has reached its maxconn."""
        return 0 < self.maxconn <= self.active

    @property
    def is_crowded(self) -> bool:
        """Whether it is full, and as many requests wait for it as may."""
        return 0 < self.max_pending <= self.pending and self.is_full

    @property
    def own(self) -> int:
        """The connections of this process alone."""
        return self.active

    def part_of(self, count: int) -> int:
        """Return the part of `count` of its connections that falls to this process, by how many it has. The parts of
        all processes add up to `count`."""
        return count

    def take(self) -> None:
        """Count one more connection."""
        self.active += 1

    def give(self) -> None:
        """Count one connection less."""
        self.active -= 1

    def succeeded(self, now: float) -> None:
        """A request has a response without a fault of the server, or a connection is established. now: monotonic
        seconds."""
        self.errors = 0
        if self.measured_errors is not None:
            self.measured_errors.record(False, now)

    def tell(self) -> None:
        """Call the watchers: the number of connections has changed."""
        for watcher in self.watchers:
            watcher(self)

    def lease(self) -> Lease:
        """Count one connection, until the lease's `end()`."""
        return Lease(self)


class SharedDestination(Destination):
    """A real server that several processes use: `active` counts the connections of all of them.

    Each process has its own place in `row`, in which no other process writes.
    """

    __slots__ = ("_place", "row")

    is_shared = True

    def __init__(self, address: Address, weight: int, maxconn: int, row: memoryview, place: int) -> None:
        """row: one count for each process. place: of this process."""
        self.row = row
        self._place = place
        super().__init__(address, weight, maxconn)

    @property
    def active(self) -> int:
        return sum(self.row)

    @active.setter
    def active(self, value: int) -> None:
        """Do nothing: only the constructor of Destination sets it, to 0."""

    @property
    def own(self) -> int:
        return self.row[self._place]

    def part_of(self, count: int) -> int:
        counts = list(self.row)
        total, before = sum(counts), sum(counts[: self._place])
        if not total:
            return 0
        return count * (before + counts[self._place]) // total - count * before // total

    def take(self) -> None:
        self.row[self._place] += 1

    def give(self) -> None:
        self.row[self._place] -= 1


class Lease:
    """One counted connection of a destination."""

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
        """Count the connection as established."""
        self.destination.total += 1

    def end(self, failed: bool = False) -> None:
        """End the lease. failed: the connection could not be established. A second call does nothing."""
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
