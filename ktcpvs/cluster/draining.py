"""Draining of whole nodes: which of them an administrator has drained, and what this one does about it.

The key `drains/NAME` is there until the node is undrained, so a node that is restarted goes on being drained. A drained
node is not ready (`/ready` of its status server); after the delay it stops accepting, and its clients drain.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from ktcpvs.cluster.etcd import Change, KeyValue
from ktcpvs.cluster.own_deletions import OwnDeletions
from ktcpvs.cluster.records import DRAINS, BadRecord, Drain, DrainState, decode_drain
from ktcpvs.director.director import Director
from ktcpvs.model.withdrawal import Withdrawal
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.periodic import PeriodicJob

LEAVING, DRAINING, DRAINED = "leaving", "draining", "drained"
"""The states of a node that is drained: it still accepts; it accepts no more, and has clients; it has none."""

RETRY_INTERVAL = 15.0
"""Seconds until a node tries again to accept clients, or to stop, after it could not."""


@frozen
class KnownDrain:
    """The drain of a node, as its key in etcd says. created, revision: those at which its key was made and last
    changed. A node that is drained again keeps its key."""

    drain: Drain
    created: int
    revision: int


class NodeDrains:
    """The drains of the nodes of a cluster. drains: of all nodes that are drained, by name. Provides Follower."""

    def __init__(self, prefix: str, node: str, report: Callable[[], Awaitable[None]]) -> None:
        """node: the name of this one. report: tells the others what this node does."""
        self.drains: dict[str, KnownDrain] = {}
        self._prefix = prefix
        self._node = node
        self._report = report
        self._heard = 0  # revision of the last drain that etcd has reported, or its end
        self._deleted = OwnDeletions()  # drains, by node
        self._director: Director | None = None
        self._job: PeriodicJob | None = None
        self._errors: tuple[str, ...] = ()

    def start(self, director: Director) -> None:
        """Follow the drain of this node from now on. To be called before the node joins."""
        self._director = director
        failed = director.context.log.failure
        self._job = PeriodicJob(director.context.reactor, self._follow, lambda why: failed("draining failed", why))

    def stop(self) -> None:
        if self._job is not None:
            self._job.stop()

    # State.

    @property
    def state(self) -> DrainState:
        """This node reports it: drained, or not."""
        known, director = self.drains.get(self._node), self._director
        revision = known.revision if known is not None else 0
        if director is not None and director.withdrawals.current.is_whole:
            return DrainState(DRAINING if director.count_clients() else DRAINED, revision, self._errors)
        return DrainState(LEAVING if known is not None else "", revision, self._errors)

    def why_not_ready(self) -> str:
        """Return why this node should get no clients; "": it should."""
        return self.state.state

    def state_of(self, node: str, reported: str, revision: int) -> str:
        """Return the state of a node's drain; "": it is not drained. reported, revision: `state`, as it has reported
        it. A report of before its key was made says nothing of it."""
        known = self.drains.get(node)
        if known is None:  # it may still have to accept clients again
            return reported
        return reported if reported and revision >= known.created else LEAVING

    # What etcd says.

    def replace(self, revision: int, pairs: Iterable[KeyValue]) -> None:
        """See Follower."""
        self.drains, self._heard = {}, revision
        self._deleted.clear()
        for pair in pairs:
            self._change(pair.key, pair.value, pair.create_revision, pair.mod_revision)
        self._follow_soon()

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """See Follower."""
        before = self.drains.get(self._node)
        for change in changes:
            self._change(change.key, change.value, change.create_revision, change.mod_revision)
        if self.drains.get(self._node) != before:
            self._follow_soon()

    def stored(self, node: str, drain: Drain | None, revision: int) -> None:
        """This node has stored the drain of a node, or deleted it. If the watch has not reported it yet, whoever asks
        this node next is told of it."""
        if revision <= self._heard:  # and later changes may have been reported too
            return
        known = self.drains.pop(node, None)
        if drain is not None:
            self.drains[node] = KnownDrain(drain, known.created if known is not None else revision, revision)
        else:
            self._deleted.add(node, revision)
        if node == self._node:
            self._follow_soon()

    async def joined(self) -> None:
        """See Follower."""

    def _change(self, key: str, value: bytes | None, created: int, revision: int) -> None:
        key = key.removeprefix(self._prefix)
        if not key.startswith(DRAINS):
            return
        node = key.removeprefix(DRAINS)
        self._heard = max(self._heard, revision)
        known = self.drains.get(node)
        if self._deleted.hide(node, revision) or (known is not None and revision < known.revision):
            return
        self.drains.pop(node, None)
        if value is None:
            return
        try:
            self.drains[node] = KnownDrain(decode_drain(value), created, revision)
        except BadRecord as bad:
            assert self._director is not None
            self._director.context.log.warn("cluster: the drain of node {node}: {bad}", node=node, bad=bad)

    # This node.

    def _follow_soon(self) -> None:
        assert self._job is not None
        self._job.start(0)

    def _follow(self) -> Deferred[float | None]:
        return Deferred.fromCoroutine(self._follow_now())

    async def _follow_now(self) -> float | None:
        """Stop accepting, or accept again. Return the seconds until that must be tried again; None: it is done."""
        director = self._director
        assert director is not None
        known = self.drains.get(self._node)
        if known is not None and not director.withdrawals.current.is_whole and (left := _seconds_left(known.drain)) > 0:
            await self._report()
            return left
        while director.withdrawals.current != Withdrawal(is_whole=self._node in self.drains) and not director.is_ending:
            is_drained = self._node in self.drains
            errors = tuple(await director.withdrawals.withdraw(is_drained))
            has_changed, self._errors = errors != self._errors, errors
            if errors:
                for error in errors if has_changed else ():
                    director.context.log.warn("this node does not accept clients again: {error}", error=error)
                await self._report()
                return RETRY_INTERVAL
            if director.withdrawals.current != Withdrawal(is_whole=is_drained):  # another daemon takes over
                return None
            form = "this node is drained: it accepts no clients" if is_drained else "this node accepts clients again"
            director.context.log.event(ANNOUNCE, form)
        self._errors = ()
        await self._report()
        return None


def _seconds_left(drain: Drain) -> float:
    """Return the rest of the delay. Where the clocks of two nodes differ, it is at most the whole delay."""
    return max(0.0, min(float(drain.delay), drain.since + drain.delay - time.time()))


def describe_state(state: str, drain: str) -> dict[str, Any]:
    """Return the fields of a node's row. state: of its table. A drain hides only the state "ok"."""
    return {"state": drain if drain and state == "ok" else state, "drain": drain}
