"""Edits that hold on one node of a cluster only: they are carried out again on each new table of the cluster.

The table keeps them, and what runs is the table after them. One that cannot be carried out any more, for example since
its service is deleted, is dropped.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import evolve, frozen

from ktcpvs.errors import BadValue, Busy, Refusal
from ktcpvs.model.edits import (
    Confirm,
    DrainNode,
    Edit,
    EndLocal,
    Flush,
    ForgetNode,
    Load,
    ReloadCertificates,
    ReloadSchedulers,
    RenewCertificate,
    UndrainNode,
    Unload,
)
from ktcpvs.model.table import Table

MAX_LOCAL_EDITS = 100
"""The most edits that hold on one node only."""


@frozen
class LocalEdit:
    """An edit that the table keeps. is_forced: it was made while etcd did not respond, and ends when etcd does."""

    edit: Edit
    is_forced: bool = False


@frozen
class Local(Edit):
    """Carry an edit out on this node only. is_forced: as for LocalEdit."""

    name: ClassVar[str] = "local"
    edit: Edit
    is_forced: bool = False

    def apply(self, table: Table) -> Table:
        self._check()
        if len(table.local) >= MAX_LOCAL_EDITS:
            raise Busy(f"{MAX_LOCAL_EDITS} edits hold on this node only; 'tcpvsadm --end-local' ends them")
        self.edit.apply(localized(table))
        return _shortened(evolve(table, local=(*table.local, LocalEdit(self.edit, self.is_forced))))

    def _check(self) -> None:
        """Raise BadValue for an edit that cannot be carried out on one node only."""
        edit = self.edit
        option = "--force-local" if self.is_forced else "--local"
        if isinstance(edit, Load) and edit.confirm:
            raise BadValue(f"{option} and a load on trial do not go together: leave out --confirm")
        if isinstance(edit, Load | Flush) and not self.is_forced:
            raise BadValue(
                f"{edit.name} replaces the whole table, so this node would follow nothing of the cluster any more: "
                f"change parts of it with {option}"
            )
        if isinstance(edit, Unload | ReloadCertificates | ReloadSchedulers | RenewCertificate | EndLocal):
            raise BadValue(f"{edit.name} concerns this node only: leave out {option}")
        if isinstance(edit, Confirm | DrainNode | UndrainNode | ForgetNode):
            raise BadValue(f"{edit.name} concerns all nodes: leave out {option}")


def localized(table: Table) -> Table:
    """Return the table that this node runs: after the edits that hold on it only, and without them."""
    if not table.local:
        return table
    return _carried_out(table)[0]


def settled(table: Table) -> tuple[Table, list[tuple[LocalEdit, str]]]:
    """Return the table without the local edits that cannot be carried out on it, and these with their reasons."""
    if not table.local:
        return table, []
    _, dropped = _carried_out(table)
    refused = [one for one, _ in dropped]
    return evolve(table, local=tuple(one for one in table.local if one not in refused)), dropped


def without_forced(table: Table) -> Table:
    """Return the table without the edits that were made while etcd did not respond."""
    return evolve(table, local=tuple(one for one in table.local if not one.is_forced))


def _carried_out(table: Table) -> tuple[Table, list[tuple[LocalEdit, str]]]:
    now, dropped = evolve(table, local=()), []
    for one in table.local:
        try:
            now = one.edit.apply(now)
        except Refusal as refusal:
            dropped.append((one, str(refusal)))
    return now, dropped


def _shortened(table: Table) -> Table:
    """Return the table without the local edits that its last one has made superfluous."""
    wanted, last = localized(table), table.local[-1]
    for one in table.local[:-1]:
        if last.is_forced and not one.is_forced:
            continue  # it holds longer
        if not _may_supersede(last.edit, one.edit):
            continue
        without = evolve(table, local=tuple(other for other in table.local if other is not one))
        if settled(without) == (without, []) and localized(without) == wanted:
            table = without
    return table


def _may_supersede(last: Edit, one: Edit) -> bool:
    """Whether `last` may change what `one` has changed; False where they name different services or servers."""
    for name in ("ident", "address"):
        new, old = getattr(last, name, None), getattr(one, name, None)
        if new is not None and old is not None and new != old:
            return False
    return True
