"""A table of the cluster on trial: in force on all nodes, and undone on all of them unless it is confirmed on one.

The key `trial` names the table before, whose keys stay until the trial has ended. Edits are stored only while there is
no such key. Each node counts the seconds by its own clock, from when it has seen the key; the one whose time is over
first switches back to the table before, for all. A node that cannot reach etcd then goes back by itself, and adopts
what the cluster has as soon as etcd responds again. State files keep the table before until it is confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from random import uniform
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.etcd import Change, EtcdError, KeyValue, delete, is_unchanged, put
from ktcpvs.cluster.records import (
    TABLE_KEY,
    TRIAL_KEY,
    BadRecord,
    TrialRecord,
    decode_trial,
    encode_table,
    encode_trial,
)
from ktcpvs.cluster.store_errors import store_errors
from ktcpvs.director.confirmation import NOT_PENDING, on_trial
from ktcpvs.errors import Busy, CannotSave
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.edits import Edit, EndLocal
from ktcpvs.model.local_edits import Local
from ktcpvs.model.table import Table
from ktcpvs.system.log import ANNOUNCE

MIN_GRACE, MAX_GRACE = 1.0, 3.0
"""Seconds that a node waits longer than the one on which the table was loaded, so that not all undo it at once."""

UNDO_INTERVAL = 5.0
"""Seconds between two attempts to undo it in etcd."""


class ClusterTrial:
    """Provides Confirmation and Follower. record: what is on trial; None: nothing is."""

    def __init__(self, node: Cluster, save: Callable[[Table], Awaitable[None]]) -> None:
        """save: writes the table to this node's own disk. Raises CannotSave."""
        self.record: TrialRecord | None = None
        self.saved: Deferred[None] | None = None  # fires when the confirmed table is on the disk, or cannot be
        self._node = node
        self._save = save
        self._prefix = node.store.prefix
        self._revision = 0  # at which the key was made, or deleted
        self._why = ""  # the key cannot be read
        self._before: Table | None = None  # None: the cluster does not have the table before any more
        self._is_overdue = False
        self._deadline = 0.0
        self._call: Any = None
        node.followers.append(self)
        node.choose_table = self._chosen
        node.confirmation = self

    @property
    def _key(self) -> str:
        return f"{self._prefix}{TRIAL_KEY}"

    @property
    def _reactor(self) -> Any:
        return self._node.director.context.reactor

    # Confirmation.

    @property
    def seconds_left(self) -> int | None:
        """See Confirmation."""
        return None if self.record is None else max(math.ceil(self._deadline - self._reactor.seconds()), 0)

    @property
    def holds_the_save(self) -> bool:
        """Whether the table in force is not to be on this node's disk yet."""
        return self.record is not None and not self._is_overdue

    def admit(self, edit: Edit) -> None:
        """See Confirmation."""
        if isinstance(edit, Adopt):
            return
        if self._is_overdue and isinstance(edit, Local | EndLocal):
            return
        if self._why:
            raise Busy(f"the cluster's key {self._key} cannot be read, so edits are refused: {self._why}")
        if self.record is not None:
            raise on_trial(self.seconds_left)

    def carried_out(self, edit: Edit, old: Table) -> None:
        """See Confirmation."""

    def end(self) -> None:
        """See Confirmation."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def begin(self, record: TrialRecord, revision: int) -> None:
        """This node has stored a table on trial."""
        self.apply(revision, [Change(self._key, encode_trial(record), revision, revision)])

    # What etcd says.

    def replace(self, revision: int, pairs: Sequence[KeyValue]) -> None:
        """See Follower."""
        found = next((pair for pair in pairs if pair.key == self._key), None)
        if found is None:
            self._changed(None, revision)
        else:
            self._changed(found.value, found.mod_revision)

    def apply(self, revision: int, changes: Sequence[Change]) -> None:
        """See Follower."""
        was_overdue = self._is_overdue
        for change in changes:
            if change.key == self._key:
                self._changed(change.value, change.mod_revision)
        if was_overdue and not self._is_overdue:  # another node has confirmed what this one has gone back from
            self._node.follow_soon()

    async def joined(self) -> None:
        """See Follower."""
        if self._is_overdue:
            self._schedule(0)

    def _changed(self, value: bytes | None, revision: int) -> None:
        """Follow the key of the trial. value: None: there is no key."""
        if revision < self._revision:
            return
        if value is None:
            self._why, self._revision = "", revision
            self._ended()
            return
        try:
            record = decode_trial(value)
        except BadRecord as bad:
            self._ended()
            self._why, self._revision = str(bad), revision
            self._node.director.context.log.warn("cluster: the key {key}: {why}", key=self._key, why=bad)
            return
        if record != self.record:
            self._ended()
            self._began(record)
        self._why, self._revision = "", revision

    def _began(self, record: TrialRecord) -> None:
        self.record, self._is_overdue = record, False
        self._before = self._node.store.table_of(record.former, self._node.director.table)
        is_ours = record.node == self._node.membership.name
        self._deadline = self._reactor.seconds() + record.seconds
        self._schedule(record.seconds + (0 if is_ours else uniform(MIN_GRACE, MAX_GRACE)))
        self._node.director.context.log.event(
            ANNOUNCE,
            "cluster: the table that was loaded on node {node} is on trial: it is undone in {seconds} s unless it is "
            "confirmed on any node",
            node=record.node, seconds=record.seconds,
        )  # fmt: skip

    def _ended(self) -> None:
        """The key is gone: the table is confirmed or undone."""
        record, self.record = self.record, None
        self._is_overdue, self._before = False, None
        self.end()
        if record is None:
            return
        log = self._node.director.context.log
        if self._node.store.generation != record.generation:
            log.event(ANNOUNCE, "cluster: the table on trial is undone: the table before it is in force again")
            return
        log.event(ANNOUNCE, "cluster: the table on trial is confirmed")
        failed = "the confirmed table cannot be saved"
        self.saved = self._node.director.between_edits(self._save_confirmed)
        self.saved.addErrback(lambda why: log.failure(f"internal error: {failed}", why))

    async def _save_confirmed(self) -> None:
        try:
            await self._save(self._node.director.table)
        except CannotSave as why:
            self._node.director.context.log.warn("the confirmed table is not saved on this node: {why}", why=why)

    # Ending it.

    async def confirm(self) -> None:
        """Keep the table, on all nodes. Raises a Refusal."""
        await self._node.wait_until_connected()
        record = self.record
        if record is None:
            raise Busy(NOT_PENDING)
        if self._is_overdue:
            raise Busy("the time of the table on trial is over: it is undone")
        generation = self._node.store.generation
        operations = [delete(self._key), *self._node.store.delete_others(generation or record.generation)]
        with store_errors("it is confirmed"):
            is_done, revision = await self._node.etcd.transact([self._is_unchanged()], operations)
        if not is_done:
            raise Busy("the table on trial has been undone, or confirmed on another node, at this moment: see --list")
        self._node.received(0, [Change(self._key, None, 0, revision)])
        if self.saved is not None:
            await self.saved

    def _is_unchanged(self) -> dict[str, Any]:
        return is_unchanged(self._key, self._revision)

    def _schedule(self, seconds: float) -> None:
        self.end()
        self._call = self._reactor.callLater(seconds, self._time_is_over)

    def _time_is_over(self) -> None:
        self._call = None
        failed = self._node.director.context.log.failure
        Deferred.fromCoroutine(self._undo()).addErrback(
            lambda why: failed("internal error: the table on trial is not undone", why)
        )

    async def _undo(self) -> None:
        """Switch back to the table before, for all nodes; without etcd, for this one."""
        record = self.record
        if record is None:
            return
        if self._node.is_connected:
            try:
                await self._undo_in_etcd(record)
            except EtcdError as error:
                self._node.director.context.log.warn("cluster: the table on trial is not undone: {why}", why=error)
            else:
                if self.record == record:  # it has ended, but the watch has not said so yet
                    self._schedule(UNDO_INTERVAL)
                return
        if self.record != record:
            return
        if not self._is_overdue and self._before is not None:
            self._is_overdue = True
            self._node.director.context.log.warn(
                "cluster: the time of the table on trial is over, and etcd does not respond: this node goes back to "
                "the table before it, until etcd responds"
            )
            self._node.follow_soon()
        self._schedule(UNDO_INTERVAL)

    async def _undo_in_etcd(self, record: TrialRecord) -> None:
        """Undo it, unless the trial has ended. Raises EtcdError."""
        former = encode_table(record.former)
        table_key = f"{self._prefix}{TABLE_KEY}"
        operations = [put(table_key, former), delete(self._key), *self._node.store.delete_others(record.former)]
        is_done, revision = await self._node.etcd.transact([self._is_unchanged()], operations)
        if is_done:
            changes = [Change(table_key, former, 0, revision), Change(self._key, None, 0, revision)]
            self._node.received(0, changes)

    def _chosen(self, stored: Table) -> Table:
        """Return the table that this node is to run. stored: the cluster's."""
        if not self._is_overdue or self._before is None:
            return stored
        return evolve(self._before, local=stored.local)
