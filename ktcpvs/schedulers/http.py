"""http: the first request's path chooses a rule, wlc one of the rule's servers; the rest of the connection follows.

Rules are tried in the order in which they were added, default rules last. A rule whose servers cannot serve is
not passed over for a later one: the request is the redirect address's then.
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.errors import shorten
from ktcpvs.interfaces import FIRST_REQUEST, IScheduler, ISchedulerFactory
from ktcpvs.model.scheduling import Choice, Request, ServiceView
from ktcpvs.schedulers.rules import RuleSet
from ktcpvs.schedulers.wlc import LeastConnections


@implementer(IScheduler)
class BoundHTTP:
    """The rules of one service."""

    def __init__(self, service: ServiceView) -> None:
        self._rules = RuleSet(service.rules)
        self._servers = [
            LeastConnections(rule.destinations, f"rule {rule.number} '{shorten(rule.pattern, 60)}', ")
            for rule in service.rules
        ]

    def choose(self, request: Request) -> Choice | None:
        place = self._rules.first(request.path or b"")
        return None if place is None else self._servers[place].pick(request.tried)


@implementer(ISchedulerFactory)
class HTTP:
    """Per connection: the first request's path and query, by rules; wlc among a rule's servers."""

    name = "http"
    unit = FIRST_REQUEST

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundHTTP:
        return BoundHTTP(service)
