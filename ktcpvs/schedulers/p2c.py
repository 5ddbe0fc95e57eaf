"""p2c, power of two choices: of two servers drawn at random, the one with fewer connections for its weight.

It spreads connections nearly as evenly as a comparison of all servers, at a cost that does not grow with their number.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

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
from ktcpvs.schedulers.choices import choices_of
from ktcpvs.schedulers.drawing import draw_two, new_state
from ktcpvs.schedulers.reasons import reason_among


@implementer(IScheduler)
class BoundP2C:
    """p2c over the servers of one service."""

    __slots__ = ("_choices", "_state")

    def __init__(self, service: ServiceView, draw: random.Random) -> None:
        reason = reason_among(service, "the less loaded of two drawn from")
        self._choices = choices_of(service, reason)
        self._state = new_state(draw)

    def choose(self, request: Request) -> Choice | None:
        drawn = draw_two(self._choices, request.tried, self._state)
        if len(drawn) < 2:
            return drawn[0] if drawn else None
        one, other = drawn
        first, second = one.destination, other.destination
        return one if first.active * second.weight <= second.active * first.weight else other


CHOOSE_IN_PYTHON = BoundP2C.choose
"""`BoundP2C.choose` as it is written here, whichever is used."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._balance import configure_p2c

        BoundP2C.choose = configure_p2c(BoundP2C)


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
