"""A simulation: arrivals, servers that take time, one scheduler; and the report of what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from attrs import evolve, field, frozen

from ktcpvs.interfaces import ISchedulerFactory
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.scheduler_words import parse_scheduler
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.simulation.arrivals import Arrival, poisson, until
from ktcpvs.simulation.behaviour import FAILED, REFUSED, Behaviour, Outcome, constant
from ktcpvs.simulation.durations import Durations
from ktcpvs.simulation.moves import Moves
from ktcpvs.simulation.simulated_service import SimulatedRequest, SimulatedService
from ktcpvs.system.plugins import Schedulers, find_schedulers

Change = Callable[[VirtualService], VirtualService]
"""Returns the next configuration of a service, as an edit does."""


@frozen
class FakeServer:
    """A server of a simulation. behaviour: what it does with a request. weight, maxconn: as configured at the switch.
    capacity: the most requests that it works on at once, others wait inside of it; 0: no limit."""

    behaviour: Behaviour = field(factory=lambda: constant(0.01))
    weight: int = 1
    maxconn: int = 0
    capacity: int = 0


@frozen
class ServerReport:
    """One server after a simulation. address: as `tcpvsadm` writes it. requests: that it has responded to. failures:
    its responses with a status of 500 and above, and connections that it has refused. peak: the most requests that it
    had at once. durations: of the requests that it has responded to, from their arrival on. share: its part of all
    responses, 0 to 1."""

    address: str
    requests: int
    failures: int
    peak: int
    durations: Durations
    share: float


@frozen
class Report:
    """The result of a simulation.

    scheduler: its name. requests: that have come. errors: those that ended with a status of 500 and above, or without a
    response. retries: servers that had failed a request which then went to another one. queued: requests that waited
    for room at a server; waits: how long. durations: of all requests, from their arrival to their end. moves: requests
    of a client that went to another server than its one before. servers: in the order of the configuration; those that
    were removed are missing. faults: what went wrong in the scheduler, a line each.
    """

    scheduler: str
    requests: int
    errors: int
    retries: int
    queued: int
    waits: Durations
    durations: Durations
    moves: Moves
    servers: Sequence[ServerReport]
    faults: Sequence[str]

    @property
    def p50(self) -> float | None:
        """The median of the durations, in seconds; None without requests."""
        return self.durations.p50

    @property
    def p99(self) -> float | None:
        """The time that one of a hundred requests takes longer than, in seconds; None without requests."""
        return self.durations.p99

    def share(self, number: int) -> float:
        """Return the part of all responses, 0 to 1, that come from a server. number: its place, from 0."""
        return self.servers[number].share

    def __str__(self) -> str:
        lines = [
            f"{self.scheduler}: {self.requests} requests, {self.errors} errors, {self.retries} retries, "
            f"{self.queued} queued, {self.moves.moves} moved; p50 {_ms(self.p50)}, p99 {_ms(self.p99)}"
        ]
        for server in self.servers:
            lines.append(
                f"  {server.address:21} {server.share:6.1%} {server.requests:9} requests {server.failures:7} failed"
                f"  at most {server.peak} at once, p50 {_ms(server.durations.p50)}, p99 {_ms(server.durations.p99)}"
            )
        return "\n".join(lines)


class Simulation:
    """Runs requests through a scheduler, with the selection of the switch: weights, maxconn, the queue, retries,
    ejection, priorities and fallback are those that traffic meets."""

    def __init__(
        self,
        scheduler: str | ISchedulerFactory,
        servers: Sequence[FakeServer],
        *,
        rate: float = 100.0,
        clients: int = 1000,
        arrivals: Iterable[Arrival] | None = None,
        seed: int = 1,
        named: str | None = None,
        options: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        changes: Sequence[tuple[float, Change]] = (),
    ) -> None:
        """scheduler: as a configuration names it, or a factory that need not be installed. servers: at 10.0.0.1:80,
        10.0.0.2:80 and so on. rate, clients: of requests that come by a Poisson process. arrivals: requests in their
        order, instead of these. seed: of all chance. named: the text of a factory that is given, with its options, such
        as "mine depth 3"; None: its name. options: of the service, as fields of `VirtualService`, such as {"eject": 5}.
        settings: of the switch; None: the defaults. changes: pairs of a virtual second and a change of the
        configuration."""
        self._scheduler, self._schedulers = _found(scheduler)
        if named is not None:
            self._scheduler = str(parse_scheduler(named))
        self._servers = tuple(servers)
        self._chance = Random(seed)
        self._arrivals = poisson(rate, clients, seed=seed) if arrivals is None else arrivals
        self._options = dict(options or {})
        self._settings = settings
        self._changes = tuple(changes)

    def run(self, seconds: float) -> Report:
        """Let the requests of the first `seconds` come, wait for their ends, and return the report. Raises a Refusal
        where the scheduler cannot be bound."""
        real = [
            RealServer(Inet(f"10.0.{number >> 8}.{number & 255}", 80), server.weight, server.maxconn)
            for number, server in enumerate(self._servers, 1)
        ]
        config = VirtualService("simulated", scheduler=self._scheduler, servers=tuple(real), **self._options)
        behaviours = {one.address: server.behaviour for one, server in zip(real, self._servers, strict=True)}
        results = Results()

        def answer(request: SimulatedRequest, destination: Destination) -> Outcome:
            outcome = behaviours[destination.address](service.time.now, self._chance)
            results.answered(destination, outcome)
            return outcome

        service = SimulatedService(
            config,
            answer,
            results.ended,
            settings=self._settings,
            capacities={one.address: server.capacity for one, server in zip(real, self._servers, strict=True)},
            schedulers=self._schedulers,
        )
        for at, change in self._changes:
            if at <= seconds:
                service.time.at(at, lambda change: service.configure(change(service.config)), change)
        service.run(until(self._arrivals, seconds))
        return results.report(service)


class Results:
    """Counts what comes of the requests of a simulation."""

    def __init__(self) -> None:
        self._durations, self._waits, self._moves = Durations(), Durations(), Moves()
        self._of_servers: dict[Destination, Durations] = {}
        self._failures: dict[Destination, int] = {}
        self._requests = self._errors = self._retries = 0

    def answered(self, destination: Destination, outcome: Outcome) -> None:
        """Count what a server does with a request."""
        if outcome.status == REFUSED or outcome.status >= FAILED:
            self._failures[destination] = self._failures.get(destination, 0) + 1

    def ended(self, request: SimulatedRequest) -> None:
        """Count a request that has ended."""
        self._requests += 1
        self._retries += request.retries
        self._durations.add(request.seconds)
        if request.queued:
            self._waits.add(request.queued)
        if request.status is None or request.status == REFUSED or request.status >= FAILED:
            self._errors += 1
        if request.server is not None:
            destination = request.server.destination
            durations = self._of_servers.get(destination)
            if durations is None:
                durations = self._of_servers[destination] = Durations()
            durations.add(request.seconds)
            self._moves.add(request.arrival.client, destination.address)

    def report(self, service: SimulatedService) -> Report:
        """Return the report."""
        responses = sum([durations.count for durations in self._of_servers.values()])
        servers = []
        for destination in service.destinations:
            durations = self._of_servers.get(destination, Durations())
            servers.append(
                ServerReport(
                    str(destination.address),
                    durations.count,
                    self._failures.get(destination, 0),
                    service.stations[destination].peak,
                    durations,
                    durations.count / responses if responses else 0.0,
                )
            )
        return Report(
            service.config.scheduler,
            self._requests,
            self._errors,
            self._retries,
            service.queued,
            self._waits,
            self._durations,
            self._moves,
            tuple(servers),
            tuple(service.faults),
        )


def without_server(number: int) -> Change:
    """Return the change that deletes a server. number: its place, from 0."""
    return lambda config: evolve(config, servers=config.servers[:number] + config.servers[number + 1 :])


def with_weight(number: int, weight: int) -> Change:
    """Return the change that gives a server another weight. number: its place, from 0."""

    def change(config: VirtualService) -> VirtualService:
        servers = list(config.servers)
        servers[number] = evolve(servers[number], weight=weight)
        return evolve(config, servers=tuple(servers))

    return change


def _found(scheduler: str | ISchedulerFactory) -> tuple[str, Schedulers]:
    """Return the name of a scheduler, and all that a service may name, with this one among them."""
    installed = find_schedulers()
    if isinstance(scheduler, str):
        return str(parse_scheduler(scheduler)), installed
    return scheduler.name, Schedulers({**installed.known, scheduler.name: scheduler})


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.4g} ms"
