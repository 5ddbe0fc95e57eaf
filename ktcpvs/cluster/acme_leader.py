"""The node of a cluster that orders certificates: it holds a key under its lease, and another one takes its place when
the lease has ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.etcd import Change, EtcdError, KeyValue, delete, is_unchanged, put
from ktcpvs.cluster.membership import LEASE_SECONDS
from ktcpvs.cluster.records import ACME_LEADER, FORMAT, NODES
from ktcpvs.errors import shorten
from ktcpvs.system.log import ANNOUNCE

MARGIN = 2.0
"""Seconds before the end of its lease at which a node does not count itself as the leader any more."""


REST_SECONDS = 60.0
"""Seconds for which a node that has resigned leaves its place to others. If none of them takes it, it does again."""


@frozen
class _Leader:
    """The node that orders certificates, as its key in etcd says. node: its name. instance: of its daemon; a daemon
    that takes over is the same one. revision: of the key."""

    node: str
    instance: str
    revision: int


class ACMELeader:
    """Provides Leadership and Follower. leader: the name of the node that orders certificates; "": none does.

    A node without a --cluster-secret does not become the leader, since it could not tell the others what it obtains.
    """

    def __init__(self, cluster: Cluster, reactor: Any, log: Any, is_wanted: Callable[[], bool]) -> None:
        """is_wanted: returns whether a service wants a certificate of ACME; without one there is no leader."""
        self._cluster = cluster
        self._reactor = reactor
        self._log = log
        self._is_wanted = is_wanted
        self.key = f"{cluster.store.prefix}{ACME_LEADER}"
        self._own_report = f"{cluster.store.prefix}{NODES}{cluster.membership.name}"
        self._leader: _Leader | None = None
        self._known_at = 0  # the revision at which the key is known
        self._renewed_at = 0.0  # when this node's lease was renewed, on the reactor's clock, at the latest known
        self._is_running_for = False  # a transaction is in progress
        self._rests_until = 0.0  # on the reactor's clock
        self._was_leader = False
        self._observers: list[Callable[[], object]] = []

    @property
    def leader(self) -> str:
        return self._leader.node if self._leader is not None else ""

    @property
    def revision(self) -> int:
        """The revision of the key that names the leader. While that is unchanged in etcd, the leader is the same."""
        return self._leader.revision if self._leader is not None else 0

    @property
    def is_leader(self) -> bool:
        """See Leadership. Each report of this node renews its lease, and comes back on the watch. A process that was
        stopped for a while, and whose lease has ended meanwhile, has not seen one for too long."""
        cluster = self._cluster
        is_renewed = self._reactor.seconds() - self._renewed_at < LEASE_SECONDS - MARGIN
        return cluster.is_connected and not cluster.has_left and self._is_ours and is_renewed

    @property
    def _is_ours(self) -> bool:
        return self._leader is not None and self._leader.instance == self._cluster.instance

    def observe(self, changed: Callable[[], object]) -> None:
        """See Leadership."""
        self._observers.append(changed)

    async def resign(self) -> None:
        """See Leadership."""
        members = self._cluster.membership
        if not self.is_leader or not members.reports.keys() - {members.name}:
            return
        self._rests_until = self._reactor.seconds() + REST_SECONDS
        with suppress(EtcdError):
            await self._cluster.etcd.transact([is_unchanged(self.key, self.revision)], [delete(self.key)])

    # What etcd says.

    def replace(self, revision: int, pairs: Iterable[KeyValue]) -> None:
        """See Follower."""
        self._leader, self._known_at = None, 0
        for pair in pairs:
            if pair.key == self.key:
                self._take(pair.value, pair.mod_revision)
        self._known_at = revision

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """See Follower."""
        for change in changes:
            if change.key == self.key:
                self._take(change.value, change.mod_revision)
                self._look()
            elif change.key == self._own_report and change.value is not None:
                self._renewed_at = self._reactor.seconds()
                self._look()

    async def joined(self) -> None:
        """See Follower. A key of the daemon before, or under a former lease, ends soon: it gets the new lease."""
        self._renewed_at = self._reactor.seconds()
        if self._leader is None or self._is_ours:
            await self._run_for()
        self._look()

    def _take(self, value: bytes | None, revision: int) -> None:
        if revision <= self._known_at:
            return
        self._known_at = revision
        if value is None:
            self._leader = None
            return
        try:
            found = json.loads(value)
            self._leader = _Leader(shorten(str(found["node"]), 63), str(found["instance"]), revision)
        except (ValueError, KeyError, TypeError, RecursionError):
            self._leader = _Leader("?", "", revision)  # somebody else's: it is not this node

    # This node.

    def _look(self) -> None:
        """Tell observers of a change, and become the leader if there is none."""
        is_leader = self.is_leader
        if is_leader != self._was_leader:
            self._was_leader = is_leader
            if is_leader:
                name = self._cluster.membership.name
                self._log.event(ANNOUNCE, "cluster: this node, {name}, orders certificates", name=name)
            for changed in self._observers:
                changed()
        if self._leader is None and self._may_run_for:
            running = Deferred.fromCoroutine(self._run_for_quietly())
            running.addErrback(lambda why: self._log.failure("internal error: who orders certificates", why))

    async def _run_for_quietly(self) -> None:
        try:
            await self._run_for()
        except EtcdError:
            return  # the next report of this node is the next occasion
        if self._is_ours:
            self._look()

    @property
    def _may_run_for(self) -> bool:
        cluster = self._cluster
        can_store = cluster.is_connected and not cluster.has_left and cluster.sealer is not None
        is_free = not self._is_running_for and self._reactor.seconds() >= self._rests_until
        return can_store and is_free and cluster.membership.lease != 0 and self._is_wanted()

    async def _run_for(self) -> None:
        """Become the leader, or go on to be it under the lease that this node has now, unless another node is faster.
        Raises EtcdError."""
        if not self._may_run_for:
            return
        cluster, lease = self._cluster, self._cluster.membership.lease
        self._is_running_for = True
        try:
            record = {"format": FORMAT, "node": cluster.membership.name, "instance": cluster.instance}
            value = json.dumps(record).encode()
            compare = is_unchanged(self.key, self.revision)
            is_ours, revision = await cluster.etcd.transact([compare], [put(self.key, value, lease)])
        finally:
            self._is_running_for = False
        if is_ours:
            self._take(value, revision)
