"""Choosing by what a request says: the first rule that matches, and then one of its servers.

Rules are tried in the order in which they were added, default rules last. A rule whose servers cannot serve is
not passed over for a later one: the request is the redirect address's then. Within a rule the service's
`balance` scheduler chooses, or, where rules hash, the text of the rule's match group.

A service without rules uses all its servers, as one default rule would.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

import re2
from zope.interface import implementer

from ktcpvs.errors import shorten
from ktcpvs.interfaces import IExplains, IScheduler, IWatches
from ktcpvs.model.destination import Destination
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule, Choice, Considered, Request, ServiceView
from ktcpvs.schedulers.rendezvous import Rendezvous
from ktcpvs.schedulers.rules import RuleSet

AT_ONCE = 500
"""How many rules get what chooses among their servers before others are served."""

LOOKED_AT = 2000
"""How many rules are looked at for what has changed before others are served."""

NO_RULE = 0
"""The number of the rule that stands for all servers of a service without rules; configured rules count from 1."""


@implementer(IScheduler, IExplains, IWatches)
class BoundRules:
    """The rules of one service. rules: in the order in which they are tried, one at least. within: pattern -> what
    chooses among that rule's servers."""

    def __init__(self, service: ServiceView, previous: Any, *, hashing: bool) -> None:
        """hashing: rules with a match number choose by its text."""
        for _ in self.steps(service, previous, hashing):
            pass

    @classmethod
    def in_steps(cls, service: ServiceView, previous: Any, *, hashing: bool) -> Generator[None, None, BoundRules]:
        """The same, made little by little."""
        made = cls.__new__(cls)
        yield from made.steps(service, previous, hashing)
        return made

    def steps(self, service: ServiceView, previous: Any, hashing: bool) -> Generator[None, None, None]:
        """Become the scheduler of `service`; yields between pieces of work that take a while."""
        before = previous if isinstance(previous, BoundRules) else None
        self.rules = service.rules or (_all_servers(service, before),)
        self._rules: RuleSet = yield from RuleSet.in_steps(self.rules, before._rules if before else None)
        if len(self.rules) > LOOKED_AT:
            yield
        self._destinations = [rule.destinations for rule in self.rules]
        self._balance = service.balance
        known = before.within if before is not None and before._balance is service.balance else {}
        self._bound_as: dict[str, Any] = {}
        self.within: dict[str, Any] = {}
        made = 0
        for number, rule in enumerate(self.rules, 1):
            if number % LOOKED_AT == 0:
                yield
            pattern = rule.pattern
            self._bound_as[pattern] = bound_as = (rule, tuple([d.weight for d in rule.destinations]))
            if not service.trial and pattern in known and before is not None and before._bound_as[pattern] == bound_as:
                self.within[pattern] = known[pattern]
                continue
            self.within[pattern] = self._chooser(service, rule, known.get(pattern), hashing)
            made += 1
            if made % AT_ONCE == 0:
                yield
        self._in_order = list(self.within.values())

    def _chooser(self, service: ServiceView, rule: BoundRule, before: Any, hashing: bool) -> Any:
        why = "no rules, " if rule.number == NO_RULE else f"rule {rule.number} '{shorten(rule.pattern, 60)}', "
        view = service.of_rule(rule, why)
        if hashing and rule.match is not None:
            return HashedRule(view, rule.pattern, rule.match)
        return self._balance.bind(view, None if isinstance(before, HashedRule) else before)

    def choose(self, request: Request) -> Any:
        place = self._rules.first(request.path or b"")
        return None if place is None else self._in_order[place].choose(request)

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        """What the schedulers within the rules want to hear of."""
        return (pair for chooser in self._in_order if IWatches.providedBy(chooser) for pair in chooser.watched())

    def place(self, request: Request) -> int | None:
        """The place of the rule that serves `request`, in the order in which rules are tried; None: there is none."""
        return self._rules.first(request.path or b"")

    def choose_within(self, place: int, request: Request) -> Any:
        """What the rule at `place` answers."""
        return self._in_order[place].choose(request)

    def explain(self, request: Request) -> Considered:
        """The rules that are tried, and the servers of the one that is taken."""
        place = self.place(request)
        rules = self._rules.tried(place)
        if place is None:
            return Considered(rules, ("no rule matches",))
        if self.rules[place].number == NO_RULE:
            return Considered((), ("the service has no rules: it uses all its servers",), self._destinations[place])
        within = self._in_order[place]
        notes = (within.key_in_words(request),) if isinstance(within, HashedRule) else ()
        return Considered(rules, notes, self._destinations[place])


def _all_servers(service: ServiceView, before: BoundRules | None) -> BoundRule:
    """The rule of a service without rules: the same one as before while its servers are the same."""
    known = before.rules[0] if before is not None else None
    if known is not None and known.number == NO_RULE and known.destinations == service.destinations:
        return known
    return BoundRule(NO_RULE, ".*", True, None, service.destinations)


@implementer(IScheduler)
class HashedRule:
    """One rule's servers, by the text of group `match`; a group that took no part is the empty text."""

    def __init__(self, view: ServiceView, pattern: str, match: int) -> None:
        self._pattern = re2.compile(encode_pattern(pattern), options=re2_options())
        self._match = match
        self._servers = Rendezvous(view, f"group {match}")

    def choose(self, request: Request) -> Choice | None:
        return self._servers.pick(self._key(request), request)

    def _key(self, request: Request) -> bytes:
        found = self._pattern.search(request.path or b"")
        text = found.group(self._match) if found is not None else None
        return text or b""

    def key_in_words(self, request: Request) -> str:
        """What is hashed for `request`."""
        text = self._key(request).decode("utf-8", "backslashreplace")
        return f"group {self._match} is '{shorten(text)}', which is hashed"
