"""wlc, weighted least connections: the server with the fewest connections for its weight.

Fewest connections/weight among the servers with weight > 0 (KTCPVS: the first wins a tie; here ties rotate,
so that equal servers share evenly).
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, IScheduler, ISchedulerFactory
from ktcpvs.model.scheduling import Choice, Request, ServiceView


@implementer(IScheduler)
class BoundWLC:
    """wlc over the servers of one service. even: all weights but 0 count as 1. place: where the next tie begins."""

    def __init__(self, service: ServiceView, even: bool = False, place: int = 0) -> None:
        what = "fewest connections" if even else "fewest connections for its weight"
        reason = f"{service.why}{what} of {len(service.destinations)}"
        self._choices = [Choice(destination, reason) for destination in service.destinations]
        self._even = even
        self.place = place

    def choose(self, request: Request) -> Choice | None:
        choices, tried, even = self._choices, request.tried, self._even
        best: Choice | None = None
        least, least_weight, place = 0, 1, 0
        count = len(choices)
        for step in range(count):
            position = (self.place + step) % count
            choice = choices[position]
            candidate = choice.destination
            weight = candidate.weight
            if weight > 0 and candidate not in tried:
                if even:
                    weight = 1
                if best is None or candidate.active * least_weight < least * weight:
                    best, least, least_weight, place = choice, candidate.active, weight, position
        if best is not None:
            self.place = place + 1
        return best


@implementer(ISchedulerFactory)
class WLC:
    """Per connection: the server with the fewest connections for its weight."""

    name = "wlc"
    unit = CONNECTION

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundWLC:
        return BoundWLC(service, place=previous.place if isinstance(previous, BoundWLC) else 0)
