"""Warnings about what an edit leaves out: the port of a server, conditions of a rule, services that stay stopped; and
about rules that can do nothing since the edit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ktcpvs.errors import shorten
from ktcpvs.model.address import Inet
from ktcpvs.model.conditions import conditions_of
from ktcpvs.model.edits import START_NEW, AddRule, AddServer, Edit, EditRule, Load, StartService
from ktcpvs.model.modifiers import modifiers_of
from ktcpvs.model.rule import Rule
from ktcpvs.model.rule_list import find_rule
from ktcpvs.model.rule_warnings import HiddenRule, about_endless, about_hidden, endless_redirects, hidden_rules
from ktcpvs.model.scheduling import ISchedulerFactory
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from ktcpvs.model.unmatched import is_catch_all, reads_rules

MAX_NAMES = 10
"""The most services that a warning names."""


def warnings_about_edit(edit: Edit, before: Table, table: Table) -> Iterator[str]:
    """Yield the warnings about an edit alone. before, table: before and after it."""
    if isinstance(edit, AddServer) and isinstance(edit.address, Inet) and edit.address.port is None:
        port = table.service(edit.ident).port
        yield (
            f"service {edit.ident}: server {edit.address} gets port {port}, that of the service, since it names "
            f"none (example with a port: {edit.address}:80)"
        )
    if isinstance(edit, EditRule) and edit.pattern is not None:
        yield from _about_conditions(edit.ident, edit.rule, edit.pattern, before)
    if isinstance(edit, EditRule) and edit.modifiers is not None:
        yield from _about_modifiers(edit.ident, edit.rule, edit.modifiers, before)
    if isinstance(edit, Load) and edit.start == START_NEW:
        stopped = [ident for ident in table.services if ident not in table.running]
        if stopped:
            more = f" and {len(stopped) - MAX_NAMES} more" if stopped[MAX_NAMES:] else ""
            which = f"{'services' if stopped[1:] else 'service'} {', '.join(stopped[:MAX_NAMES])}{more}"
            verb, start = ("stay", "each is started by") if stopped[1:] else ("stays", "to start it:")
            yield f"{which} {verb} stopped, as before the load; {start} 'tcpvsadm --start -i {stopped[0]}'"


def _about_conditions(ident: str, reference: str, text: str, before: Table) -> Iterator[str]:
    """Yield a warning if new conditions of a rule change some of the old ones and leave out others.

    Where they have nothing in common with the old ones, all were to go.
    """
    rule = find_rule(before.service(ident), reference)
    conditions = conditions_of(text)
    given = {(one.kind, one.name, one.is_negated) for one in conditions}
    gone = [one for one in rule.conditions if (one.kind, one.name, one.is_negated) not in given]
    if 0 < len(gone) < len(rule.conditions):
        yield _describe_loss(ident, rule, "conditions", conditions, gone)


def _about_modifiers(ident: str, reference: str, text: str, before: Table) -> Iterator[str]:
    """Yield a warning if new modifiers of a rule leave out some of the old ones: who adds one may not mean that."""
    rule = find_rule(before.service(ident), reference)
    given = modifiers_of(text).by_kind
    gone = [one for kind, one in rule.modifiers.by_kind.items() if kind not in given]
    if gone:
        yield _describe_loss(ident, rule, "modifiers", given.values(), gone)


def _describe_loss(ident: str, rule: Rule, what: str, given: Iterable[object], gone: Iterable[object]) -> str:
    """Return the warning about what a rule has no longer. given: what has taken its place.

    It says what keeps these, since no warning can come with a later edit: the rule that it changes has lost them.
    """
    lost = " ".join(map(str, gone))
    kept = " ".join((*map(str, given), lost))
    return (
        f"service {ident}: rule '{shorten(rule.label)}' no longer has: {shorten(lost)}; the {what} that are given take "
        f"the place of all; to keep these, give them each time: {shorten(kept, 240)}"
    )


def warnings_about_rules(
    edit: Edit,
    before: Mapping[str, VirtualService],
    services: Mapping[str, VirtualService],
    installed: Callable[[], Iterable[ISchedulerFactory]],
) -> Iterator[str]:
    """Yield the warnings about rules that can do nothing since `edit`, but not about those that could do nothing before
    it. A load and a start warn of all such rules anyway (model.warnings).

    before, services: before and after it. installed: returns the schedulers.
    """
    if isinstance(edit, Load | StartService):
        return
    changed = [one for one in services.values() if one.rules and one is not before.get(one.ident)]
    readers = {one.name for one in installed() if reads_rules(one)} if changed else ()
    for service in changed:
        if service.scheduler_name not in readers:
            continue
        old = before.get(service.ident)
        if old is not None and old.scheduler_name not in readers:
            old = None
        for text in _about_rules(edit, old, service):
            yield f"service {service.ident}: {text}"


def _about_rules(edit: Edit, old: VirtualService | None, service: VirtualService) -> Iterator[str]:
    """Yield the warnings about one service. old: before the edit; None: no rule of it was in use."""
    if old is not None and old.rules is service.rules and old.listen == service.listen:
        return
    hidden, endless = hidden_rules(service.rules), endless_redirects(service)
    if old is not None and hidden:
        known = _keys_after(edit, old, service, [one.rule for one in hidden_rules(old.rules)])
        hidden = [one for one in hidden if one.rule.key not in known]
    if old is not None and endless:
        known = _keys_after(edit, old, service, endless_redirects(old))
        endless = [rule for rule in endless if rule.key not in known]
    hint = _hint(hidden[0], old) if isinstance(edit, AddRule) and old is not None and hidden else ""
    for text in about_hidden(hidden):
        yield text + hint
    yield from about_endless(endless)


def _keys_after(edit: Edit, old: VirtualService, service: VirtualService, rules: Sequence[Rule]) -> set[str]:
    """Return the keys in `service` of some rules of `old`: the edit may have changed the key of one."""
    keys = {rule.key for rule in rules}
    if isinstance(edit, EditRule) and edit.ident == service.ident:
        edited = find_rule(old, edit.rule)
        if edited.key in keys:
            keys.add(service.rules[old.rules.index(edited)].key)
    return keys


def _hint(hidden: HiddenRule, old: VirtualService) -> str:
    """Return what to do about a rule if it has been added behind one that takes all of its requests; "": it has not.

    A rule that is hidden by an added one is often meant to be.
    """
    if any(rule.key == hidden.rule.key for rule in old.rules):
        return ""
    if is_catch_all(hidden.rule) or set(hidden.rule.conditions) == set(hidden.behind.conditions):
        return "; to change what that one does: --edit-rule"
    return "; to try this one first: --move-rule"
