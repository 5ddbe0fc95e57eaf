"""Results of health checks that the nodes of a cluster share, for services with `check_by = quorum`.

Each node has the key `health/NODE` under its lease, with the results of its own checks. It writes the key when a result
has changed, and only while a service wants it. While etcd does not respond, the node decides alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.etcd import Change, EtcdError, KeyValue, delete, put
from ktcpvs.cluster.records import FORMAT, BadRecord
from ktcpvs.director.director import Director
from ktcpvs.errors import shorten
from ktcpvs.model.check import OFF
from ktcpvs.model.quorum import NO_RESULTS, QUORUM, Quorum, Results
from ktcpvs.model.table import Table
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.periodic import PeriodicJob

HEALTH = "health/"
"""The prefix of the keys, below that of the cluster."""

WRITE_INTERVAL = 0.5
"""Seconds between two writes of this node, and between two looks whether etcd still responds."""

MAX_REASON = 120
"""The most characters of the reason why a server is down."""

MAX_BYTES = 1_000_000
"""The longest value that a node writes. Without room, reasons are left out first, then the last servers."""

DISTRUSTED = "sees every server down; trusts the others"
"""`tcpvsadm --nodes` says it of a node whose results do not count."""


class SharedHealth:
    """Shares the results of this node's checks, and follows those of the others. Provides Follower."""

    def __init__(self, cluster: Cluster, director: Director) -> None:
        self._cluster = cluster
        self._director = director
        self._prefix = f"{cluster.store.prefix}{HEALTH}"
        self.quorum = Quorum(cluster.membership.name)
        self.quorum.changed = self._changed
        self.quorum.own_changed = self._own_changed
        self._is_distrusted = False
        self._is_dirty = False  # a result of this node is not in etcd yet
        self._is_written = False  # this node's key may exist
        self._written: bytes | None = None  # what this node has written last; None: no key
        self._unreadable: dict[str, str] = {}
        self._table: Table | None = None  # for which results were dropped last
        context = director.context
        self._job = PeriodicJob(context.reactor, self._tick, lambda why: context.log.failure("sharing health", why))

    def start(self) -> None:
        """The reactor runs: share from now on."""
        self._job.start(WRITE_INTERVAL)

    def stop(self) -> None:
        """Share no more."""
        self._job.stop()

    def notes(self, node: str) -> Sequence[str]:
        """Return what `--nodes` says of a node's health checks, a line each."""
        unreadable = (
            [f"its health results cannot be read: {self._unreadable[node]}"] if node in self._unreadable else []
        )
        return [DISTRUSTED, *unreadable] if node in self.quorum.distrusted else unreadable

    # What etcd says.

    def replace(self, revision: int, pairs: Sequence[KeyValue]) -> None:
        """See Follower."""
        self.quorum.forget_others()
        self._unreadable = {}
        for pair in pairs:
            self._take(pair.key, pair.value)

    def apply(self, revision: int, changes: Sequence[Change]) -> None:
        """See Follower."""
        for change in changes:
            self._take(change.key, change.value)

    async def joined(self) -> None:
        """See Follower. The key of the former lease, if any, is gone."""
        self._is_dirty = True
        await self._write()
        self._director.checked_servers.decide(None)

    def _take(self, key: str, value: bytes | None) -> None:
        if not key.startswith(self._prefix):
            return
        node = key.removeprefix(self._prefix)
        if node == self.quorum.node:  # an earlier write may have arrived last
            self._is_dirty = self._is_dirty or value != self._written
            return
        results: Results = NO_RESULTS
        self._unreadable.pop(node, None)
        if value is not None:
            try:
                results = decode_results(value)
            except BadRecord as bad:
                self._unreadable[node] = str(bad)
                self._director.context.log.warn(
                    "cluster: the health results of node {node} do not count: {why}", node=shorten(node, 63), why=bad
                )
        self.quorum.set_other(node, results)

    # This node.

    @property
    def _is_wanted(self) -> bool:
        services = self._director.services.values()
        return any(one.config.check_by == QUORUM and one.config.check != OFF for one in services)

    def _changed(self, keys: Any) -> None:
        is_distrusted = self.quorum.node in self.quorum.distrusted
        if is_distrusted != self._is_distrusted:
            self._is_distrusted = is_distrusted
            if self._is_wanted:
                text = (
                    "cluster: every server is down for this node, and not for the others: it trusts their checks"
                    if is_distrusted
                    else "cluster: this node trusts its own checks again"
                )
                self._director.context.log.event(ANNOUNCE, text)
        self._director.checked_servers.decide(keys)

    def _own_changed(self) -> None:
        self._is_dirty = True

    def _tick(self) -> Deferred[float] | float:
        if not self._cluster.is_connected:
            self.quorum.forget_others()
            return WRITE_INTERVAL
        if self._director.expanded is not self._table:
            self._table = self._director.expanded
            self.quorum.keep_own(self._director.checked_servers.keys())
            self._is_dirty = self._is_dirty or self._is_wanted != self._is_written
        return Deferred.fromCoroutine(self._write_later()) if self._is_dirty else WRITE_INTERVAL

    async def _write_later(self) -> float:
        try:
            await self._write()
        except EtcdError:  # the report of this node, or its watch, fails too
            self._is_dirty = True
        return WRITE_INTERVAL

    async def _write(self) -> None:
        """Write this node's key, or delete it where no service wants it. Raises EtcdError."""
        lease = self._cluster.membership.lease
        key = f"{self._prefix}{self.quorum.node}"
        is_wanted = self._is_wanted
        if not lease or not (is_wanted or self._is_written):
            self._is_dirty = False
            return
        self._is_dirty, self._is_written = False, is_wanted
        self._written = encode_results(self.quorum.own) if is_wanted else None
        operation = delete(key) if self._written is None else put(key, self._written, lease)
        await self._cluster.etcd.transact([], [operation])


def encode_results(results: Results) -> bytes:
    """Return the value of a node's key."""
    whole = _encode(results, MAX_REASON)
    if len(whole) > MAX_BYTES:
        whole = _encode(results, 0)
    count = len(results)
    while len(whole) > MAX_BYTES:
        count = count * MAX_BYTES // len(whole) - 1
        whole = _encode(dict(list(results.items())[:count]), 0)
    return whole


def _encode(results: Results, longest: int) -> bytes:
    services: dict[str, dict[str, str | None]] = {}
    for (ident, address), why in results.items():
        services.setdefault(ident, {})[address] = None if why is None else shorten(why, longest) if longest else ""
    return json.dumps({"format": FORMAT, "services": services}, separators=(",", ":")).encode()


def decode_results(value: bytes) -> Results:
    """Return the results of another node. Raises BadRecord."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        raise BadRecord("they are not JSON") from None
    if not isinstance(found, Mapping) or type(found.get("format")) is not int:
        raise BadRecord("they are not a value of ktcpvs")
    if found["format"] > FORMAT:
        raise BadRecord(f"their format is {found['format']}; this version reads formats up to {FORMAT}")
    services = found.get("services")
    if not isinstance(services, Mapping) or not all(isinstance(one, Mapping) for one in services.values()):
        raise BadRecord("they have no services")
    results = {(ident, address): why for ident, one in services.items() for address, why in one.items()}
    for why in results.values():
        if why is not None and not isinstance(why, str):
            raise BadRecord("a reason is no text")
    return {key: None if why is None else shorten(why, MAX_REASON) for key, why in results.items()}


def share_health(cluster: Cluster, director: Director) -> SharedHealth:
    """Have a node share the results of its checks."""
    shared = SharedHealth(cluster, director)
    director.context.quorum = shared.quorum
    cluster.followers.append(shared)
    cluster.node_notes.append(shared.notes)
    director.context.reactor.callWhenRunning(shared.start)
    return shared
