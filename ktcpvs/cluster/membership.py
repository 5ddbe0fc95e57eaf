"""This node among the others: its key with a lease, which reports what it runs, and the reports of all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredLock

from ktcpvs.cluster.etcd import Change, Etcd, EtcdError, KeyValue, delete, is_unchanged, put
from ktcpvs.cluster.records import MEMBERS, NODES, BadRecord, NodeReport, decode_report, encode_format, encode_report
from ktcpvs.errors import shorten
from ktcpvs.model.nodes import NAME
from ktcpvs.system.processes import has_ended, identity

LEASE_SECONDS = 10
"""The seconds after which a node that has died counts as gone."""

JOIN_ATTEMPTS = 3
"""The number of times that a node tries to join when its key changes meanwhile."""


class NameTaken(Exception):
    """Another process is the node of this name; str() says so in one line."""


class Membership:
    """The nodes of a cluster. name: of this node. reports: of the nodes that are alive, by name. members: all that have
    ever joined. unreadable: of the nodes whose report this version cannot read, by name."""

    def __init__(self, etcd: Etcd, prefix: str, name: str) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._lease = 0
        self._has_left = False
        self._revision = 0  # at which this node has last written its key
        self._seen = 0  # at which its key, as it is known, has last changed; 0: there is none
        self._process = identity(os.getpid())
        self._lock = DeferredLock()  # two reports at a time would take each other for another process
        self.name = name
        self.reports: dict[str, NodeReport] = {}
        self.unreadable: dict[str, str] = {}
        self.members: set[str] = set()

    @property
    def _key(self) -> str:
        return f"{self._prefix}{NODES}{self.name}"

    # What etcd says.

    def replace(self, revision: int, pairs: Iterable[KeyValue]) -> None:
        """See Follower."""
        self.reports, self.unreadable, self.members, self._seen = {}, {}, set(), 0
        for pair in pairs:
            self._change(pair.key, pair.value, pair.mod_revision)

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """See Follower."""
        for change in changes:
            self._change(change.key, change.value, change.mod_revision)

    def _change(self, key: str, value: bytes | None, revision: int) -> None:
        key = key.removeprefix(self._prefix)
        kind, _, name = key.partition("/")
        if f"{kind}/" not in (MEMBERS, NODES):
            return
        if not NAME.fullmatch(name):
            name = shorten(name)
            self.unreadable.pop(name, None)
            if value is not None:
                self.unreadable[name] = f"{self._prefix}{kind}/{name}: this is no name of a node"
        elif key.startswith(MEMBERS):
            self.members.discard(name) if value is None else self.members.add(name)
        else:
            if name == self.name:
                self._seen = revision if value is not None else 0
            self.reports.pop(name, None)
            self.unreadable.pop(name, None)
            if value is not None:
                try:
                    self.reports[name] = decode_report(value)
                except BadRecord as bad:
                    self.unreadable[name] = str(bad)

    async def joined(self) -> None:
        """See Follower."""

    # This node.

    @property
    def lease(self) -> int:
        """The lease under which this node's keys are; 0: it has none at the moment."""
        return self._lease

    async def join(self, report: NodeReport) -> None:
        """Become the node of this name. Raises NameTaken and EtcdError."""
        await self._lock.run(lambda: Deferred.fromCoroutine(self._join(report)))

    async def report(self, report: NodeReport) -> None:
        """Renew the lease, and report. Raises NameTaken if the lease has ended and another node has the name, and
        EtcdError."""
        await self._lock.run(lambda: Deferred.fromCoroutine(self._report(report)))

    async def _join(self, report: NodeReport) -> None:
        report = evolve(report, process=self._process)
        for _ in range(JOIN_ATTEMPTS):
            self._check_name(report.instance)
            lease = await self._etcd.grant(LEASE_SECONDS)
            if self._has_left:  # meanwhile
                return
            operations = [
                put(self._key, encode_report(report), lease),
                put(f"{self._prefix}{MEMBERS}{self.name}", encode_format()),
            ]
            has_joined, revision = await self._etcd.transact([is_unchanged(self._key, self._seen)], operations)
            if has_joined:
                self._lease, self._revision = lease, revision
                return
            with suppress(EtcdError):  # the lease ends by itself
                await self._etcd.revoke(lease)
            await self._read_key()
        raise EtcdError(f"{self._key} changes all the time")

    def _check_name(self, instance: str) -> None:
        """Raise NameTaken if another process is the node of this name, unless it is known to have ended: it ran on this
        machine, and its lease still lasts for a moment."""
        if self.name in self.unreadable:
            raise NameTaken(
                f"{self._key} cannot be read: {self.unreadable[self.name]}; give this node another --node, or delete "
                "that key if no node of this name runs"
            )
        known = self.reports.get(self.name)
        if known is not None and known.instance != instance and not has_ended(known.process):
            raise NameTaken(
                f"a node named {self.name} is in the cluster already: give this one another --node; if that one has "
                f"died, its name is free after {LEASE_SECONDS} seconds"
            )

    async def _read_key(self) -> None:
        """Read this node's key, which is not as the watch has reported it. Raises EtcdError."""
        self.reports.pop(self.name, None)
        self.unreadable.pop(self.name, None)
        self._seen = 0
        for pair in (await self._etcd.range(self._key))[1]:
            if pair.key == self._key:
                self._change(pair.key, pair.value, pair.mod_revision)

    async def _report(self, report: NodeReport) -> None:
        report = evolve(report, process=self._process)
        if not self._lease or not await self._etcd.keep_alive(self._lease):
            self._lease = 0
            await self._join(report)
            return
        if self._has_left:  # meanwhile
            return
        is_ours, revision = await self._etcd.transact(
            [is_unchanged(self._key, self._revision)], [put(self._key, encode_report(report), self._lease)]
        )
        if not is_ours:  # it was deleted, or another process has written it
            self._lease = 0
            await self._join(report)
            return
        self._revision = revision

    async def leave(self) -> None:
        """Give the name free. Raises EtcdError."""
        self._has_left = True
        lease, self._lease = self._lease, 0
        if lease:
            await self._etcd.revoke(lease)

    def hand_over(self) -> None:
        """Another process is this node from now on. Its key goes on; the former lease ends by itself."""
        self._has_left, self._lease = True, 0

    async def forget(self, name: str, also: Iterable[dict[str, Any]] = ()) -> bool:
        """Forget a node that is gone, and carry out other operations. Return False if it is alive: then nothing has
        changed. Raises EtcdError."""
        is_gone = is_unchanged(f"{self._prefix}{NODES}{name}", 0)
        is_done, _ = await self._etcd.transact([is_gone], [delete(f"{self._prefix}{MEMBERS}{name}"), *also])
        return is_done
