"""Has all nodes of a cluster answer the challenges of ACME that one of them publishes.

That node puts a sealed value at `challenges/ID` for each, and asks the other nodes whether they answer it. A CA may
reach any node, so the order goes on only then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.etcd import Change, EtcdError, KeyValue, delete, put
from ktcpvs.cluster.records import CHALLENGES, BadRecord, decode_sealed, encode_sealed
from ktcpvs.cluster.requests import Requests
from ktcpvs.cluster.sealing import CannotOpen
from ktcpvs.director.challenges import MAX_CHALLENGES, MAX_PENDING_TIME, NodeChallenges
from ktcpvs.errors import NoCluster
from ktcpvs.model.challenges import Challenge

CONFIRM_TIMEOUT = 5.0
"""Seconds for which the order of a certificate waits for the other nodes to answer its challenges. It goes on without
those that do not say so by then: such a node has most likely just died."""

CONFIRM = "acme-challenges"
"""The name of the request to other nodes."""

MAX_STORED_BYTES = 8192
"""The most bytes of a stored challenge; a longer one is not read."""

OPERATIONS_AT_ONCE = 64
"""The most operations of one transaction; etcd accepts 128."""


class ClusterChallenges:
    """Provides ChallengePublisher and Follower."""

    def __init__(self, cluster: Cluster, node: NodeChallenges, requests: Requests, reactor: Any, log: Any) -> None:
        """node: has the processes of this node answer."""
        self._cluster = cluster
        self._reactor = reactor
        self._node = node
        self._requests = requests
        self._log = log
        self._prefix = f"{cluster.store.prefix}{CHALLENGES}"
        self._known: dict[str, Challenge] = {}  # by key
        self._published: dict[int, set[str]] = {}  # lease -> keys
        requests.offer(CONFIRM, self._confirm)

    # This node orders a certificate.

    async def publish(self, challenges: Sequence[Challenge]) -> None:
        """See ChallengePublisher. Raises NoCluster if etcd does not respond, and what NodeChallenges raises."""
        try:
            await self._node.publish(challenges)
            await self._tell_nodes({self._key(one): one for one in challenges})
        except BaseException:
            await self.withdraw(challenges)
            raise

    async def _tell_nodes(self, challenges: Mapping[str, Challenge]) -> None:
        cluster, sealer = self._cluster, self._cluster.sealer
        if not cluster.is_connected:
            raise NoCluster(f"other nodes cannot be told of challenges: {cluster.problem}")
        if sealer is None:
            raise NoCluster("other nodes cannot be told of challenges: this node has no --cluster-secret")
        try:
            lease = await cluster.etcd.grant(MAX_PENDING_TIME)
            self._published[lease] = set(challenges)
            for some in _parts(list(challenges.items())):
                values = ((key, sealer.seal(key, json.dumps(asdict(one)).encode())) for key, one in some)
                await cluster.etcd.transact([], [put(key, encode_sealed(value), lease) for key, value in values])
        except EtcdError as error:
            raise NoCluster(f"other nodes cannot be told of challenges: {error}") from None
        others = cluster.membership.reports.keys() - {cluster.membership.name}
        answers = await self._requests.ask(CONFIRM, {"keys": sorted(challenges)}, others, CONFIRM_TIMEOUT)
        unable = {node: "cannot read them" for node, has_all in answers.values.items() if has_all is not True}
        for node, why in {**answers.missing, **unable}.items():
            self._log.warn(
                "cluster: node {node} may not answer the challenges of ACME: it {why}; the order goes on without it",
                node=node, why=why,
            )  # fmt: skip

    async def withdraw(self, challenges: Sequence[Challenge]) -> None:
        """See ChallengePublisher."""
        await self._node.withdraw(challenges)
        gone = {self._key(one) for one in challenges}
        for lease, keys in list(self._published.items()):
            found = keys & gone
            keys -= found
            with suppress(EtcdError):  # the lease ends by itself
                if not keys:
                    del self._published[lease]
                    await self._cluster.etcd.revoke(lease)
                    continue
                for some in _parts(sorted(found)):
                    await self._cluster.etcd.transact([], [delete(key) for key in some])

    def _key(self, challenge: Challenge) -> str:
        text = "\0".join((challenge.kind, challenge.name, challenge.token))
        return f"{self._prefix}{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    # Another node does.

    def replace(self, revision: int, pairs: Iterable[KeyValue]) -> None:
        """See Follower."""
        self._known = {}
        for pair in pairs:
            if pair.key.startswith(self._prefix):
                self._take(pair.key, pair.value)

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """See Follower."""
        found = [change for change in changes if change.key.startswith(self._prefix)]
        for change in found:
            self._take(change.key, change.value)
        if found:
            failed = lambda why: self._log.failure("internal error: challenges of ACME", why)  # noqa: E731
            Deferred.fromCoroutine(self._node.share(self._known.values())).addErrback(failed)

    async def joined(self) -> None:
        """See Follower."""
        await self._node.share(self._known.values())

    def _take(self, key: str, value: bytes | None) -> None:
        self._known.pop(key, None)
        if value is None:
            return
        try:
            challenge = self._open(key, value)
        except (BadRecord, CannotOpen) as why:
            self._log.fault(f"cluster: a challenge of ACME cannot be read: {why}")
            return
        if len(self._known) < MAX_CHALLENGES:
            self._known[key] = challenge

    def _open(self, key: str, value: bytes) -> Challenge:
        """Raises BadRecord and CannotOpen."""
        if len(value) > MAX_STORED_BYTES:
            raise BadRecord(f"it has {len(value)} bytes; expected at most {MAX_STORED_BYTES}")
        if self._cluster.sealer is None:
            raise CannotOpen("this node has no --cluster-secret")
        try:
            found = json.loads(self._cluster.sealer.open(key, decode_sealed(value)))
            words = [str(found[name]) for name in ("kind", "name", "token", "key_authorization")]
        except (ValueError, KeyError, TypeError):
            raise BadRecord("this version cannot read it") from None
        return Challenge(*words)

    async def _confirm(self, arguments: Mapping[str, Any]) -> bool:
        """Answer another node once each process of this one answers what it has been told until now. Returns whether
        that is all of these. The keys were stored before the request. So this node knows them in the next turn: the
        watch may bring both at once, and another follower has told of the request."""
        await deferLater(self._reactor, 0)
        known = self._known
        await self._node.share(known.values())
        asked: Collection[object] = arguments.get("keys", ())
        return isinstance(asked, list) and all(key in known for key in asked)


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), OPERATIONS_AT_ONCE):
        yield items[start : start + OPERATIONS_AT_ONCE]
