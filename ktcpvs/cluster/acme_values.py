"""The account and the certificates of ACME that nodes share, among the sealed values of the cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ktcpvs.cluster.acme_leader import ACMELeader
from ktcpvs.cluster.etcd import Change, EtcdError, KeyValue, is_unchanged
from ktcpvs.cluster.sealed_store import SealedStore
from ktcpvs.errors import BadValue, NoCluster
from ktcpvs.model.acme_sharing import SharedValue

PREFIX = "acme:"
"""Begins the names of these values."""


class ACMEValues:
    """Provides SharedValues and Follower; comes behind the store among the followers. Only the leader stores values,
    which each transaction checks."""

    def __init__(self, store: SealedStore, leader: ACMELeader) -> None:
        self._store = store
        self._leader = leader
        self.is_complete = False
        self._observers: list[Callable[[], object]] = []

    # What the manager of certificates asks.

    def names(self) -> Sequence[str]:
        """See SharedValues."""
        return [name for name in self._store.names() if name.startswith(PREFIX)]

    def get(self, name: str) -> SharedValue | None:
        """See SharedValues."""
        found = self._store.get(_checked(name))
        return None if found is None else SharedValue(found.value, found.revision)

    async def put(self, name: str, value: bytes, revision: int) -> bool:
        """See SharedValues."""
        if not self._leader.is_leader:
            return False
        return await self._asked(self._store.put(_checked(name), value, revision, [self._is_leader_still()]))

    async def delete(self, name: str, revision: int) -> bool:
        """See SharedValues."""
        if not self._leader.is_leader:
            return False
        return await self._asked(self._store.delete(_checked(name), revision, [self._is_leader_still()]))

    def _is_leader_still(self) -> dict[str, Any]:
        return is_unchanged(self._leader.key, self._leader.revision)

    async def _asked(self, work: Awaitable[bool]) -> bool:
        try:
            return await work
        except EtcdError as error:
            raise NoCluster(f"what nodes share of ACME cannot be stored: {error}") from None

    def observe(self, changed: Callable[[], object]) -> None:
        """See SharedValues."""
        self._observers.append(changed)

    # What etcd says.

    def replace(self, revision: int, pairs: Sequence[KeyValue]) -> None:
        """See Follower. Nothing is used before this node has joined."""
        self.is_complete = False

    def apply(self, revision: int, changes: Sequence[Change]) -> None:
        """See Follower."""
        if self.is_complete and any(self._store.is_key_of(PREFIX, change.key) for change in changes):
            self._tell()

    async def joined(self) -> None:
        """See Follower."""
        self.is_complete = True
        self._tell()

    def _tell(self) -> None:
        for changed in self._observers:
            changed()


def _checked(name: str) -> str:
    if not name.startswith(PREFIX):
        raise BadValue(f"'{name}': expected a name that begins with {PREFIX}")
    return name
