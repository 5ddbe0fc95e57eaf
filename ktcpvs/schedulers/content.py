"""Schedulers that choose by rules: the first rule that matches, and then one of its servers.

Rules are tried in the order in which they were added, default rules last. If no server of the first matching rule can
serve, no later rule is tried: the request goes to the redirect address. Within a rule the service's `balance` scheduler
chooses, or, in schedulers that hash, the text of the rule's match group.

A service without rules uses all its servers, as one default rule would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import re2
from attrs import frozen
from zope.interface import implementer

from ktcpvs.errors import BadValue, shorten
from ktcpvs.interfaces import (
    CLIENT_HELLO,
    CONNECTION,
    EACH_REQUEST,
    FIRST_REQUEST,
    USES_MATCH,
    Choice,
    Choosing,
    Considered,
    Destination,
    IBindsInSteps,
    IExplains,
    ILearns,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    IWatches,
    Outcome,
    Request,
    ServiceView,
)
from ktcpvs.model.conditions import FROM, HOST, KINDS, PATTERN, PORT, SHARE, SNI
from ktcpvs.model.modifiers import NONE as NO_MODIFIERS
from ktcpvs.model.options import OFF
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule, ICountsRules, by_chooser, completed_of
from ktcpvs.model.sticky import parse_sticky
from ktcpvs.model.template_checks import check_other_templates
from ktcpvs.schedulers.binding import BindsInSteps
from ktcpvs.schedulers.notes import notes_of
from ktcpvs.schedulers.rendezvous import Rendezvous
from ktcpvs.schedulers.responding import RespondingRule, RuleModifiers
from ktcpvs.schedulers.rule_counts import RuleCount, RuleCounts
from ktcpvs.schedulers.rule_table import RuleTable, compile_table
from ktcpvs.schedulers.rules import RuleSet, compile_rules
from ktcpvs.schedulers.sticky import StickyRule
from ktcpvs.schedulers.weighed import WeighedRule

BOUND_PER_STEP = 250
"""The most rules whose schedulers are bound in one step."""

COMPARED_PER_STEP = 2000
"""The most rules that are compared with their former state in one step."""

_CONNECTION_KINDS = frozenset((FROM, PORT, SHARE))
SEEN: dict[str, frozenset[str]] = {
    CONNECTION: _CONNECTION_KINDS,
    CLIENT_HELLO: _CONNECTION_KINDS | {HOST, SNI},
    FIRST_REQUEST: frozenset(KINDS),
    EACH_REQUEST: frozenset(KINDS),
}
"""Unit of a scheduler -> the kinds of conditions that it can see."""

_MOMENTS = {
    CONNECTION: "before it has read anything",
    CLIENT_HELLO: "by the ClientHello of TLS",
    FIRST_REQUEST: "by the first request",
    EACH_REQUEST: "by each request",
}

NO_RULE = 0
"""The number of the rule that stands for all servers of a service without rules; configured rules count from 1."""


class RuleFinder(Protocol):
    """Finds the first rule that matches: a RuleSet, a RuleTable, or what counts their results."""

    def place(self, request: Request) -> int | None:
        """Return the place of the first rule that matches, or None."""

    def tried(self, place: int | None, request: Request) -> tuple[tuple[int, str, str], ...]:
        """Return (number, label, why it was taken or not) of each rule up to the one at `place`."""

    def notes(self, request: Request) -> tuple[str, ...]:
        """Return the values of `request` that the rules compare, in words."""


@frozen(eq=False)
class WithinRule:
    """The scheduler that chooses among one rule's servers, and the rule and the weights of the servers to which it was
    bound: an edit that changes neither keeps it. balance, balance_text: the plugin that the rule is bound with, and the
    configuration's text of it, with its options. completed: is called with the outcomes of its choices; None: it does
    not learn."""

    scheduler: IScheduler
    rule: BoundRule
    weights: tuple[float, ...]
    balance: ISchedulerFactory | None
    balance_text: str = ""
    completed: Callable[[Outcome], object] | None = None

    @property
    def bound_with(self) -> tuple[BoundRule, tuple[float, ...], ISchedulerFactory | None, str]:
        """All on which the scheduler depends."""
        return self.rule, self.weights, self.balance, self.balance_text


@frozen(eq=False)
class RuleParts:
    """The parts from which the bound rules of one service are made.

    rules: in the order in which they are tried, at least one. rule_set: finds the first that matches. within: key of a
    rule -> the scheduler within it, in the order of `rules`.
    """

    service: ServiceView
    rules: tuple[BoundRule, ...]
    rule_set: RuleSet | RuleTable
    within: dict[str, WithinRule]


@implementer(IScheduler, IExplains, IWatches, ICountsRules)
class BoundRules:
    """The rules of one service.

    rules, rule_set, within: see RuleParts. modifiers: place of a rule -> its modifiers, where requests have to do with
    them. counts: of the requests that rules have taken.
    """

    __slots__ = (
        "_counts", "_destinations", "_in_order", "counts", "modifiers", "rule_set", "rules", "sticky", "within",
    )  # fmt: skip

    def __init__(self, parts: RuleParts) -> None:
        rules = self.rules = parts.rules
        self.rule_set: RuleFinder = parts.rule_set
        self.within = parts.within
        self.sticky = parts.service.config.sticky
        self._destinations = [rule.destinations for rule in rules]
        self._in_order = [known.scheduler for known in parts.within.values()]
        self.counts = RuleCounts(rules)
        self._counts = self.counts.by_place
        self.modifiers = {
            place: RuleModifiers(rule) for place, rule in enumerate(rules) if rule.modifiers.concerns_requests
        }

    def choose(self, request: Request) -> Choosing:
        place = self.rule_set.place(request)
        if place is None:
            return None
        if not request.is_repeated:
            self._counts[place].requests += 1
        answer = self._in_order[place].choose(request)
        return self.modifiers[place].added_to(answer, request) if place in self.modifiers else answer

    def continue_counts(self, before: BoundRules) -> None:
        """Go on with the counts of the scheduler that this one replaces."""
        self.counts = RuleCounts(self.rules, before.counts)
        self._counts = self.counts.by_place

    def count(self, place: int, request: Request) -> None:
        """Count a request that the rule at `place` takes, once."""
        if not request.is_repeated:
            self._counts[place].requests += 1

    def rule_requests(self) -> Mapping[str, int]:
        """Return label of a rule -> the requests that it has taken; nothing for a service without rules."""
        return {} if self.rules[0].number == NO_RULE else self.counts.described()

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        """Return what the schedulers within the rules watch."""
        return (pair for scheduler in self._in_order if IWatches.providedBy(scheduler) for pair in scheduler.watched())

    def place(self, request: Request) -> int | None:
        """Return the place of the rule that serves `request`, in the order in which rules are tried; None if no rule
        matches."""
        return self.rule_set.place(request)

    def choose_within(self, place: int, request: Request) -> Choosing:
        """Let the scheduler within the rule at `place` choose."""
        return self._in_order[place].choose(request)

    def explain(self, request: Request) -> Considered:
        """Return the rules that are tried, and the servers of the one that matches."""
        place = self.place(request)
        rules, seen = self.rule_set.tried(place, request), self.rule_set.notes(request)
        if place is None:
            return Considered(rules, (*seen, "no rule matches"))
        within = self._in_order[place]
        notes = notes_of(within, request)
        if self.rules[place].number == NO_RULE:
            no_rules = "the service has no rules: it uses all its servers"
            return Considered((), (no_rules, *notes), self._destinations[place])
        return Considered(rules, (*seen, *notes), self._weighed(place))

    def _weighed(self, place: int) -> tuple[Destination, ...]:
        """Return the servers of the rule at `place` with their weights in it, as its scheduler sees them."""
        scheduler = self._in_order[place]
        return scheduler.destinations if isinstance(scheduler, WeighedRule) else self._destinations[place]


@implementer(ILearns)
class LearningRules(BoundRules):
    """The rules of one service, some of which have schedulers that learn: each choice says in `Request.completed` whose
    it is."""

    __slots__ = ("_completed",)

    completed = staticmethod(by_chooser)

    def __init__(self, parts: RuleParts) -> None:
        super().__init__(parts)
        self._completed = [known.completed for known in parts.within.values()]

    def choose(self, request: Request) -> Choosing:
        place = self.rule_set.place(request)
        if place is None:
            return None
        if not request.is_repeated:
            self._counts[place].requests += 1
        request.completed = self._completed[place]
        answer = self._in_order[place].choose(request)
        return self.modifiers[place].added_to(answer, request) if place in self.modifiers else answer

    def choose_within(self, place: int, request: Request) -> Choosing:
        request.completed = self._completed[place]
        return self._in_order[place].choose(request)


@implementer(IScheduler, IExplains)
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

    def explain(self, request: Request) -> Considered:
        """Say which text is hashed."""
        text = self._key(request).decode("utf-8", "backslashreplace")
        return Considered((), (f"group {self._match} is '{shorten(text)}', which is hashed",))


@implementer(ISchedulerFactory, IUsesOptions)
class RuleScheduler(BindsInSteps):
    """Base of the schedulers that choose by rules: a subclass sets name, unit and uses.

    bound, learning: what it makes, where no scheduler within a rule learns, and where one does.
    With USES_MATCH in `uses`, a rule with a match number chooses by the text of that group, instead of by `balance`.
    """

    name: str
    unit: str
    uses: frozenset[str]
    bound: type[BoundRules] = BoundRules
    learning: type[LearningRules] = LearningRules

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundRules]:
        before: BoundRules | None = previous if isinstance(previous, BoundRules) else None
        yield from self.check_rules(service)
        if len(service.rules) > COMPARED_PER_STEP:
            yield
        rules = service.rules or (all_servers(service, before),)
        rule_set = yield from self._compile(service, rules, before.rule_set if before is not None else None)
        if len(rules) > COMPARED_PER_STEP:
            yield
        known = before.within if before is not None and before.sticky == service.config.sticky else {}
        within: dict[str, WithinRule] = {}
        bound = 0
        for number, rule in enumerate(rules, 1):
            if number % COMPARED_PER_STEP == 0:
                yield
            balance = service.balance_of(rule)
            former = known.get(rule.key)
            if former is not None and _name_of(former.balance) != _name_of(balance):
                former = None
            weights = tuple([destination.weight for destination in rule.destinations])
            text = rule.modifiers.balance or service.config.balance
            wanted = rule, weights, balance, text  # a balance plugin that was loaded again is another object
            if former is not None and not service.trial and former.bound_with == wanted:
                within[rule.key] = former
                continue
            scheduler = yield from self._binding_within(service, rule, former.scheduler if former is not None else None)
            within[rule.key] = WithinRule(scheduler, rule, weights, balance, text, _completed_within(scheduler))
            bound += 1
            if bound % BOUND_PER_STEP == 0:
                yield
        learns = any(known.completed is not None for known in within.values())
        bound_rules = (self.learning if learns else self.bound)(RuleParts(service, rules, rule_set, within))
        if before is not None and not service.trial:
            bound_rules.continue_counts(before)
        return bound_rules

    def check_rules(self, service: ServiceView) -> Generator[None, None, None]:
        """Raise BadValue for a condition that this scheduler cannot see, or an action that it cannot take. Yields after
        a few milliseconds of work."""
        for number, rule in enumerate(service.rules, 1):
            if number % COMPARED_PER_STEP == 0:
                yield
            if rule.action is not None or rule.modifiers is not NO_MODIFIERS:
                self._check_work(service, rule)
            if not rule.is_default and not (rule.is_pattern and PATTERN in SEEN[self.unit]):
                self._check_conditions(service, rule)

    def _check_work(self, service: ServiceView, rule: BoundRule) -> None:
        """Raise BadValue for an action that this scheduler cannot take, or modifiers that it cannot apply."""
        if self.unit not in (FIRST_REQUEST, EACH_REQUEST):
            if rule.action is not None:
                raise BadValue(
                    f"service {service.ident}: rule '{shorten(rule.label, 60)}': {rule.action.summary}: scheduler "
                    f"{self.name} reads no requests, so it can give no responses; http, hhttp, phttp and chttp can"
                )
            if rule.modifiers.concerns_requests:
                raise BadValue(
                    f"service {service.ident}: rule '{shorten(rule.label, 60)}': {shorten(str(rule.modifiers), 60)}: "
                    f"scheduler {self.name} reads no requests; phttp and chttp do"
                )
        if rule.modifiers.changes_messages and self.unit != EACH_REQUEST:
            raise BadValue(
                f"service {service.ident}: rule '{shorten(rule.label, 60)}': {shorten(str(rule.modifiers), 60)}: "
                f"scheduler {self.name} relays whole connections and changes nothing in them; phttp and chttp can"
            )

    def _check_conditions(self, service: ServiceView, rule: BoundRule) -> None:
        """Raise BadValue for a condition that this scheduler cannot see."""
        seen = SEEN[self.unit]
        for condition in rule.conditions:
            if condition.kind not in seen:
                raise BadValue(
                    f"service {service.ident}: rule '{shorten(rule.label, 60)}': scheduler {self.name} does not "
                    f"see {condition.kind}: it chooses {_MOMENTS[self.unit]}, and knows {', '.join(sorted(seen))}"
                )

    def _compile(
        self, service: ServiceView, rules: tuple[BoundRule, ...], before: RuleFinder | None
    ) -> Generator[None, None, RuleSet | RuleTable]:
        """Return what finds the first rule; patterns alone have their own way, which is the fastest."""
        if all(rule.is_pattern for rule in rules):
            return (yield from compile_rules(rules, before if isinstance(before, RuleSet) else None))
        former = before if isinstance(before, RuleTable) else None
        return (yield from compile_table(rules, self.unit, service.config.client_ipv6, former))

    def _binding_within(
        self, service: ServiceView, rule: BoundRule, previous: IScheduler | None
    ) -> Generator[None, None, IScheduler]:
        """Bind the scheduler within a rule."""
        why = "no rules, " if rule.number == NO_RULE else f"rule {rule.number} '{shorten(rule.label, 60)}', "
        if rule.action is not None:
            return RespondingRule(rule, rule.action)
        view = service.of_rule(rule, why)
        known = previous.inner if isinstance(previous, WeighedRule) else previous
        scheduler = yield from self._binding_balance(view, rule, known)
        return WeighedRule(scheduler, view.destinations) if rule.has_weights else scheduler

    def _binding_balance(
        self, view: ServiceView, rule: BoundRule, previous: IScheduler | None
    ) -> Generator[None, None, IScheduler]:
        """Bind the scheduler that chooses among the servers of a rule. view: of that rule."""
        if USES_MATCH in self.uses and rule.match is not None:
            pattern = rule.rule.hashed_pattern if rule.rule is not None else None
            return HashedRule(view, pattern or rule.pattern, rule.match)
        if view.balance is None:
            raise ValueError(f"service {view.ident} has rules and no balance scheduler")
        known = previous.others if isinstance(previous, StickyRule) else previous
        known = None if isinstance(known, HashedRule | RespondingRule) else known
        self._check_options(view)
        if IBindsInSteps.providedBy(view.balance):
            balance = yield from view.balance.binding(view, known)
        else:
            balance = view.balance.bind(view, known)
        if ILearns.providedBy(balance) and completed_of(balance) is None:
            raise BadValue(
                f"service {view.ident}: balance {view.balance.name} provides ILearns, but its bound form lacks "
                "completed(outcome)"
            )
        if view.config.sticky == OFF or self.unit not in (FIRST_REQUEST, EACH_REQUEST):
            return balance
        sticky = parse_sticky(view.config.sticky)
        return balance if sticky is None else StickyRule(view, sticky, balance)

    def _check_options(self, view: ServiceView) -> None:
        """Raise BadValue for a template of the balance scheduler with values that this scheduler does not read."""
        if self.unit in (FIRST_REQUEST, EACH_REQUEST):
            return
        balance = _name_of(view.balance) or ""
        check_other_templates(view.ident, "balance", balance, self.name, view.options)


def _completed_within(scheduler: IScheduler) -> Callable[[Outcome], object] | None:
    """Return the `completed` of the balance scheduler of a rule; None: it does not learn."""
    inner = scheduler.inner if isinstance(scheduler, WeighedRule) else scheduler
    return completed_of(inner.others if isinstance(inner, StickyRule) else inner)


def _name_of(balance: ISchedulerFactory | None) -> str | None:
    return None if balance is None else balance.name


def all_servers(service: ServiceView, before: BoundRules | None = None) -> BoundRule:
    """Return the rule of a service without rules: the former one while its servers are the same."""
    known = before.rules[0] if before is not None else None
    if known is not None and known.number == NO_RULE and known.destinations == service.destinations:
        return known
    return BoundRule(NO_RULE, ".*", True, None, service.destinations)


CHOOSE_IN_PYTHON = BoundRules.choose
LEARN_IN_PYTHON = LearningRules.choose
"""`BoundRules.choose` and `LearningRules.choose` as they are written here, whichever are used."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._compiled import configure

        _methods, _learning = configure(
            {"rules": BoundRules, "count": RuleCount, "learning": LearningRules, "chosen_for": Request}
        )
        BoundRules.choose, LearningRules.choose = _methods["choose"], _learning["choose"]
