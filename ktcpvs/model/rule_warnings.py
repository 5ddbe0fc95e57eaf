"""Warnings about rules by themselves: words of other programs in them, and rules that are never reached."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from ktcpvs.errors import shorten
from ktcpvs.model.actions import Redirect
from ktcpvs.model.conditions import PATH, Condition
from ktcpvs.model.language.lexer import quoted
from ktcpvs.model.rule import Rule

MAX_COMPARED_RULES = 5000
"""The most rules of a service that are compared with those before them, which takes some 3 us for each."""

MAX_COMPARED_CONDITIONS = 6
"""The most conditions of a rule that is compared with those before it: it has 62 parts of them."""

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


def about_hidden(rules: Sequence[Rule]) -> Iterator[str]:
    """Warn of rules behind another one that holds whenever they do: its conditions are among theirs."""
    seen: dict[frozenset[Condition], Rule] = {}
    hidden: dict[Rule, list[Rule]] = {}
    for rule in rules[:MAX_COMPARED_RULES]:
        conditions = frozenset(rule.conditions)
        before = _covering(conditions, seen)
        if before is None:
            seen.setdefault(conditions, rule)
        else:
            hidden.setdefault(before, []).append(rule)
    for before, behind in hidden.items():
        yield (
            f"rule {some_of(behind)} can never be reached: rule '{shorten(before.label, 40)}' is tried first and asks "
            "for no more"
        )


def _covering(conditions: frozenset[Condition], seen: Mapping[frozenset[Condition], Rule]) -> Rule | None:
    """Return a rule of `seen` whose conditions are a part of these; None: there is none."""
    if conditions in seen:
        return seen[conditions]
    if len(conditions) > MAX_COMPARED_CONDITIONS:
        return None
    for size in range(1, len(conditions)):
        for some in combinations(conditions, size):
            if (found := seen.get(frozenset(some))) is not None:
                return found
    return None


def some_of(rules: Sequence[Rule]) -> str:
    """Return the first of these rules in quotes, and how many more there are."""
    more = f" and {len(rules) - 1} more" if rules[1:] else ""
    return f"'{shorten(rules[0].label, 40)}'{more}"
