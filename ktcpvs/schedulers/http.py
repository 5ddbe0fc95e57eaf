"""http: the first request's path chooses a rule and one of its servers; the rest of the connection follows."""

from __future__ import annotations

from collections.abc import Generator

from zope.interface import implementer

from ktcpvs.interfaces import (
    FIRST_REQUEST,
    USES_BALANCE,
    USES_RULES,
    IBindsInSteps,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
)
from ktcpvs.model.scheduling import ServiceView
from ktcpvs.schedulers.content import BoundRules


@implementer(ISchedulerFactory, IBindsInSteps, IUsesOptions)
class HTTP:
    """Per connection: the first request's path and query, by rules."""

    name = "http"
    unit = FIRST_REQUEST
    uses = frozenset((USES_RULES, USES_BALANCE))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundRules:
        return BoundRules(service, previous, hashing=False)

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundRules]:
        return BoundRules.in_steps(service, previous, hashing=False)
