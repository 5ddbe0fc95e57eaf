"""A node knows the others of its cluster, for warnings and checks about the nodes that services name."""

from __future__ import annotations

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.placement import KnownNodes


def known_nodes(cluster: Cluster, here: NodeIdentity) -> KnownNodes:
    """Return all members, and the labels of those that are alive. here: this node."""
    members = cluster.membership
    others: dict[str, NodeIdentity | None] = dict.fromkeys(sorted(members.members - {here.name}))
    for name, report in members.reports.items():
        if name != here.name:
            others[name] = NodeIdentity(name, frozenset(report.labels))
    return KnownNodes(here, others, is_alone=False, is_connected=cluster.is_connected)
