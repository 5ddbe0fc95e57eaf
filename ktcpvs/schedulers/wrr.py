"""wrr, smooth weighted round robin: each server in turn, as often as its weight says, with the turns well mixed.

Servers of one weight form a class, within which they take turns. Each turn adds the weights of a class's servers to its
credit; the class with the most credit serves, and pays what all classes have got. Weights 5, 1, 1 give a b a a a c a,
never five a in a row. The cost of a turn grows with the number of different weights, not with the number of servers.
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    Choice,
    Destination,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    Request,
    ServiceView,
)


class _Class:
    """Servers of one weight. share: the sum of their weights. credit: so far. place: of the server that is next."""

    __slots__ = ("choices", "credit", "place", "share")

    def __init__(self, choices: list[Choice], weight: float, credit: float, place: int) -> None:
        self.choices = choices
        self.share = weight * len(choices)
        self.credit = credit
        self.place = place

    def next(self, tried: set[Destination]) -> int | None:
        """Return the place of the next server that has not been tried, or None."""
        count = len(self.choices)
        for step in range(count):
            place = (self.place + step) % count
            if self.choices[place].destination not in tried:
                return place
        return None


@implementer(IScheduler)
class BoundWRR:
    """wrr over the servers of one service. classes: by weight."""

    def __init__(self, service: ServiceView, known: dict[float, _Class]) -> None:
        reason = f"{service.why}next in weighted turn of {len(service.destinations)}"
        by_weight: dict[float, list[Choice]] = {}
        for destination in service.destinations:
            if destination.weight > 0:
                by_weight.setdefault(destination.weight, []).append(Choice(destination, reason))
        self.classes = {
            weight: _Class(choices, weight, known[weight].credit, known[weight].place)
            if weight in known
            else _Class(choices, weight, 0, 0)
            for weight, choices in by_weight.items()
        }

    def choose(self, request: Request) -> Choice | None:
        tried = request.tried
        best: _Class | None = None
        total: float = 0
        place = 0
        for one in self.classes.values():
            usable = one.next(tried)
            if usable is not None:
                total += one.share
                one.credit += one.share
                if best is None or one.credit > best.credit:
                    best, place = one, usable
        if best is None:
            return None
        best.credit -= total
        best.place = place + 1
        return best.choices[place]


@implementer(ISchedulerFactory, IUsesOptions)
class WRR:
    """Per connection: each server in turn, as often as its weight says."""

    name = "wrr"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundWRR:
        return BoundWRR(service, previous.classes if isinstance(previous, BoundWRR) else {})
