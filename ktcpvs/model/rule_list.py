"""The edits of a service's rules. Each returns a changed service, or raises a Refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve

from ktcpvs.errors import BadValue, NoSuchRule, NoSuchServer, Refusal, RuleExists, shorten, unknown
from ktcpvs.model.actions import Action, as_action
from ktcpvs.model.address import Address
from ktcpvs.model.conditions import NAME, normalized_text
from ktcpvs.model.modifiers import Modifiers
from ktcpvs.model.rule import Rule, RuleServer
from ktcpvs.model.rule_servers import is_servers, servers_of
from ktcpvs.model.service import VirtualService


def find_rule(service: VirtualService, reference: str) -> Rule:
    """Return the rule with these conditions, that name, or that number, counted from 1. Raises NoSuchRule."""
    rules, text = service.rules, _normalized_reference(reference)
    for rule in rules:
        if rule.key == text:
            return rule
    for rule in rules:
        if rule.name == reference:
            return rule
    if reference.isascii() and reference.isdigit() and len(reference) < 9 and 0 < int(reference) <= len(rules):
        return rules[int(reference) - 1]
    described = unknown(reference, [shorten(rule.label, 40) for rule in rules], listed_by="'tcpvsadm --list'")
    raise NoSuchRule(f"service {service.ident} has no rule {described}")


def with_rule(
    service: VirtualService,
    pattern: str,
    address: Address | None,
    match: int | None = None,
    name: str | None = None,
    before: str | None = None,
    action: Action | str | None = None,
    modifiers: Modifiers | str | None = None,
    weight: int | None = None,
) -> VirtualService:
    """Add a server to the rule of that name, or else with these conditions; or add a new rule.

    pattern: "" with the name of a rule keeps its conditions. address: None for a new rule with an action, or whose
    servers `action` names. before: the rule in front of which a new one goes; None: it goes to the end. action: an
    action, or its text, or the text of servers. weight: of the server in the rule; None: its own one.
    """
    if address is None and weight is not None:
        raise BadValue(f"weight {weight}: of which server? (example: -r 10.0.0.1:80 -w {weight})")
    servers = () if address is None else ((address, weight),)
    if isinstance(action, str) and is_servers(action):
        servers, action = (*servers, *_completed(service, action)), None
    for known_address, _ in servers:
        service.server(known_address)
    if name is not None and not pattern:
        pattern = find_rule(service, f"{NAME} {name}").pattern
    wanted = Rule(
        pattern,
        tuple([one for one, _ in servers]),
        match,
        name,
        as_action(action),
        modifiers,
        tuple([one for _, one in servers]),
    )
    known = next((rule for rule in service.rules if rule.key == wanted.key), None)
    if known is None:
        place = len(service.rules) if before is None else service.rules.index(find_rule(service, before))
        return evolve(service, rules=(*service.rules[:place], wanted, *service.rules[place:]))
    label = shorten(known.label)
    if known.pattern != wanted.pattern:
        raise RuleExists(f"rule '{label}' has other conditions: {shorten(known.pattern)}; to change them: edit-rule")
    if known.action is not None or not servers or (modifiers and wanted.modifiers != known.modifiers):
        raise RuleExists(f"rule '{label}' exists already; to change what it does: edit-rule")
    for used, _ in servers:
        if used in known.servers:
            raise RuleExists(f"rule '{label}' already uses server {used}")
    if match is not None and match != known.match:
        raise BadValue(f"rule '{label}' has match {known.match}, not {match}: delete it first")
    if before is not None:
        raise RuleExists(f"rule '{label}' exists already; to move it: move-rule")
    return _with_changed(service, known, known.with_servers((*known.weighed_servers, *servers)))


def with_edited_rule(service: VirtualService, reference: str, changes: Mapping[str, Any]) -> VirtualService:
    """Change fields of a rule, which keeps its place.

    changes: field of Rule -> new value. New conditions without a pattern drop the number `match`, and so does an
    action, which takes the place of the servers, and drops the balance scheduler. The text of servers as `action` takes
    the place of the servers, or of an action.
    """
    known = find_rule(service, reference)
    servers: Sequence[RuleServer] | None = None
    action = changes.get("action")
    if isinstance(action, str) and is_servers(action):
        servers = _completed(service, action)
        for address, _ in servers:
            service.server(address)
        changes = {**changes, "action": None}
    elif action is not None:
        kept = evolve(known.modifiers, balance=None)
        changes = {"match": None, "modifiers": kept, **changes, "servers": (), "weights": ()}
    if "match" not in changes and "pattern" in changes:
        has_pattern = evolve(known, pattern=changes["pattern"], match=None).hashed_pattern is not None
        changes = {**changes, "match": known.match if has_pattern else None}
    if servers is not None:
        addresses, weights = zip(*servers, strict=True)
        changes = {**changes, "servers": addresses, "weights": weights}
    changed = evolve(known, **changes)
    if any(rule.key == changed.key for rule in service.rules if rule is not known):
        raise RuleExists(f"service {service.ident} already has a rule '{shorten(changed.label)}'")
    return _with_changed(service, known, changed)


def with_moved_rule(service: VirtualService, reference: str, before: str | None) -> VirtualService:
    """Move a rule in front of the rule `before`; None: to the end."""
    moved = find_rule(service, reference)
    follower = None if before is None else find_rule(service, before)
    if follower is moved:
        return service
    others = [rule for rule in service.rules if rule is not moved]
    place = len(others) if follower is None else others.index(follower)
    return evolve(service, rules=(*others[:place], moved, *others[place:]))


def without_rule(service: VirtualService, reference: str, address: Address | None = None) -> VirtualService:
    """Remove a server from a rule; a rule without servers is deleted. address: None deletes a rule with an action."""
    known = find_rule(service, reference)
    if address is None and known.action is None:
        raise NoSuchServer(
            f"rule '{shorten(known.label)}' uses servers: name the one to remove ({known.servers[0]}); the last "
            "one removes the rule"
        )
    if address is not None and address not in known.servers:
        raise NoSuchServer(f"rule '{shorten(known.label)}' does not use server {address}")
    left = [(server, weight) for server, weight in known.weighed_servers if server != address]
    if not left:
        return evolve(service, rules=tuple([rule for rule in service.rules if rule is not known]))
    return _with_changed(service, known, known.with_servers(left))


def _completed(service: VirtualService, text: str) -> list[RuleServer]:
    """Return the servers that `text` names, with this service's port where they have none."""
    return [(service.complete(address), weight) for address, weight in servers_of(text)]


def _with_changed(service: VirtualService, known: Rule, changed: Rule) -> VirtualService:
    return evolve(service, rules=tuple([changed if rule is known else rule for rule in service.rules]))


def _normalized_reference(reference: str) -> str:
    """Return the text that a rule with these conditions has; a text that says none, as it is."""
    try:
        return normalized_text(reference)
    except Refusal:
        return reference
