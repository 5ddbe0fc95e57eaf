"""Warnings about what an edit leaves out: the port of a server, conditions of a rule, services that stay stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ktcpvs.errors import shorten
from ktcpvs.model.address import Inet
from ktcpvs.model.conditions import conditions_of
from ktcpvs.model.edits import START_NEW, AddServer, Edit, EditRule, Load
from ktcpvs.model.modifiers import modifiers_of
from ktcpvs.model.rule import Rule
from ktcpvs.model.rule_list import find_rule
from ktcpvs.model.table import Table

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
