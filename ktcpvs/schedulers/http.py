"""http: the first request's path chooses a rule and one of its servers; the rest of the connection follows."""

from __future__ import annotations

from collections.abc import Generator

from zope.interface import implementer

from ktcpvs.interfaces import FIRST_REQUEST, IBindsInSteps, IScheduler, ISchedulerFactory
from ktcpvs.model.scheduling import ServiceView
from ktcpvs.schedulers.content import BoundRules


@implementer(ISchedulerFactory, IBindsInSteps)
class HTTP:
    """Per connection: the first request's path and query, by rules."""

    name = "http"
    unit = FIRST_REQUEST

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundRules:
        return BoundRules(service, previous, hashing=False)

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundRules]:
        return BoundRules.in_steps(service, previous, hashing=False)
