"""The parts of the table that an edit changes, so that two edits of the same part are told from two that commute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ktcpvs.model.describe import describe_service
from ktcpvs.model.table import Table

Part = tuple[str, ...]
"""A part of the table: ("settings", NAME), ("service", IDENT), or ("service", IDENT, KIND, NAME) of a part of it."""

_LISTS = ("servers", "rules", "tests")


def changed_parts(before: Table, after: Table) -> set[Part]:
    """Return the parts in which two tables differ."""
    old, new = before.settings.described(), after.settings.described()
    parts: set[Part] = {("settings", name) for name in new if old.get(name) != new[name]}
    for ident in {**before.services, **after.services}:
        one, other = before.services.get(ident), after.services.get(ident)
        if one is None or other is None:
            parts.add(("service", ident))
        elif one is not other and one != other:
            parts.update(
                ("service", ident, *part) for part in _differing(describe_service(one), describe_service(other))
            )
    parts.update(("service", ident, "running", "") for ident in before.running ^ after.running)
    return parts


def _differing(one: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in other.items():
        if name not in _LISTS and one.get(name) != value:
            yield "option", name
    if one["tests"] != other["tests"]:
        yield "tests", ""
    old_servers = {server["address"]: server for server in one["servers"]}
    new_servers = {server["address"]: server for server in other["servers"]}
    for address in {**old_servers, **new_servers}:
        if old_servers.get(address) != new_servers.get(address):
            yield "server", address
    old_rules, new_rules = _by_identity(one["rules"]), _by_identity(other["rules"])
    if list(old_rules) != list(new_rules):
        yield "rules", ""  # their order decides, so adding one is a change of all
    for key, rule in new_rules.items():
        if key in old_rules and old_rules[key] != rule:
            yield "rule", key


def _by_identity(rules: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {rule["name"] or rule["pattern"]: rule for rule in rules}


def conflicting_parts(mine: set[Part], others: set[Part]) -> set[Part]:
    """Return the parts of `others` that are part of what `mine` changes, or the other way round."""
    return {
        other for other in others for part in mine if part[: len(other)] == other or other[: len(part)] == part
    }  # fmt: skip
