"""p2c, power of two choices: of two servers drawn at random, the one with fewer connections for its weight.

It spreads connections nearly as evenly as a comparison of all servers, at a cost that does not grow with their number.
"""

from __future__ import annotations

import random

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

MAX_DRAWS = 4
"""The most draws of quiesced or tried servers; after these, p2c draws from a list of the usable servers."""


@implementer(IScheduler)
class BoundP2C:
    """p2c over the servers of one service."""

    def __init__(self, service: ServiceView, draw: random.Random) -> None:
        reason = reason_among(service, "the less loaded of two drawn from")
        why = service.why_of(BALANCE)
        self._choices = [Choice(destination, reason, why=why) for destination in service.destinations]
        self._draw = draw

    def choose(self, request: Request) -> Choice | None:
        usable = self._choices
        one = other = None
        for _ in range(MAX_DRAWS):
            if len(usable) < 2:
                break
            one, other = self._draw.sample(usable, 2)
            if all(c.destination.weight > 0 and c.destination not in request.tried for c in (one, other)):
                return _less_loaded(one, other)
        usable = [c for c in usable if c.destination.weight > 0 and c.destination not in request.tried]
        if len(usable) < 2:
            return usable[0] if usable else None
        return _less_loaded(*self._draw.sample(usable, 2))


def _less_loaded(one: Choice, other: Choice) -> Choice:
    first, second = one.destination, other.destination
    return one if first.active * second.weight <= second.active * first.weight else other


@implementer(ISchedulerFactory, IUsesOptions)
class P2C:
    """Per connection: of two servers drawn at random, the less loaded."""

    name = "p2c"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def __init__(self, draw: random.Random | None = None) -> None:
        """draw: the source of randomness; None: a generator of its own."""
        self._draw = draw or random.Random()

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundP2C:
        return BoundP2C(service, self._draw)
