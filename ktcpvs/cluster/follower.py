"""Those who follow some of the cluster's keys: the table, the members, and whatever else nodes tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ktcpvs.cluster.etcd import Change, KeyValue


class Follower(Protocol):
    """Follows keys below the cluster's prefix. It is told all of them, and uses those that it knows."""

    def replace(self, revision: int, pairs: Sequence[KeyValue]) -> None:
        """Forget what is known, and use all keys, as they are at `revision`: the node has (re)joined the cluster."""

    def apply(self, revision: int, changes: Sequence[Change]) -> None:
        """Use changes. revision: up to which the watch has reported all; 0: this node has just stored them."""

    async def joined(self) -> None:
        """This node is a member now, under a new lease, and may write keys of its own. Raises EtcdError."""
