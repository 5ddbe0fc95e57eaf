"""fo and ovf, weighted failover and weighted overflow: the server with the highest weight, and then the next one.

As in IPVS (ipvsadm(8), Linux's ip_vs_fo and ip_vs_ovf): fo sends all connections to the available server with the
highest weight. ovf does so too, until that server has as many connections as its weight says, and then goes on with the
next one. Of equal weights the first in the configuration comes first.

When all servers have as many connections as their weights say, IPVS refuses new ones. Here ovf then chooses the server
with the fewest connections for its weight: `maxconn` limits the connections of a server, and clients wait for it.
"""

from __future__ import annotations

from math import inf

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    Choice,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    Request,
    ServiceView,
)
from ktcpvs.model.why import BALANCE
from ktcpvs.schedulers.reasons import reason_among


@implementer(IScheduler)
class BoundFO:
    """fo over the servers of one service."""

    def __init__(self, service: ServiceView) -> None:
        reason = reason_among(service, "the highest weight of")
        why = service.why_of(BALANCE)
        self._choices = [Choice(destination, reason, why=why) for destination in service.destinations]

    def choose(self, request: Request) -> Choice | None:
        best: Choice | None = None
        highest: float = 0
        for choice in self._choices:
            weight = choice.destination.weight
            if weight > highest and choice.destination not in request.tried:
                best, highest = choice, weight
        return best


@implementer(IScheduler)
class BoundOVF:
    """ovf over the servers of one service."""

    def __init__(self, service: ServiceView) -> None:
        count = len(service.destinations)
        why = service.why_of(BALANCE)
        self._choices = [
            (
                Choice(
                    destination, f"{service.why}the highest weight of {count} with fewer connections than that", why=why
                ),
                Choice(
                    destination, f"{service.why}fewest connections for its weight: all {count} have that many", why=why
                ),
            )
            for destination in service.destinations
        ]

    def choose(self, request: Request) -> Choice | None:
        best: Choice | None = None
        least_loaded: Choice | None = None
        highest: float = 0
        least = inf
        for choice, beyond in self._choices:
            destination = choice.destination
            weight = destination.weight
            if weight <= 0 or destination in request.tried:
                continue
            active = destination.active
            if active < weight:
                if weight > highest:
                    best, highest = choice, weight
            elif active / weight < least:
                least_loaded, least = beyond, active / weight
        return best if best is not None else least_loaded


@implementer(ISchedulerFactory, IUsesOptions)
class FO:
    """Per connection: the available server with the highest weight."""

    name = "fo"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundFO:
        return BoundFO(service)


@implementer(ISchedulerFactory, IUsesOptions)
class OVF:
    """Per connection: the highest weight until it has that many connections, then the next one."""

    name = "ovf"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundOVF:
        return BoundOVF(service)
