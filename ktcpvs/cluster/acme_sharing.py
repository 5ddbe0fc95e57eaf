"""The parts of a cluster that the manager of certificates uses: who orders, the values that nodes share, and challenges
that all nodes answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from ktcpvs.cluster.acme_challenges import ClusterChallenges
from ktcpvs.cluster.acme_leader import ACMELeader
from ktcpvs.cluster.acme_values import ACMEValues
from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.requests import Requests
from ktcpvs.cluster.sealed_store import SealedStore
from ktcpvs.director.challenges import NodeChallenges
from ktcpvs.director.director import Director

ORDERS = "orders the certificates of ACME"
"""`tcpvsadm --nodes` says it of the leader."""


@frozen
class ACMESharing:
    """publisher, leadership, values: as the manager of certificates needs them."""

    publisher: ClusterChallenges
    leadership: ACMELeader
    values: ACMEValues


def share_acme(
    cluster: Cluster,
    director: Director,
    store: SealedStore,
    requests: Requests,
    challenges: NodeChallenges,
    is_wanted: Callable[[], bool],
) -> ACMESharing:
    """Let a node share with the others what it does with ACME. store: of the cluster's secrets, which follows already.
    challenges: of this node. is_wanted: as for ACMELeader."""
    log, reactor = director.context.log, director.context.reactor
    leader = ACMELeader(cluster, reactor, log, is_wanted)
    publisher = ClusterChallenges(cluster, challenges, requests, reactor, log)
    sharing = ACMESharing(publisher, leader, ACMEValues(store, leader))

    def notes(node: str) -> Sequence[str]:
        return [ORDERS] if node == leader.leader else []

    cluster.followers += [leader, sharing.publisher, sharing.values]
    cluster.node_notes.append(notes)
    return sharing
