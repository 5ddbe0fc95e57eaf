"""Seals the secret settings of the table again, after the secret of the cluster was exchanged."""

from __future__ import annotations

from collections.abc import Sequence

from ktcpvs.cluster.etcd import Change, Etcd, KeyValue
from ktcpvs.cluster.table_store import TableStore


class SealedSettings:
    """Checks that when this node joins. It provides Follower."""

    def __init__(self, etcd: Etcd, table: TableStore) -> None:
        self._etcd = etcd
        self._table = table

    def replace(self, revision: int, pairs: Sequence[KeyValue]) -> None:
        """See Follower."""

    def apply(self, revision: int, changes: Sequence[Change]) -> None:
        """See Follower."""

    async def joined(self) -> None:
        """See Follower. If the settings have changed since, the transaction does not hold, and nothing is lost."""
        transaction = self._table.resealing()
        for step in transaction.steps if transaction is not None else ():
            await self._etcd.transact(step.compares, step.operations)
