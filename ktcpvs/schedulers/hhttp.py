"""hhttp: http, and a rule with `match N` hashes the text of its group N, so that like requests meet one server.

KTCPVS adds up the text's bytes, modulo the number of servers; here it is weighted rendezvous hashing, so that a
server that leaves moves only its own keys.
"""

from __future__ import annotations

from collections.abc import Generator

from zope.interface import implementer

from ktcpvs.interfaces import (
    FIRST_REQUEST,
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
class HHTTP:
    """Per connection: like http, and a rule with match N hashes the text of group N."""

    name = "hhttp"
    unit = FIRST_REQUEST
    uses = frozenset((USES_RULES, USES_MATCH, USES_BALANCE))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundRules:
        return BoundRules(service, previous, hashing=True)

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundRules]:
        return BoundRules.in_steps(service, previous, hashing=True)
