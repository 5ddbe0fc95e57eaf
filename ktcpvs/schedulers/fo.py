"""fo and ovf, weighted failover and weighted overflow: the server with the highest weight, and then the next one.

As in IPVS (ipvsadm(8), Linux's ip_vs_fo and ip_vs_ovf): fo sends all connections to the available server with the
highest weight. ovf does so too, until that server has as many connections as its weight says, and then goes on with the
next one. Of equal weights the first in the configuration comes first.

When all servers have as many connections as their weights say, IPVS refuses new ones. Here ovf then chooses the server
with the fewest connections for its weight: `maxconn` limits the connections of a server, and clients wait for it.
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_EACH_SERVER,
    USES_WEIGHT,
    Choice,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    Request,
    ServiceView,
)
from ktcpvs.schedulers.choices import choices_of, usable
from ktcpvs.schedulers.reasons import reason_among


@implementer(IScheduler)
class BoundFO:
    """fo over the servers of one service."""

    def __init__(self, service: ServiceView) -> None:
        reason = reason_among(service, "the highest weight of")
        self._choices = choices_of(service, reason)

    def choose(self, request: Request) -> Choice | None:
        return max(usable(self._choices, request.tried), key=_weight_of, default=None)


@implementer(IScheduler)
class BoundOVF:
    """ovf over the servers of one service."""

    def __init__(self, service: ServiceView) -> None:
        count = len(service.destinations)
        highest = f"{service.why}the highest weight of {count} with fewer connections than that"
        beyond = f"{service.why}fewest connections for its weight: all {count} have that many"
        self._choices = choices_of(service, highest)
        self._beyond = choices_of(service, beyond)

    def choose(self, request: Request) -> Choice | None:
        below = [one for one in usable(self._choices, request.tried) if one.destination.active < one.destination.weight]
        if below:
            return max(below, key=_weight_of)
        return min(usable(self._beyond, request.tried), key=_load_of, default=None)


def _weight_of(choice: Choice) -> float:
    return choice.destination.weight


def _load_of(choice: Choice) -> float:
    return choice.destination.active / choice.destination.weight


@implementer(ISchedulerFactory, IUsesOptions)
class FO:
    """Per connection: the available server with the highest weight."""

    name = "fo"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT, USES_EACH_SERVER))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundFO:
        return BoundFO(service)


@implementer(ISchedulerFactory, IUsesOptions)
class OVF:
    """Per connection: the highest weight until it has that many connections, then the next one."""

    name = "ovf"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT, USES_EACH_SERVER))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundOVF:
        return BoundOVF(service)
