"""Schedulers that choose by the request: the first rule that matches, and then one of its servers.

Rules are tried in the order in which they were added, default rules last. If no server of the first matching rule can
serve, no later rule is tried: the request goes to the redirect address. Within a rule the service's `balance` scheduler
chooses, or, in schedulers that hash, the text of the rule's match group.

A service without rules uses all its servers, as one default rule would.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

import re2
from attrs import frozen
from zope.interface import implementer

from ktcpvs.errors import BadValue, shorten
from ktcpvs.interfaces import (
    USES_MATCH,
    Choice,
    Choosing,
    Considered,
    Destination,
    IExplains,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    IWatches,
    Request,
    ServiceView,
)
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule
from ktcpvs.schedulers.binding import BindsInSteps
from ktcpvs.schedulers.rendezvous import Rendezvous
from ktcpvs.schedulers.rules import RuleSet, compile_rules

BOUND_PER_STEP = 500
"""The most rules whose schedulers are bound in one step."""

COMPARED_PER_STEP = 2000
"""The most rules that are compared with their former state in one step."""

NO_RULE = 0
"""The number of the rule that stands for all servers of a service without rules; configured rules count from 1."""


@frozen(eq=False)
class WithinRule:
    """The scheduler that chooses among one rule's servers, and the rule and the weights to which it was bound: an edit
    that changes neither keeps it."""

    scheduler: IScheduler
    rule: BoundRule
    weights: tuple[float, ...]


@implementer(IScheduler, IExplains, IWatches)
class BoundRules:
    """The rules of one service.

    rules: in the order in which they are tried, at least one. rule_set: finds the first that matches. within: pattern
    -> the scheduler within that rule, in the order of `rules`; no two rules have one pattern. balance: the scheduler
    that made most of these.
    """

    def __init__(
        self,
        service: ServiceView,
        rules: tuple[BoundRule, ...],
        rule_set: RuleSet,
        within: dict[str, WithinRule],
    ) -> None:
        self.rules = rules
        self.rule_set = rule_set
        self.within = within
        self.balance = service.balance
        self._destinations = [rule.destinations for rule in rules]
        self._in_order = [known.scheduler for known in within.values()]

    def choose(self, request: Request) -> Choosing:
        place = self.rule_set.first(request.path or b"")
        return None if place is None else self._in_order[place].choose(request)

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        """Return what the schedulers within the rules watch."""
        return (pair for scheduler in self._in_order if IWatches.providedBy(scheduler) for pair in scheduler.watched())

    def place(self, request: Request) -> int | None:
        """Return the place of the rule that serves `request`, in the order in which rules are tried; None if no rule
        matches."""
        return self.rule_set.first(request.path or b"")

    def choose_within(self, place: int, request: Request) -> Choosing:
        """Let the scheduler within the rule at `place` choose."""
        return self._in_order[place].choose(request)

    def explain(self, request: Request) -> Considered:
        """Return the rules that are tried, and the servers of the one that matches."""
        place = self.place(request)
        rules = self.rule_set.tried(place)
        if place is None:
            return Considered(rules, ("no rule matches",))
        if self.rules[place].number == NO_RULE:
            return Considered((), ("the service has no rules: it uses all its servers",), self._destinations[place])
        within = self._in_order[place]
        notes = (within.describe_key(request),) if isinstance(within, HashedRule) else ()
        return Considered(rules, notes, self._destinations[place])


@implementer(IScheduler)
class HashedRule:
    """The servers of one rule, by the hash of the text of group `match`; a group that took no part is the empty
    text."""

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

    def describe_key(self, request: Request) -> str:
        """Return what is hashed for `request`, in words."""
        text = self._key(request).decode("utf-8", "backslashreplace")
        return f"group {self._match} is '{shorten(text)}', which is hashed"


@implementer(ISchedulerFactory, IUsesOptions)
class RuleScheduler(BindsInSteps):
    """Base of the schedulers that choose by rules: a subclass sets name, unit and uses.

    With USES_MATCH in `uses`, a rule with a match number chooses by the text of that group, instead of by `balance`.
    """

    name: str
    unit: str
    uses: frozenset[str]

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundRules]:
        before: BoundRules | None = previous if isinstance(previous, BoundRules) else None
        for rule in service.rules:
            if rule.rule is not None and rule.rule.hosts:
                raise BadValue(
                    f"service {service.ident}: rule '{shorten(rule.pattern, 60)}': scheduler {self.name} does not see "
                    "ClientHellos; sni does"
                )
        rules = service.rules or (all_servers(service, before),)
        rule_set = yield from compile_rules(rules, before.rule_set if before is not None else None)
        if len(rules) > COMPARED_PER_STEP:
            yield
        known: dict[str, WithinRule] = {}
        if before is not None and before.balance is service.balance:
            known = before.within
        within: dict[str, WithinRule] = {}
        bound = 0
        for number, rule in enumerate(rules, 1):
            if number % COMPARED_PER_STEP == 0:
                yield
            former = known.get(rule.pattern)
            weights = tuple([destination.weight for destination in rule.destinations])
            if former is not None and not service.trial and former.rule is rule and former.weights == weights:
                within[rule.pattern] = former
                continue
            scheduler = self._bind_within(service, rule, former.scheduler if former is not None else None)
            within[rule.pattern] = WithinRule(scheduler, rule, weights)
            bound += 1
            if bound % BOUND_PER_STEP == 0:
                yield
        return self.make(service, rules, rule_set, within)

    def make(
        self, service: ServiceView, rules: tuple[BoundRule, ...], rule_set: RuleSet, within: dict[str, WithinRule]
    ) -> BoundRules:
        """Make the bound scheduler from its parts."""
        return BoundRules(service, rules, rule_set, within)

    def _bind_within(self, service: ServiceView, rule: BoundRule, previous: IScheduler | None) -> IScheduler:
        why = "no rules, " if rule.number == NO_RULE else f"rule {rule.number} '{shorten(rule.pattern, 60)}', "
        view = service.of_rule(rule, why)
        if USES_MATCH in self.uses and rule.match is not None:
            return HashedRule(view, rule.pattern, rule.match)
        if service.balance is None:
            raise ValueError(f"service {service.ident} has rules and no balance scheduler")
        return service.balance.bind(view, None if isinstance(previous, HashedRule) else previous)


def all_servers(service: ServiceView, before: BoundRules | None = None) -> BoundRule:
    """Return the rule of a service without rules: the former one while its servers are the same."""
    known = before.rules[0] if before is not None else None
    if known is not None and known.number == NO_RULE and known.destinations == service.destinations:
        return known
    return BoundRule(NO_RULE, ".*", True, None, service.destinations)
