"""The edits of a node's administrators, which hold for the whole cluster.

An edit is prepared here, stored by one transaction, and then put in force (`Director` calls `save` between the two). If
what it changes has changed meanwhile, it is tried again on the new table, unless both change the same part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import evolve

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.store_errors import store_errors
from ktcpvs.cluster.table_store import NotInForce, Transaction
from ktcpvs.cluster.trial import ClusterTrial
from ktcpvs.errors import BadValue, Busy, CannotSave, ChangedMeanwhile
from ktcpvs.model.difference import table_differences
from ktcpvs.model.edits import (
    Confirm,
    Edit,
    EndLocal,
    Load,
    ReloadCertificates,
    ReloadSchedulers,
    RenewCertificate,
    Unload,
)
from ktcpvs.model.local_edits import Local
from ktcpvs.model.table import Table
from ktcpvs.model.table_parts import changed_parts, conflicting_parts

MAX_ATTEMPTS = 10
"""The number of times that an edit is tried when others change the table at the same time."""

HEAR_SECONDS = 1.5
"""The most seconds for which an edit waits for the reports of other nodes."""

_OF_THIS_NODE = (Local, EndLocal, Unload, ReloadCertificates, ReloadSchedulers, RenewCertificate)
"""Edits that change nothing of the cluster's table."""

MAX_CONFLICT_LINES = 5
"""The changes of another administrator that a refused edit names."""

Save = Callable[[Table], Awaitable[None]]


class ClusterEdits:
    """Carries out what the administrators of this node ask for."""

    def __init__(self, node: Cluster, save: Save) -> None:
        """save: writes the table to this node's own disk. Raises CannotSave."""
        self.trial = ClusterTrial(node, save)
        self._node = node
        self._save_here = save
        self._edit: Edit | None = None  # that the director carries out
        self._stored_at = 0  # the revision; see _store_and_run

    async def submit(self, edit: Edit) -> Sequence[str]:
        """Carry an edit out in the whole cluster. Returns warnings, a line each. Raises a Refusal; then nothing has
        changed."""
        director = self._node.director
        if isinstance(edit, ReloadCertificates | ReloadSchedulers | RenewCertificate | Unload):  # of this node alone
            return await director.between_edits(lambda: self._carry_out(edit))
        await self._node.wait_for_start()
        if isinstance(edit, Local | EndLocal):
            warnings = await director.between_edits(lambda: self._carry_out(edit))
            if self._node.is_connected:
                await self._node.report_now()
            return warnings
        if isinstance(edit, Confirm):
            await self.trial.confirm()
            return ()
        for _ in range(MAX_ATTEMPTS):
            await self._node.wait_until_connected()
            table = self._stored if self._node.errors else lambda: director.table
            base = table()
            try:
                warnings, revision = await director.between_edits(lambda: self._store_and_run(edit))
            except _Conflict as conflict:
                await self._catch_up(conflict.revision)
                self._check_commuting(edit, base, table())
                continue
            if self._node.has_left:
                return warnings
            if isinstance(edit, Load) and edit.confirm and not revision:
                return [*warnings, "this changes nothing, so nothing is on trial"]
            await self._hear_own(revision)
            if self._node.errors or self._node.is_following:
                await self._node.follow()
                warnings = [*warnings, *(f"node {self._node.membership.name}: {error}" for error in self._node.errors)]
            return [*warnings, *await self._hear_others(revision)]
        raise Busy(f"others change the table all the time; {edit.name} was tried {MAX_ATTEMPTS} times")

    async def _store_and_run(self, edit: Edit) -> tuple[Sequence[str], int]:
        """Carry an edit out between two edits. Return warnings, and the revision at which it is stored; 0: it is not,
        since it changes nothing."""
        self._stored_at = 0
        return await self._carry_out(edit), self._stored_at

    async def _carry_out(self, edit: Edit) -> Sequence[str]:
        """Carry an edit out between two edits."""
        director = self._node.director
        if self._node.has_left:  # the daemon that has taken over carries it out
            return await director.carry_out(edit)
        if isinstance(edit, Local) and edit.is_forced and not self._node.may_force:
            raise BadValue(
                f"this node is connected to etcd at {self._node.etcd.url}: leave out --force-local, or use --local to "
                "change this node only"
            )
        self._edit = edit
        try:
            if self._node.errors and not isinstance(edit, _OF_THIS_NODE):
                return await self._carry_out_on_stored(edit)
            # Otherwise the director itself would undo it.
            return await director.carry_out(evolve(edit, confirm=0) if isinstance(edit, Load) else edit)
        finally:
            self._edit = None

    async def _carry_out_on_stored(self, edit: Edit) -> Sequence[str]:
        """Carry an edit out on the cluster's table, of which this node cannot put a part in force: the edit may be of
        that part, and may even mend it."""
        stored = self._stored()
        new, warnings = await self._node.director.check(edit, stored)
        if new != stored:
            await self._store(stored, new)
        return warnings

    def _stored(self) -> Table:
        """Return the cluster's table. What this node cannot read in it, it has as it is in force."""
        return self._node.store.table(self._node.director.table)

    async def save(self, table: Table) -> None:
        """Store the table in the cluster and on this node's disk; the director calls it for each edit. Raises
        _Conflict and CannotSave."""
        is_stored = False
        if not (self._node.is_adopting or isinstance(self._edit, Local | EndLocal)):
            is_stored = await self._store(self._node.director.table, table)
        if self.trial.holds_the_save:
            return
        try:
            await self._save_here(table)
        except CannotSave as why:
            if not is_stored:
                raise
            self._node.follow_soon()  # which fails too, says so in reports of this node, and is tried again
            raise CannotSave(
                f"{why}; the edit is stored in the cluster: the other nodes run it, and this one will when its state "
                "file can be written"
            ) from None

    async def _store(self, old: Table, new: Table) -> bool:
        """Return whether there is anything to store. Raises _Conflict and CannotSave."""
        store, edit = self._node.store, self._edit
        try:
            if isinstance(edit, Load) and edit.confirm:
                transaction: Transaction | None = store.trial(old, new, edit.confirm, self._node.membership.name)
            else:
                transaction = store.transaction(old, new)
        except NotInForce as why:
            raise _Conflict(str(why), 0) from None
        if transaction is None:
            return False
        self._node.check_connected()
        revisions = []
        with store_errors("the edit is stored"):
            for step in transaction.steps:
                is_done, revision = await self._node.etcd.transact(step.compares, step.operations)
                if not is_done:
                    raise _Conflict("the table has changed meanwhile", revision)
                revisions.append(revision)
        store.committed(transaction, revisions)
        if transaction.trial is not None:
            self.trial.begin(transaction.trial, revisions[-1])
        self._stored_at = revisions[-1]
        return True

    async def _hear_own(self, revision: int) -> None:
        """Wait until the watch has reported what was stored at a revision, and with it all before it, which this node
        then follows. If it does not within HEAR_SECONDS, the node follows later."""
        store, until = self._node.store, self._reactor.seconds() + HEAR_SECONDS
        while store.revision < revision and self._node.is_connected and self._reactor.seconds() < until:
            await self._node.next_change()

    async def _catch_up(self, revision: int) -> None:
        """Return when this node follows the cluster up to a revision; 0: up to what it knows."""
        node = self._node
        while node.is_connected and not node.has_left and node.store.revision < revision:
            await node.next_change()
        await node.follow()

    def _check_commuting(self, edit: Edit, base: Table, now: Table) -> None:
        """Raise ChangedMeanwhile if somebody else has changed what the edit changes."""
        others = changed_parts(base, now)
        if not others:
            if self._node.errors:
                why = self._node.errors[0]
                raise Busy(f"this node does not run the cluster's table: {why}; make this edit on another node")
            return
        mine = changed_parts(base, edit.apply(base))
        if conflicting_parts(mine, others) or isinstance(edit, Load):
            lines = table_differences(base, now)
            more = f"; and {len(lines) - MAX_CONFLICT_LINES} more" if len(lines) > MAX_CONFLICT_LINES else ""
            shown = "; ".join(lines[:MAX_CONFLICT_LINES])
            raise ChangedMeanwhile(f"another administrator has changed it at the same time: {shown}{more}")

    @property
    def _reactor(self) -> Any:
        return self._node.director.context.reactor

    async def _hear_others(self, revision: int) -> Sequence[str]:
        """Wait a little for the reports of the other nodes. Return their refusals, a line each."""
        revision = max(revision, self._node.store.table_revision)
        until = self._reactor.seconds() + HEAR_SECONDS
        while self._node.is_connected and self._behind(revision) and self._reactor.seconds() < until:
            await self._node.next_change()
        return [
            f"node {name}: {error}"
            for name, report in self._node.membership.reports.items()
            for error in report.errors
            if name != self._node.membership.name
        ]

    def _behind(self, revision: int) -> bool:
        return any(
            report.revision < revision
            for name, report in self._node.membership.reports.items()
            if name != self._node.membership.name
        )


class _Conflict(Exception):
    """The table that an edit was prepared for is not the cluster's any more. revision: at which this was seen."""

    def __init__(self, why: str, revision: int) -> None:
        super().__init__(why)
        self.revision = revision
