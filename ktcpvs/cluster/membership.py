"""This node among the others: its key with a lease, which reports what it runs, and the reports of all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ktcpvs.cluster.etcd import Change, Etcd, KeyValue, delete, is_unchanged, put
from ktcpvs.cluster.records import MEMBERS, NODES, BadRecord, NodeReport, decode_report, encode_format, encode_report

LEASE_SECONDS = 10
"""The seconds after which a node that has died counts as gone."""


class NameTaken(Exception):
    """Another process is the node of this name; str() says so in one line."""


class Membership:
    """name: of this node. reports: of the nodes that are alive, by name. members: all that have ever joined.
    unreadable: of the nodes whose report this version cannot read, by name."""

    def __init__(self, etcd: Etcd, prefix: str, name: str) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._lease = 0
        self._has_left = False
        self._revision = 0  # at which this node's key has last changed
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
        self.reports, self.unreadable, self.members = {}, {}, set()
        for pair in pairs:
            self._change(pair.key, pair.value)

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """See Follower."""
        for change in changes:
            self._change(change.key, change.value)

    def _change(self, key: str, value: bytes | None) -> None:
        key = key.removeprefix(self._prefix)
        if key.startswith(MEMBERS):
            name = key.removeprefix(MEMBERS)
            self.members.discard(name) if value is None else self.members.add(name)
        elif key.startswith(NODES):
            name = key.removeprefix(NODES)
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
        known = self.reports.get(self.name)
        if known is not None and known.instance != report.instance:
            raise NameTaken(
                f"a node named {self.name} is in the cluster already: give this one another --node; if that one has "
                f"died, its name is free after {LEASE_SECONDS} seconds"
            )
        lease = await self._etcd.grant(LEASE_SECONDS)
        name = put(f"{self._prefix}{MEMBERS}{self.name}", encode_format())
        compares: list[dict[str, Any]] = [is_unchanged(self._key, 0)] if known is None else []
        if self._has_left:
            return
        has_joined, revision = await self._etcd.transact(compares, [put(self._key, encode_report(report), lease), name])
        if not has_joined:
            await self._etcd.revoke(lease)
            raise NameTaken(f"another node named {self.name} has just joined the cluster")
        self._lease, self._revision = lease, revision

    async def report(self, report: NodeReport) -> None:
        """Renew the lease, and report. Raises NameTaken if the lease has ended and another node has the name, and
        EtcdError."""
        if not self._lease or not await self._etcd.keep_alive(self._lease):
            self._lease = 0
            await self.join(report)
            return
        if self._has_left:  # meanwhile
            return
        is_ours, revision = await self._etcd.transact(
            [is_unchanged(self._key, self._revision)], [put(self._key, encode_report(report), self._lease)]
        )
        if not is_ours:  # it was deleted, or another process has written it
            self._lease = 0
            await self.join(report)
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

    async def forget(self, name: str) -> None:
        """Forget a node that is gone. Raises EtcdError."""
        await self._etcd.transact([], [delete(f"{self._prefix}{MEMBERS}{name}")])
