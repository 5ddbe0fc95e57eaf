"""wlc, weighted least connections: the server with the fewest connections for its weight.

It compares connections/weight of the servers with a weight above 0. In KTCPVS the first server wins a tie; here ties
rotate, so that equal servers share evenly. A few servers are compared one by one; many are kept in order as their
connections come and go, so that the cost of a choice hardly grows with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    Choice,
    Destination,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    IWatches,
    Request,
    ServiceView,
)
from ktcpvs.schedulers.order import Order
from ktcpvs.schedulers.reasons import reason_among

MAX_SCANNED_SERVERS = 16
"""The most servers that are compared one by one: up to here that costs less than keeping them in order."""


@implementer(IScheduler)
class BoundWLC:
    """wlc over a few servers. even: all weights but 0 count as 1. place: where the next comparison begins."""

    def __init__(self, service: ServiceView, even: bool = False, place: int = 0) -> None:
        reason = _reason(service, even)
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


@implementer(IScheduler)
class OnlyOne:
    """wlc over one server, as in many rules."""

    place = 0

    def __init__(self, service: ServiceView, even: bool = False) -> None:
        (self._destination,) = service.destinations
        self._choice = Choice(self._destination, _reason(service, even))

    def choose(self, request: Request) -> Choice | None:
        destination = self._destination
        return self._choice if destination.weight > 0 and destination not in request.tried else None


@implementer(IScheduler, IWatches)
class OrderedWLC:
    """wlc over many servers, which are kept in the order of their load."""

    def __init__(self, service: ServiceView, even: bool = False) -> None:
        reason = _reason(service, even)
        self._choices = {d: Choice(d, reason) for d in service.destinations if d.weight > 0}
        self._order = Order(self._choices, even)

    def choose(self, request: Request) -> Choice | None:
        first = self._order.first(request.tried)
        return self._choices[first] if first is not None else None

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        return ((destination, self._order.changed) for destination in self._choices)


def bound_wlc(service: ServiceView, previous: IScheduler | None, even: bool = False) -> OnlyOne | BoundWLC | OrderedWLC:
    """Bind wlc in the form that suits the number of servers."""
    if len(service.destinations) > MAX_SCANNED_SERVERS:
        return OrderedWLC(service, even)
    if len(service.destinations) == 1:
        return OnlyOne(service, even)
    return BoundWLC(service, even, previous.place if isinstance(previous, BoundWLC) else 0)


def _reason(service: ServiceView, even: bool) -> str:
    return reason_among(service, f"fewest connections {'' if even else 'for its weight '}among")


@implementer(ISchedulerFactory, IUsesOptions)
class WLC:
    """Per connection: the server with the fewest connections for its weight."""

    name = "wlc"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> OnlyOne | BoundWLC | OrderedWLC:
        return bound_wlc(service, previous)
