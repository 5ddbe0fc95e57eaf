"""Warnings about rules by themselves: words of other programs in them, and rules that can do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from attrs import frozen

from ktcpvs.errors import shorten
from ktcpvs.model.actions import HTTPS, Redirect
from ktcpvs.model.conditions import PATH, TLS, Condition
from ktcpvs.model.language.lexer import quoted
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.unmatched import is_catch_all

MAX_COMPARED_RULES = 5000
"""The most rules of a service that are compared with those before them, which takes some 2 us for each."""

MAX_COMPARED_CONDITIONS = 6
"""The most conditions of a rule that is compared with those before it: it has 62 parts of them."""

NOT_TLS = Condition(TLS, is_negated=True)

_FOREIGN_VARIABLE = re.compile(
    r"\$(host|http_host|request_uri|uri|scheme|server_name|remote_addr|args)\b|%\[(?:hdr|req|src|path|url)[^\]]*\]"
)
"""A variable of nginx, or an expression of HAProxy, in a template."""

_VARIABLES = {
    "host": "host",
    "http_host": "hostport",
    "request_uri": "target",
    "uri": "path",
    "scheme": "scheme",
    "server_name": "host",
    "remote_addr": "client",
    "args": "query",
}
"""Variables of nginx -> those of templates."""


def about_foreign_variables(rules: Sequence[Rule]) -> Iterator[str]:
    """Warn of variables of nginx and expressions of HAProxy in URLs of redirects, which are sent as they are."""
    for rule in rules:
        if isinstance(rule.action, Redirect) and (found := _FOREIGN_VARIABLE.search(rule.action.url)):
            instead = f"{{{_VARIABLES[found[1]]}}}" if found[1] else "a variable in braces, as {host}"
            yield f"rule {some_of([rule])}: {shorten(found[0], 40)} is no variable; write {instead}"
            return


def about_stars(rules: Sequence[Rule]) -> Iterator[str]:
    """Warn of paths with a `*`, which is a wildcard in nginx, Caddy and Traefik, and in hosts here."""
    found = [
        (rule, path)
        for rule in rules
        for path in (
            *(value for one in rule.conditions if one.kind == PATH for value in one.values),
            rule.modifiers.strip_prefix or "",
        )
        if "*" in path
    ]
    if not found:
        return
    rule, path = found[0]
    begin, _, rest = path.partition("*")
    is_below = begin.endswith("/") and not rest.strip("*")
    instead = f"for all below it: path {begin}" if is_below else f"for a wildcard: pattern {quoted(_as_pattern(path))}"
    which = some_of(list(dict.fromkeys(rule for rule, _ in found)))
    if rule.modifiers.strip_prefix == path:
        instead = f"to cut off what is in front of it: strip_prefix {begin}"
    yield f"rule {which}: the * in {shorten(path, 40)} is no wildcard; {instead}"


def _as_pattern(path: str) -> str:
    """Return the pattern of a path in which each `*` stands for anything."""
    return "^" + ".*".join(map(re.escape, path.split("*"))) + r"(\?|$)"


@frozen
class HiddenRule:
    """A rule that can never be reached. behind: the rule that is tried before it, and holds whenever it does."""

    rule: Rule
    behind: Rule


def hidden_rules(rules: Sequence[Rule]) -> list[HiddenRule]:
    """Return the rules that can never be reached: behind one that matches every request, or whose conditions are among
    theirs."""
    in_order = [*(rule for rule in rules if not rule.is_default), *(rule for rule in rules if rule.is_default)]
    last = next((place for place, rule in enumerate(in_order) if is_catch_all(rule)), len(in_order))
    hidden = [HiddenRule(rule, in_order[last]) for rule in in_order[last + 1 :]]
    numbers: dict[Condition, int] = {}  # since a set of them takes a fifth of the time that one of conditions takes
    seen: dict[int, dict[frozenset[int], Rule]] = {}
    for rule in in_order[: last + 1][:MAX_COMPARED_RULES]:
        conditions = frozenset([numbers.setdefault(one, len(numbers)) for one in rule.conditions])
        before = _covering(conditions, seen)
        if before is None:
            seen.setdefault(len(conditions), {})[conditions] = rule
        else:
            hidden.append(HiddenRule(rule, before))
    return hidden


def about_hidden(hidden: Iterable[HiddenRule]) -> Iterator[str]:
    """Warn of these rules, once for each rule that hides some."""
    groups: dict[str, list[HiddenRule]] = {}
    for one in hidden:
        groups.setdefault(one.behind.key, []).append(one)
    for group in groups.values():
        behind = group[0].behind
        how = "matches every request" if is_catch_all(behind) else "asks for no more"
        yield (
            f"rule {some_of([one.rule for one in group])} can never be reached: rule '{shorten(behind.label, 40)}' is "
            f"tried first and {how}"
        )


def endless_redirects(service: VirtualService) -> list[Rule]:
    """Return the rules that redirect clients of TLS to the URL that they have asked for."""
    if not any(listener.is_tls for listener in service.listen):
        return []
    return [
        rule
        for rule in service.rules
        if isinstance(rule.action, Redirect) and rule.action.url == HTTPS and NOT_TLS not in rule.conditions
    ]


def about_endless(rules: Sequence[Rule]) -> Iterator[str]:
    """Warn of these rules, which redirect clients of TLS to the URL that they have asked for."""
    if rules:
        yield (
            f"rule {some_of(rules)} redirects clients that speak TLS to the same URL again; with the condition "
            "'not tls' it leaves them alone"
        )


def _covering(conditions: frozenset[int], seen: Mapping[int, Mapping[frozenset[int], Rule]]) -> Rule | None:
    """Return a rule of `seen` whose conditions are a part of these; None: there is none.

    seen: number of conditions -> conditions -> rule.
    """
    if (equal := seen.get(len(conditions), {}).get(conditions)) is not None:
        return equal
    if len(conditions) > MAX_COMPARED_CONDITIONS:
        return None
    for size in range(1, len(conditions)):
        if (rules := seen.get(size)) is None:
            continue
        for some in combinations(conditions, size):
            if (found := rules.get(frozenset(some))) is not None:
                return found
    return None


def some_of(rules: Sequence[Rule]) -> str:
    """Return the first of these rules in quotes, and how many more there are."""
    more = f" and {len(rules) - 1} more" if rules[1:] else ""
    return f"'{shorten(rules[0].label, 40)}'{more}"
