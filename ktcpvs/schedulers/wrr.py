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
from ktcpvs.model.why import BALANCE
from ktcpvs.schedulers.reasons import reason_among


class _Class:
    """Servers of one weight. credit: so far. place: of the server that is next."""

    __slots__ = ("choices", "credit", "place", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.choices: list[Choice] = []
        self.credit: float = 0
        self.place = 0

    def next(self, tried: set[Destination]) -> int | None:
        """Return the place of the next server that has not been tried, or None."""
        count = len(self.choices)
        for step in range(count):
            place = (self.place + step) % count
            if self.choices[place].destination not in tried:
                return place
        return None

    def share(self, tried: set[Destination]) -> float:
        """Return the sum of the weights of those that have not been tried."""
        if not tried:
            return self.weight * len(self.choices)
        return self.weight * sum(choice.destination not in tried for choice in self.choices)


@implementer(IScheduler)
class BoundWRR:
    """wrr over the servers of one service. classes: by weight.

    Weights may change at any time, in a slow start or since checks ask for that. Each choice looks at one server, in
    turn, so that a change is seen within as many choices as there are servers, at a cost that does not grow with them.
    """

    def __init__(self, service: ServiceView, known: dict[float, _Class]) -> None:
        reason = reason_among(service, "next in weighted turn of")
        self.classes: dict[float, _Class] = {}
        why = service.why_of(BALANCE)
        self._choices = [Choice(one, reason, why=why) for one in service.destinations if one.weight > 0]
        self._weights = [choice.destination.weight for choice in self._choices]  # as they are in `classes`
        self._seen = 0  # the server that was looked at last
        for choice, weight in zip(self._choices, self._weights, strict=True):
            self._class(weight).choices.append(choice)
        for weight, one in self.classes.items():
            if weight in known:
                one.credit, one.place = known[weight].credit, known[weight].place

    def _class(self, weight: float) -> _Class:
        found = self.classes.get(weight)
        if found is None:
            found = self.classes[weight] = _Class(weight)
        return found

    def _follow_weights(self) -> None:
        """Look at the next server, and move it to another class if its weight has changed. Its part of the credit goes
        with it."""
        self._seen = seen = (self._seen + 1) % len(self._choices)
        choice, before = self._choices[seen], self._weights[seen]
        weight = choice.destination.weight
        if weight == before:
            return
        former = self.classes[before]
        part = former.credit / len(former.choices)
        former.credit -= part
        former.choices.remove(choice)
        if not former.choices:
            del self.classes[before]
        joined = self._class(weight)
        joined.choices.append(choice)
        joined.credit += part
        self._weights[seen] = weight

    def choose(self, request: Request) -> Choice | None:
        if not self._choices:
            return None
        self._follow_weights()
        tried = request.tried
        best: _Class | None = None
        total: float = 0
        place = 0
        for one in self.classes.values():
            usable = one.next(tried) if one.weight > 0 else None
            if usable is not None:
                share = one.share(tried)
                total += share
                one.credit += share
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
