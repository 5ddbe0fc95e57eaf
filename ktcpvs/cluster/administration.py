"""All that a node offers its administrators about the nodes of its cluster: views, and edits of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.draining import NodeDrains
from ktcpvs.cluster.node_edits import NodeEdit, NodeEdits
from ktcpvs.cluster.node_rebalancing import NodeRebalancing, OwnRebalance
from ktcpvs.cluster.node_views import NodeViews, OwnView
from ktcpvs.cluster.requests import Requests
from ktcpvs.director.director import Director
from ktcpvs.system.log import EventLog


class ClusterAdministration:
    """Makes the parts, and lets them follow the cluster's keys. requests: of nodes to each other."""

    def __init__(
        self, cluster: Cluster, own: OwnView, own_rebalance: OwnRebalance, reactor: Any, log: EventLog
    ) -> None:
        """own, own_rebalance: of this node's switch."""
        self._cluster = cluster
        prefix, name = cluster.store.prefix, cluster.membership.name
        self.requests = requests = Requests(cluster.etcd, prefix, name, reactor, log)
        self._drains = NodeDrains(prefix, name, self._report)
        self._views = NodeViews(cluster, requests, self._drains, own)
        self._rebalancing = NodeRebalancing(cluster, requests, own_rebalance)
        self._edits = NodeEdits(cluster, self._drains)
        cluster.followers += [requests, self._drains]
        cluster.drain_state = lambda: self._drains.state

    async def start(self, director: Director) -> None:
        """Let this node join the cluster. Returns when it follows, or knows that etcd does not respond."""
        self._drains.start(director)
        await self._cluster.start(director)

    async def _report(self) -> None:
        if self._cluster.is_connected:
            await self._cluster.report_now()

    def view(self, name: str, ident: str | None) -> Any:
        """See NodeViews.view."""
        return self._views.view(name, ident)

    def rebalance(self, ident: str, percent: int, resets: bool) -> Deferred[dict[str, Any]]:
        """See NodeRebalancing.rebalance."""
        return Deferred.fromCoroutine(self._rebalancing.rebalance(ident, percent, resets))

    async def carry_out(self, edit: NodeEdit) -> Sequence[str]:
        """See NodeEdits.carry_out."""
        return await self._edits.carry_out(edit)

    def why_not_ready(self) -> str:
        """See NodeDrains.why_not_ready."""
        return self._drains.why_not_ready()
