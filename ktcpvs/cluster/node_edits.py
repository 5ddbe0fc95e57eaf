"""Administrators drain nodes, undrain them, and forget those that are gone."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.draining import NodeDrains
from ktcpvs.cluster.etcd import EtcdError, delete, put
from ktcpvs.cluster.records import DRAINS, Drain, encode_drain
from ktcpvs.errors import BadValue, Busy, NoCluster, unknown
from ktcpvs.model.edits import DrainNode, ForgetNode, UndrainNode

NodeEdit = DrainNode | UndrainNode | ForgetNode


class NodeEdits:
    """Carries them out, on any node."""

    def __init__(self, cluster: Cluster, drains: NodeDrains) -> None:
        self._cluster = cluster
        self._drains = drains

    async def carry_out(self, edit: NodeEdit) -> Sequence[str]:
        """Carry `edit` out. Returns warnings, a line each. Raises a Refusal; then nothing has changed."""
        await self._cluster.wait_until_connected()
        try:
            if isinstance(edit, DrainNode):
                return await self._drain(edit)
            if isinstance(edit, UndrainNode):
                return await self._undrain(edit.node)
            await self._forget(edit.node)
            return ()
        except EtcdError as error:
            raise NoCluster(f"etcd did not carry it out, or it is not known whether it has: {error}") from None

    async def _drain(self, edit: DrainNode) -> Sequence[str]:
        node, members = edit.node, self._cluster.membership
        self._check_known(node)
        if not self._is_alive(node):
            raise Busy(
                f"node {node} is gone, so it has no clients; 'tcpvsadm --forget-node {node}' removes it from --nodes"
            )
        drain = Drain(edit.delay, int(time.time()), members.name)
        _, revision = await self._cluster.etcd.transact([], [put(self._key(node), encode_drain(drain))])
        self._drains.stored(node, drain, revision)
        others = members.reports.keys() - self._drains.drains.keys() - {node}
        return () if others else ["no other node accepts clients"]

    async def _undrain(self, node: str) -> Sequence[str]:
        self._check_known(node)
        is_drained = node in self._drains.drains
        _, revision = await self._cluster.etcd.transact([], [delete(self._key(node))])
        self._drains.stored(node, None, revision)
        return () if is_drained else [f"node {node} was not drained"]

    async def _forget(self, node: str) -> None:
        self._check_known(node)
        if self._is_alive(node) or not await self._cluster.membership.forget(node, [delete(self._key(node))]):
            raise Busy(f"node {node} is alive: end it first; then it is gone within 10 seconds")

    def _is_alive(self, node: str) -> bool:
        members = self._cluster.membership
        return node in members.reports or node in members.unreadable

    def _check_known(self, node: str) -> None:
        members = self._cluster.membership
        known = sorted({*members.members, *members.reports, *members.unreadable, *self._drains.drains})
        if node not in known:
            raise BadValue(f"no node {unknown(node, known)}")

    def _key(self, node: str) -> str:
        return f"{self._cluster.store.prefix}{DRAINS}{node}"
