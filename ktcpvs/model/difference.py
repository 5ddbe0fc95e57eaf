"""The differences between two configurations, in words, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import evolve

from ktcpvs.errors import Refusal, shorten
from ktcpvs.model.describe import describe_service
from ktcpvs.model.language.writer import write_listeners
from ktcpvs.model.modifiers import REQUEST_HEADER, RESPONSE_HEADER, modifiers_of
from ktcpvs.model.options import OFF
from ktcpvs.model.server_words import (
    CHECK,
    LABELS,
    READY,
    START,
    write_connection_words,
    write_labels,
    write_priority,
    write_words,
)
from ktcpvs.model.service import OPTIONS
from ktcpvs.model.settings import SECRETS
from ktcpvs.model.table import Table

MAX_NETWORKS = 20
"""The most networks that a difference names."""

_ABSENT = {"redirect": "none", "on": "all nodes"}
"""Option -> what a difference says where it is not given; for others their default."""

Described = dict[str, Any]
"""A service as model.describe returns it, perhaps with `running`."""


def differences(
    before: list[Described],
    settings_before: dict[str, Any],
    after: list[Described],
    settings_after: dict[str, Any],
) -> list[str]:
    """Return the differences between `before` and `after`; empty if they are equal."""
    old = {service["ident"]: service for service in before}
    new = {service["ident"]: service for service in after}
    lines = [*_settings(settings_before, settings_after)]
    for ident, service in old.items():
        if ident not in new:
            running = " (running): it stops and drains" if service.get("running") else ""
            lines.append(f"- service {ident}{running}")
    for ident, service in new.items():
        if ident in old:
            lines += [f"service {ident}: {line}" for line in _service(old[ident], service)]
        else:
            counts = f"{_count(service['servers'], 'server')}, {_count(service['rules'], 'rule')}"
            where = ", ".join(write_listeners(service))
            state = "" if service.get("running") else ", stopped"
            lines.append(f"+ service {ident}: {service['scheduler']} at {where}, {counts}{state}")
    if not lines and list(old) != list(new):
        lines.append("the order of the services changes")
    return lines


def table_differences(before: Table, after: Table) -> list[str]:
    """Return the differences between two tables; empty if they are equal."""

    def described(table: Table) -> list[Described]:
        return [{**describe_service(service), "running": service.ident in table.running} for service in table]

    lines = differences(described(before), before.settings.described(), described(after), after.settings.described())
    for ident in before.services:
        if ident in after.services and (ident in before.running) != (ident in after.running):
            lines.append(
                f"service {ident}: {'running -> stopped' if ident in before.running else 'stopped -> running'}"
            )
    return lines


def changes_between(before: Table, after: Table) -> list[str]:
    """Return the differences between two tables as `table_differences` does; only services that are not equal are
    compared option by option, so that a small change of a large table takes little time."""
    same = {
        ident
        for ident, service in after.services.items()
        if before.services.get(ident) == service and (ident in before.running) == (ident in after.running)
    }

    def changed(table: Table) -> Table:
        return evolve(table, services={ident: one for ident, one in table.services.items() if ident not in same})

    return table_differences(changed(before), changed(after))


def _count(things: list[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _settings(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name, value in after.items():
        if before.get(name) != value:
            yield f"setting {name} changes" if name in SECRETS else f"setting {name}: {before.get(name)} -> {value}"


def _service(before: Described, after: Described) -> Iterator[str]:
    yield from _listeners(write_listeners(before), write_listeners(after))
    for name, option in OPTIONS.items():
        if name == "listen":
            continue
        old, new = before.get(name), after[name]
        if option.repeats:
            yield from _changes(_lines(name, old), _lines(name, new))
        elif isinstance(new, list):
            yield from _networks(name, old or [], new)
        elif old != new:
            none = _ABSENT.get(name, option.default)
            yield f"{name}: {none if old is None else old} -> {none if new is None else new}"
    yield from _servers(before["servers"], after["servers"])
    yield from _rules(before["rules"], after["rules"])
    yield from _tests(before.get("tests", []), after["tests"])


def _lines(name: str, values: list[str] | None) -> list[str]:
    """Return an option that repeats as the configuration writes it, a line for each value; None: it is unknown."""
    return [f"{name} {value}" for value in values or ()]


def _networks(name: str, before: list[str], after: list[str]) -> Iterator[str]:
    """Yield one line about the networks that are new, and one about those that are gone."""
    for sign, some, others in (("-", before, after), ("+", after, before)):
        known = frozenset(others)
        if found := [network for network in some if network not in known]:
            more = f" and {len(found) - MAX_NETWORKS} more" if found[MAX_NETWORKS:] else ""
            yield f"{sign} {name} {' '.join(found[:MAX_NETWORKS])}{more}"
    if before != after and sorted(before) == sorted(after):
        yield f"the order of {name} changes"


def _changes(before: list[str], after: list[str]) -> Iterator[str]:
    """Yield the changes of header edits, modifiers and the like, which `before` and `after` write: what takes the place
    of one with the same subject, what is gone, and what is new."""
    left = [line for line in before if line not in after]
    new = [line for line in after if line not in before]
    for line in left:
        same = [one for one in new if _subject(one) == _subject(line)]
        if len(same) == 1 and sum(_subject(one) == _subject(line) for one in left) == 1:
            yield f"{line} -> {same[0]}"
            new.remove(same[0])
        else:
            yield f"- {line}"
    yield from (f"+ {line}" for line in new)
    if before != after and sorted(before) == sorted(after):
        yield f"the order of {', '.join(dict.fromkeys(line.split(' ', 1)[0] for line in after))} changes"


def _subject(line: str) -> tuple[str, ...]:
    """Return what a modifier or an option is about: of a header edit, the field."""
    kind, *values = line.split(" ", 2)
    return (kind, values[0].lower()) if kind in (REQUEST_HEADER, RESPONSE_HEADER) else (kind,)


def _listeners(before: list[str], after: list[str]) -> Iterator[str]:
    if len(before) == len(after) == 1:
        if before != after:
            yield f"listen: {before[0]} -> {after[0]}"
        return
    yield from (f"- listen {line}" for line in before if line not in after)
    yield from (f"+ listen {line}" for line in after if line not in before)
    if before != after and sorted(before) == sorted(after):
        yield "the order of the listeners changes"


def _servers(before: list[Described], after: list[Described]) -> Iterator[str]:
    old = {server["address"]: server for server in before}
    new = {server["address"]: server for server in after}
    for address, server in old.items():
        if address not in new:
            yield f"- server {address}, which drains"
        elif server != new[address]:
            parts = _server_parts(server, new[address])
            if parts:
                yield f"server {address}: {', '.join(parts)}"
    for address, server in new.items():
        if address not in old:
            most = f", maxconn {server['maxconn']}" if server["maxconn"] else ""
            words = write_words(server)
            yield f"+ server {address}, weight {server['weight']}{most}{words and f', {words}'}"
    if list(old) != list(new) and set(old) == set(new):
        yield "the order of the servers changes"


def _server_parts(before: Described, after: Described) -> list[str]:
    """Return what differs between two descriptions of a server."""
    both = before, after
    pairs = [(name, before.get(name, 0), after[name]) for name in ("weight", "maxconn", "max_pending")]
    parts = [f"{name} {was} -> {now}" for name, was, now in pairs if was != now]
    changes = (
        [write_connection_words(one) or "no TLS, no HTTP/2, no PROXY" for one in both],
        [write_priority(one.get("priority", 0)) for one in both],
        [one.get("mode", READY) for one in both],
        [write_labels(one.get(LABELS, {})) for one in both],
    )
    parts += [f"{was} -> {now}" for was, now in changes if was != now]
    for name in (CHECK, START):
        values = [one.get(name) or OFF for one in both]
        if values[0] != values[1]:
            parts.append(f"{name} {values[0]} -> {values[1]}")
    return parts


def _rules(before: list[Described], after: list[Described]) -> Iterator[str]:
    old = {_rule_key(rule): rule for rule in before}
    new = {_rule_key(rule): rule for rule in after}
    for key, rule in old.items():
        if key not in new:
            yield f"- rule {_rule_label(rule)}"
    for key, rule in new.items():
        if key not in old:
            conditions = f"{shorten(rule['pattern'], 100)} " * (rule["name"] is not None)
            yield f"+ rule {_rule_label(rule)} {conditions}-> {_rule_use(rule)}"
            continue
        former = old[key]
        if former["pattern"] != rule["pattern"]:
            changed = f"{shorten(former['pattern'], 100)} -> {shorten(rule['pattern'], 100)}"
            yield f"rule {_rule_label(rule)}: {changed}"
        if _rule_target(former) != _rule_target(rule):
            yield f"rule {_rule_label(rule)}: {_rule_target(former)} -> {_rule_target(rule)}"
        for line in _changes(_modifiers(former), _modifiers(rule)):
            yield f"rule {_rule_label(rule)}: {line}"
    if [key for key in old if key in new] != [key for key in new if key in old]:
        yield "the order of the rules changes"


def _rule_use(rule: Described) -> str:
    """Return what a rule does: its action, or its servers, and its modifiers."""
    modifiers = rule.get("modifiers") or ""
    return _rule_target(rule) + (modifiers and f", {modifiers}")


def _rule_target(rule: Described) -> str:
    """Return the action of a rule, or its servers. A daemon of an older version describes rules without actions and
    without weights."""
    if rule.get("action") is not None:
        return str(rule["action"])
    weights = rule.get("weights") or [None] * len(rule["servers"])
    servers = [
        server if weight is None else f"{server} {weight}"
        for server, weight in zip(rule["servers"], weights, strict=True)
    ]
    return " ".join(servers) + ("" if rule["match"] is None else f", match {rule['match']}")


def _modifiers(rule: Described) -> list[str]:
    """Return the text of each modifier of a rule. A daemon of an older version describes rules without any; those that
    only a newer one knows stay as they are, in one text."""
    text = rule.get("modifiers") or ""
    try:
        return list(modifiers_of(text).texts)
    except Refusal:
        return [text]


def _rule_key(rule: Described) -> tuple[str | None, str]:
    """Return what identifies a rule. A daemon of an older version describes rules without names."""
    name = rule.get("name")
    return (name, "") if name is not None else (None, rule["pattern"])


def _rule_label(rule: Described) -> str:
    return f"'{shorten(rule.get('name') or rule['pattern'], 100)}'"


def _tests(before: list[str], after: list[str]) -> Iterator[str]:
    for line in before:
        if line not in after:
            yield f"- {line}"
    for line in after:
        if line not in before:
            yield f"+ {line}"
