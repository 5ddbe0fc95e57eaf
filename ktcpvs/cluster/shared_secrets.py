"""The secrets that all nodes of a cluster use: the one for cookies, and those of session tickets.

The first node stores its own ones, and the others take them. One node rotates the secrets of tickets: the one whose
transaction comes first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.etcd import Change, EtcdError, KeyValue
from ktcpvs.cluster.sealed_settings import SealedSettings
from ktcpvs.cluster.sealed_store import SealedStore, SealedValue
from ktcpvs.director.director import Director
from ktcpvs.errors import Refusal
from ktcpvs.runtime.context import KEY_BYTES
from ktcpvs.services.ticket_secrets import HOUR, SecretsRecord, TicketSecrets

COOKIES = "cookie-secret"
"""The secret for cookies, 32 bytes."""

TICKETS = "ticket-secrets"
"""The secrets of session tickets, as JSON."""


class SharedSecrets:
    """Has this node use the secrets of a SealedStore, and stores those that are missing there. It provides Follower,
    and comes behind the store among the followers. store: with whatever else it keeps."""

    def __init__(
        self,
        store: SealedStore,
        director: Director,
        tickets: TicketSecrets,
        save_key: Callable[[bytes], Awaitable[None]],
        is_member: Callable[[], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """save_key: writes the secret for cookies to this node's own disk. Raises CannotSave. is_member: returns
        whether this node may write to etcd. wall: seconds since 1970."""
        self.store = store
        self._director = director
        self._tickets = tickets
        self._save_key = save_key
        self._is_member = is_member
        self._wall = wall
        self._log = director.context.log
        self._used: dict[str, SealedValue] = {}
        self._told: Sequence[str] = ()
        self._is_joined = self._is_storing = False

    # What etcd says.

    def replace(self, revision: int, pairs: Sequence[KeyValue]) -> None:
        """See Follower. Nothing is used before this node has joined."""
        self._is_joined = False

    def apply(self, revision: int, changes: Sequence[Change]) -> None:
        """See Follower."""
        if self._is_joined:
            self._follow(is_new=True)

    async def joined(self) -> None:
        """See Follower."""
        self._is_joined = True
        self._follow(is_new=False)
        if self.store.is_usable:
            await self._store_missing()

    def _follow(self, is_new: bool) -> None:
        """Use what has changed. is_new: it was stored just now, and not at an unknown time before."""
        if self.store.problems != self._told:
            self._told = self.store.problems
            for problem in self._told:
                self._log.warn("cluster: {problem}; this node goes on with those that it has", problem=problem)
        for name, use in ((COOKIES, self._use_cookie_secret), (TICKETS, self._use_tickets)):
            value = self.store.get(name)
            if value is not None and value is not self._used.get(name):
                self._used[name] = value
                try:
                    use(value.value, is_new)
                except (ValueError, KeyError, TypeError, RecursionError):
                    self._log.warn("cluster: secret {name}: this version cannot read it", name=name)
        is_missing = not (self.store.has(COOKIES) and self.store.has(TICKETS))
        if is_new and is_missing and self.store.is_usable and not self._is_storing:  # somebody has deleted it
            self._run(self._store_missing())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(lambda why: self._log.failure("internal error: shared secrets", why))

    # The secret for cookies.

    def _use_cookie_secret(self, secret: bytes, is_new: bool) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError
        if secret != self._director.context.cookie_secret:
            self._run(self._adopt_cookie_secret(secret))

    async def _adopt_cookie_secret(self, secret: bytes) -> None:
        async def adopt() -> None:
            await self._director.cookie_secret.use(secret)
            if self._director.context.cookie_secret == secret:  # it does not, if another daemon has taken over
                await self._save_key(secret)

        try:
            await self._director.between_edits(adopt)
        except Refusal as refusal:
            self._log.warn("cluster: the shared secret for cookies: {refusal}", refusal=refusal)

    # The secrets of session tickets.

    def _use_tickets(self, data: bytes, is_new: bool) -> None:
        found = json.loads(data)
        record = SecretsRecord.read({**found, "age": 0 if is_new else self._age(found)})
        if record.current != self._tickets.current:
            self._tickets.adopt(record)

    def _age(self, found: Any) -> float:
        """Seconds since secrets were made, by the clocks of two nodes, which may differ. Those that are too old are
        just due, so that this node proposes others, and does not make its own."""
        rotation = self._director.context.settings.tls_ticket_rotation * HOUR
        return min(max(0.0, self._wall() - float(found["made"])), rotation)

    def _encoded_tickets(self, record: SecretsRecord) -> bytes:
        described = record.described()
        made = int(self._wall() - described.pop("age"))
        return json.dumps({**described, "made": made}).encode()

    def propose(self, due: SecretsRecord) -> None:
        """It is time for other secrets of tickets: have all nodes use `due`, unless another one is faster."""
        if self._is_joined and self._is_member():
            self._run(self._rotate(due))

    async def _rotate(self, due: SecretsRecord) -> None:
        known = self.store.get(TICKETS)
        if known is not None:
            await self._put(TICKETS, self._encoded_tickets(due), known.revision)

    # What is missing.

    async def _store_missing(self) -> None:
        """Store what no node has stored yet."""
        self._is_storing = True
        try:
            if not self.store.has(COOKIES):
                await self._put(COOKIES, self._director.context.cookie_secret, 0)
            if not self.store.has(TICKETS):
                await self._put(TICKETS, self._encoded_tickets(self._tickets.record()), 0)
        finally:
            self._is_storing = False

    async def _put(self, name: str, value: bytes, revision: int) -> None:
        try:
            await self.store.put(name, value, revision)
        except EtcdError:
            return  # the cluster notices it too; this node tries again when it has joined again
        self._follow(is_new=True)


def share_secrets(
    cluster: Cluster, director: Director, tickets: TicketSecrets, save_key: Callable[[bytes], Awaitable[None]]
) -> SharedSecrets:
    """Let this node share the secrets of its cluster, if it has a --cluster-secret; else it only says that there are
    some. save_key: as for SharedSecrets."""
    store = SealedStore(cluster.etcd, cluster.store.prefix, cluster.sealer, always=(COOKIES, TICKETS))
    shared = SharedSecrets(store, director, tickets, save_key, lambda: cluster.is_connected and not cluster.has_left)
    if store.is_usable:
        tickets.share(shared.propose)
    cluster.followers += [store, SealedSettings(cluster.etcd, cluster.store), shared]
    cluster.problems.append(lambda: store.problems)
    return shared
