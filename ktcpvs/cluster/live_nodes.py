"""The nodes that share limits: which of them are alive, without waves when one of them restarts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.etcd import Change, KeyValue
from ktcpvs.director.director import Director
from ktcpvs.errors import Refusal
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.periodic import PeriodicJob

JOIN_DELAY = 0.5
"""Seconds from when a node has joined until it gets its part of limits: several that start together are one change."""

LEAVE_DELAY = 2.0
"""Seconds from when a node has left until the others divide its part: one that restarts is back before."""

RETRY_DELAY = 5.0
"""Seconds until a change is tried again that could not be put in force."""

Live = frozenset[NodeIdentity]


class LiveNodes:
    """Tells the director which nodes are alive and not drained, so that it has this node's part of limits. Provides
    Follower.

    While etcd does not respond, the last known nodes count: the others go on too, most likely.
    """

    def __init__(self, cluster: Cluster, director: Director, here: NodeIdentity) -> None:
        """here: this node."""
        self._membership = cluster.membership
        self._director = director
        self._here = here
        self._is_known = False
        context = director.context
        self._job = PeriodicJob(context.reactor, self._use, self._failed, RETRY_DELAY)

    def replace(self, revision: int, pairs: Sequence[KeyValue]) -> None:
        """See Follower. A node that has been cut off comes back to a cluster from which others seem to have gone too:
        their leases have ended while etcd did not respond. They join again within a moment."""
        if self._is_known:
            self._schedule()

    def apply(self, revision: int, changes: Sequence[Change]) -> None:
        """See Follower. The membership has taken these changes before."""
        if self._is_known:
            self._schedule()

    async def joined(self) -> None:
        """See Follower."""
        if not self._is_known:
            self._is_known = True
            self._job.start()

    @property
    def _live(self) -> Live:
        reports = self._membership.reports
        names = [name for name, report in reports.items() if not report.drain and name != self._here.name]
        return frozenset([self._here, *(NodeIdentity(name, frozenset(reports[name].labels)) for name in names)])

    def _schedule(self) -> None:
        """Use the nodes that are alive, soon. Further changes meanwhile do not put it off; but a node that joins again
        makes it unnecessary."""
        live, used = self._live, self._director.shared_limits.live
        if live == used:
            self._job.stop()
        elif not self._job.is_scheduled:
            self._job.start(LEAVE_DELAY if used - live else JOIN_DELAY)

    def _use(self) -> Deferred[Any] | None:
        live = self._live
        if live == self._director.shared_limits.live:
            return None
        return Deferred.fromCoroutine(self._share(live))

    async def _share(self, live: Live) -> float | None:
        director = self._director
        try:
            await director.shared_limits.divide_among(live)
        except Refusal as refusal:
            director.context.log.warn("cluster: limits are not divided anew: {why}", why=refusal)
            return RETRY_DELAY
        if director.shared_limits.are_used:
            director.context.log.event(
                ANNOUNCE, "cluster: {n} nodes share the limits of services: {nodes}", n=len(live),
                nodes=", ".join(sorted(node.name for node in live)[:MAX_LOGGED_NODES]),
            )  # fmt: skip
        return JOIN_DELAY if self._live != live else None

    def _failed(self, why: Any) -> None:
        self._director.context.log.failure("internal error: limits are not divided anew", why)


MAX_LOGGED_NODES = 20
"""The most nodes that a line of the log names."""


def follow_live_nodes(cluster: Cluster, director: Director) -> LiveNodes:
    """Have the director divide limits among the nodes that are alive."""
    followed = LiveNodes(cluster, director, director.context.node)
    cluster.followers.append(followed)
    return followed
