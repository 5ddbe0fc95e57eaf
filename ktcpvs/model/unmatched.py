"""Requests that no rule of a service matches: they are refused, unless a default rule takes them."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from ktcpvs.errors import shorten
from ktcpvs.model.conditions import PATH, PATTERN, SHARE, Condition
from ktcpvs.model.expectation import NOBODY
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import EACH_REQUEST, FIRST_REQUEST, USES_RULES, ISchedulerFactory, IUsesOptions
from ktcpvs.model.service import VirtualService

CATCH_ALL = frozenset((".*", "^/.*", "^/", "/", "^", "^.*", ".*$", "^.*$", "^/.*$"))
"""Patterns that match every request target."""

MAX_SERVERS = 3
"""The most servers in the default rule that a warning proposes."""

NOBODY_SHARE = Condition(SHARE, ("0%",))
"""The condition that holds for no client."""

_EVERYTHING = {PATH: ("/",), SHARE: ("100%",)}
"""Kinds of conditions besides patterns -> the values that hold for every request."""


def is_catch_all(rule: Rule) -> bool:
    """Whether the rule matches every request by a condition of its own: `.*`, `path /`, `share 100%`."""
    return matches_everything(rule.conditions)


def matches_everything(conditions: Sequence[Condition]) -> bool:
    """Whether these conditions are a single one that holds for every request."""
    if len(conditions) != 1 or conditions[0].is_negated:
        return False
    (only,) = conditions
    if only.kind == PATTERN:
        return not CATCH_ALL.isdisjoint(only.values)
    return only.kind in _EVERYTHING and not set(_EVERYTHING[only.kind]).isdisjoint(only.values)


def reads_rules(scheduler: ISchedulerFactory) -> bool:
    """Whether the scheduler says that the rules of a service decide."""
    return IUsesOptions.providedBy(scheduler) and USES_RULES in scheduler.uses


def leaves_unmatched(service: VirtualService, scheduler: ISchedulerFactory) -> bool:
    """Whether the service refuses requests because it has rules and none of them matches all requests.

    scheduler: the plugin of its option. False where that is meant: the service has a redirect address, or tests that
    some request gets no server.
    """
    if not service.rules or not reads_rules(scheduler):
        return False
    if service.redirect is not None or any(test.outcome == NOBODY for test in service.tests):
        return False
    return not any(map(is_catch_all, service.rules)) and not _are_opposites(service.rules)


def describe_unmatched(service: VirtualService, scheduler: ISchedulerFactory) -> str:
    """Return which requests are refused, such as "requests that rule 'path /a/' does not match get status 503"."""
    what, then = ("requests", "get status 503") if reads_requests(scheduler) else ("clients", "are refused")
    if len(service.rules) == 1:
        return f"{what} that its only rule '{shorten(service.rules[0].label, 40)}' does not match {then}"
    return f"{what} that none of its {len(service.rules)} rules matches {then}"


def proposed_command(service: VirtualService, scheduler: ISchedulerFactory) -> str:
    """Return the command that adds a default rule, and what to type if the refusal is meant."""
    return _proposed(service, scheduler, f"tcpvsadm --add-rule -i {service.ident} pattern '.*'")


def proposed_line(service: VirtualService, scheduler: ISchedulerFactory) -> str:
    """Return the line of a configuration that is a default rule, and what to write if the refusal is meant."""
    return _proposed(service, scheduler, 'rule = pattern ".*"')


def _proposed(service: VirtualService, scheduler: ISchedulerFactory, beginning: str) -> str:
    addresses = [str(server.address) for server in service.servers[:MAX_SERVERS]]
    more = " ..." if len(service.servers) > MAX_SERVERS else ""
    responds = "use respond 404"
    if not addresses:
        return f"{beginning} {responds}"
    meant = f" (or, if that is meant: {responds})" if reads_requests(scheduler) else ""
    return f"{beginning} use server {' server '.join(addresses)}{more}{meant}"


def reads_requests(scheduler: ISchedulerFactory) -> bool:
    """Whether the scheduler's clients get responses of HTTP."""
    return scheduler.unit in (FIRST_REQUEST, EACH_REQUEST)


def _are_opposites(rules: Sequence[Rule]) -> bool:
    """Whether one rule takes what another one leaves: their only conditions are opposites."""
    alone: set[Condition] = {rule.conditions[0] for rule in rules if len(rule.conditions) == 1}
    return any(evolve(one, is_negated=True) in alone for one in alone if not one.is_negated)
