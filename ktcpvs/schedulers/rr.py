"""rr, round robin: one server after the other, whatever their load and weight."""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, Choice, IScheduler, ISchedulerFactory, IUsesOptions, Request, ServiceView
from ktcpvs.schedulers.choices import choices_of
from ktcpvs.schedulers.reasons import reason_among


@implementer(IScheduler)
class BoundRR:
    """rr over the servers of one service."""

    def __init__(self, service: ServiceView, place: int = 0) -> None:
        reason = reason_among(service, "next in turn of")
        self._choices = choices_of(service, reason)
        self.place = place

    def choose(self, request: Request) -> Choice | None:
        choices = self._choices
        for step in range(len(choices)):
            place = (self.place + step) % len(choices)
            destination = choices[place].destination
            if destination.weight > 0 and destination not in request.tried:
                self.place = place + 1
                return choices[place]
        return None


@implementer(ISchedulerFactory, IUsesOptions)
class RR:
    """Per connection: one server after the other."""

    name = "rr"
    unit = CONNECTION
    uses = frozenset[str]()

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundRR:
        return BoundRR(service, previous.place if isinstance(previous, BoundRR) else 0)
