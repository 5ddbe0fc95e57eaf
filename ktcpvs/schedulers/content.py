"""Choosing by what a request says: the first rule that matches, and then one of its servers.

Rules are tried in the order in which they were added, default rules last. A rule whose servers cannot serve is
not passed over for a later one: the request is the redirect address's then. Within a rule the service's
`balance` scheduler chooses, or, where rules hash, the text of the rule's match group.
"""

from __future__ import annotations

from typing import Any

import re2
from zope.interface import implementer

from ktcpvs.errors import shorten
from ktcpvs.interfaces import IScheduler
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule, Choice, Request, ServiceView
from ktcpvs.schedulers.rendezvous import Rendezvous
from ktcpvs.schedulers.rules import RuleSet


@implementer(IScheduler)
class BoundRules:
    """The rules of one service. within: pattern -> what chooses among that rule's servers."""

    def __init__(self, service: ServiceView, previous: Any, *, hashing: bool) -> None:
        """hashing: rules with a match number choose by its text."""
        self._rules = RuleSet(service.rules)
        self._balance = service.balance
        known = previous.within if isinstance(previous, BoundRules) and previous._balance is service.balance else {}
        self.within: dict[str, Any] = {
            rule.pattern: self._chooser(service, rule, known.get(rule.pattern), hashing) for rule in service.rules
        }
        self._in_order = list(self.within.values())

    def _chooser(self, service: ServiceView, rule: BoundRule, before: Any, hashing: bool) -> Any:
        view = service.of_rule(rule, f"rule {rule.number} '{shorten(rule.pattern, 60)}', ")
        if hashing and rule.match is not None:
            return HashedRule(view, rule.pattern, rule.match)
        return self._balance.bind(view, None if isinstance(before, HashedRule) else before)

    def choose(self, request: Request) -> Choice | None:
        place = self._rules.first(request.path or b"")
        if place is None:
            return None
        choice: Choice | None = self._in_order[place].choose(request)
        return choice


@implementer(IScheduler)
class HashedRule:
    """One rule's servers, by the text of group `match`; a group that took no part is the empty text."""

    def __init__(self, view: ServiceView, pattern: str, match: int) -> None:
        self._pattern = re2.compile(encode_pattern(pattern), options=re2_options())
        self._match = match
        self._servers = Rendezvous(view, f"group {match}")

    def choose(self, request: Request) -> Choice | None:
        found = self._pattern.search(request.path or b"")
        text = found.group(self._match) if found is not None else None
        return self._servers.pick(text or b"", request)
