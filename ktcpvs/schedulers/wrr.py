"""wrr, weighted round robin, smooth: each server in turn as often as its weight says, the turns well mixed.

Servers of one weight are a class, within which they take turns. Each turn every class earns its servers' weights; the
richest serves and pays what all have earned. Of weights 5, 1, 1 comes a b a a a c a, never five a in a row. What a turn
costs grows with the number of different weights, not with that of the servers.
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, USES_WEIGHT, IScheduler, ISchedulerFactory, IUsesOptions
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request, ServiceView


class _Class:
    """Servers of one weight. share: of all turns. earned: so far. place: whose turn it is among them."""

    __slots__ = ("choices", "earned", "place", "share")

    def __init__(self, choices: list[Choice], weight: float, earned: float, place: int) -> None:
        self.choices = choices
        self.share = weight * len(choices)
        self.earned = earned
        self.place = place

    def next(self, tried: set[Destination]) -> int | None:
        """The place of the first from `place` on that has not been tried; None: all have."""
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
            weight: _Class(choices, weight, known[weight].earned, known[weight].place)
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
                one.earned += one.share
                if best is None or one.earned > best.earned:
                    best, place = one, usable
        if best is None:
            return None
        best.earned -= total
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
