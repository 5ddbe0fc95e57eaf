"""phttp: http for kept-alive connections: every request is matched anew and goes to its own server."""

from __future__ import annotations

from collections.abc import Generator

from zope.interface import implementer

from ktcpvs.interfaces import (
    EACH_REQUEST,
    USES_BALANCE,
    USES_MATCH,
    USES_RULES,
    IBindsInSteps,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
)
from ktcpvs.model.scheduling import ServiceView
from ktcpvs.schedulers.content import BoundRules


@implementer(ISchedulerFactory, IBindsInSteps, IUsesOptions)
class PHTTP:
    """Per request: its path and query, by rules; a rule with match N hashes the text of group N."""

    name = "phttp"
    unit = EACH_REQUEST
    uses = frozenset((USES_RULES, USES_MATCH, USES_BALANCE))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundRules:
        return BoundRules(service, previous, hashing=True)

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundRules]:
        return BoundRules.in_steps(service, previous, hashing=True)
