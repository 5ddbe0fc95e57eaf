"""wrr, weighted round robin, smooth: each server in turn as often as its weight says, the turns well mixed.

Each turn every usable server earns its weight; the richest serves and pays what all have earned. Of weights 5, 1, 1
comes a a b a c a a, never five a in a row.
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, IScheduler, ISchedulerFactory
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request, ServiceView


@implementer(IScheduler)
class BoundWRR:
    """wrr over the servers of one service. earned: what each has now."""

    def __init__(self, service: ServiceView, earned: dict[Destination, int]) -> None:
        reason = f"{service.why}next in weighted turn of {len(service.destinations)}"
        self._choices = [Choice(destination, reason) for destination in service.destinations]
        self.earned = {destination: earned.get(destination, 0) for destination in service.destinations}

    def choose(self, request: Request) -> Choice | None:
        earned, tried = self.earned, request.tried
        best: Choice | None = None
        richest = total = 0
        for choice in self._choices:
            destination = choice.destination
            weight = destination.weight
            if weight > 0 and destination not in tried:
                total += weight
                has = earned[destination] = earned[destination] + weight
                if best is None or has > richest:
                    best, richest = choice, has
        if best is not None:
            earned[best.destination] -= total
        return best


@implementer(ISchedulerFactory)
class WRR:
    """Per connection: each server in turn, as often as its weight says."""

    name = "wrr"
    unit = CONNECTION

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundWRR:
        return BoundWRR(service, previous.earned if isinstance(previous, BoundWRR) else {})
