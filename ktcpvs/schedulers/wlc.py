"""wlc, weighted least connections: the server with the fewest connections for its weight.

It compares connections/weight of the servers with a weight above 0. In KTCPVS the first server wins a tie; here ties
rotate, so that equal servers share evenly.
"""

from __future__ import annotations

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
from ktcpvs.schedulers.least import MAX_SCANNED_SERVERS, Least, bind_least
from ktcpvs.schedulers.order import connections, weighted_connections


@implementer(IScheduler)
class BoundWLC:
    """wlc over a few servers: LeastLoad, with its comparison written out, which takes half the time.

    even: all weights but 0 count as 1. place: where the next comparison begins.
    """

    def __init__(self, service: ServiceView, reason: str, even: bool = False, place: int = 0) -> None:
        self._choices = [Choice(destination, reason) for destination in service.destinations]
        self._even = even
        self.place = place

    def choose(self, request: Request) -> Choice | None:
        choices, tried, even = self._choices, request.tried, self._even
        best: Choice | None = None
        least_weight: float = 1
        least, place = 0, 0
        count = len(choices)
        for step in range(count):
            position = (self.place + step) % count
            choice = choices[position]
            candidate = choice.destination
            weight = candidate.weight
            if weight > 0 and candidate not in tried:
                if even:
                    weight = 1
                active = candidate.active
                if best is None or active * least_weight < least * weight:
                    best, least, least_weight, place = choice, active, weight, position
        if best is not None:
            self.place = place + 1
        return best


def bound_wlc(service: ServiceView, previous: IScheduler | None, even: bool = False) -> BoundWLC | Least:
    """Bind wlc in the form that suits the number of servers."""
    reason = "fewest connections" if even else "fewest connections for its weight"
    count = len(service.destinations)
    if 2 <= count <= MAX_SCANNED_SERVERS:
        place = previous.place if isinstance(previous, BoundWLC) else 0
        return BoundWLC(service, f"{service.why}{reason} of {count}", even, place)
    return bind_least(service, previous, connections if even else weighted_connections, reason)


@implementer(ISchedulerFactory, IUsesOptions)
class WLC:
    """Per connection: the server with the fewest connections for its weight."""

    name = "wlc"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundWLC | Least:
        return bound_wlc(service, previous)
