"""Nodes with a real etcd: all use the same secrets for cookies and session tickets, and nobody else sees any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.harness import ControlThread
from memory import log_into
from servers import wait_for

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.editing import ClusterEdits
from ktcpvs.cluster.etcd import Etcd, delete
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.membership import LEASE_SECONDS
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.cluster.shared_secrets import COOKIES, TICKETS, share_secrets
from ktcpvs.director.director import Director
from ktcpvs.model.edits import Set
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.ticket_secrets import HOUR, SecretsRecord, TicketSecrets

SECRET, OTHER = b"s" * 32, b"o" * 32


class Node:
    """A node without listeners, in the reactor of `thread`. saved: the secrets for cookies that it wrote to its disk.
    used: the secrets of tickets that its processes were given. log: its lines."""

    def __init__(self, thread: ControlThread, address: EtcdAddress, name: str, *secrets: bytes) -> None:
        self.thread = thread
        self.log: list[str] = []
        self.saved: list[bytes] = []
        self.used: list[tuple[bytes, bytes | None]] = []
        thread.run(self._make, address, name, secrets)

    async def _make(self, address: EtcdAddress, name: str, secrets: tuple[bytes, ...]) -> None:
        async def save(table: Table) -> None:
            pass

        async def save_key(key: bytes) -> None:
            self.saved.append(key)

        reactor = self.thread.reactor
        self.context = Context(reactor, log_into(self.log), Descriptors(100))
        sealer = Sealer(secrets) if secrets else None
        self.cluster = Cluster(Etcd(reactor, address), address.prefix, name, sealer=sealer)
        self.edits = ClusterEdits(self.cluster, save)
        self.director = Director(self.context, self.edits.save)
        self.director.confirmation = self.edits.trial
        self.tickets = TicketSecrets(self.context, lambda *secrets: self.used.append(secrets))
        self.first = self.context.cookie_secret, self.tickets.current
        self.shared = share_secrets(self.cluster, self.director, self.tickets, save_key)

    def join(self) -> None:
        async def start() -> None:
            await self.cluster.start(self.director)

        self.thread.run(start)
        wait_for(lambda: self.cluster.is_connected, lambda: f"the node to follow: {self.log}", 3 * LEASE_SECONDS)

    def stop(self) -> None:
        self.thread.run(self.cluster.stop)

    def rotate(self) -> None:
        """Do what a node does when its secrets are old enough."""

        async def propose() -> None:
            self.shared.propose(SecretsRecord(bytes(range(32)), self.tickets.current, 0.0))

        self.thread.run(propose)

    @property
    def secrets(self) -> tuple[bytes, bytes, bytes | None]:
        return self.context.cookie_secret, self.tickets.current, self.tickets.previous

    def problems(self, of: str) -> list[str]:
        """What a node reports, as this one sees it."""
        report = self.cluster.membership.reports.get(of)
        return list(report.errors) if report is not None else []


@pytest.fixture
def make_node(thread: ControlThread, address: EtcdAddress) -> Iterator[Callable[..., Node]]:
    made = []

    def make(name: str, *secrets: bytes) -> Node:
        node = Node(thread, address, name, *secrets)
        made.append(node)
        node.join()
        return node

    yield make
    for node in made:
        node.stop()


def agree(*nodes: Node) -> bool:
    return len({node.secrets for node in nodes}) == 1


def test_a_node_takes_the_secrets_of_the_first_one(make_node: Callable[..., Node]) -> None:
    a, b = make_node("a", SECRET), make_node("b", SECRET)
    wait_for(lambda: agree(a, b), "both nodes to agree")
    assert (a.context.cookie_secret, a.tickets.current) == a.first
    assert not a.saved
    assert a.used == [(a.first[1], None)]
    wait_for(lambda: b.saved == [a.first[0]], "node b to save the secret")
    assert b.used == [(b.first[1], None), (a.first[1], None)]


def test_nothing_that_is_stored_can_be_read_without_the_secret(
    make_node: Callable[..., Node], thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    node = make_node("a", SECRET)
    node.rotate()
    wait_for(lambda: node.tickets.previous == node.first[1], "the rotation")
    pairs = thread.run(etcd.range, address.prefix)[1]
    names = {pair.key.removeprefix(address.prefix) for pair in pairs}
    assert {f"secrets/{COOKIES}", f"secrets/{TICKETS}"} <= names
    stored = b"".join(pair.value for pair in pairs)
    for secret in (*node.first, node.tickets.current):
        assert secret not in stored
        assert secret.hex().encode() not in stored


def test_one_rotation_reaches_all_nodes(make_node: Callable[..., Node]) -> None:
    a, b = make_node("a", SECRET), make_node("b", SECRET)
    wait_for(lambda: agree(a, b), "both nodes to agree")
    before = a.tickets.current
    b.rotate()
    wait_for(lambda: agree(a, b) and a.tickets.previous == before, "both nodes to use the new secret")
    assert a.tickets.record().age < 60


def test_of_two_rotations_at_the_same_time_one_counts(make_node: Callable[..., Node]) -> None:
    nodes = [make_node(name, SECRET) for name in "abc"]
    wait_for(lambda: agree(*nodes), "all nodes to agree")
    before = nodes[0].tickets.current
    nodes[0].thread.run(_propose, *nodes)
    wait_for(lambda: agree(*nodes) and nodes[0].tickets.current != before, "one rotation")
    assert nodes[0].tickets.previous == before
    assert all(len(node.used) == len(nodes[0].used) + (node is not nodes[0]) for node in nodes)


async def _propose(*nodes: Node) -> None:
    """Propose before any of them, which share a reactor, can hear of another one's proposal."""
    for node in nodes:
        node.shared.propose(SecretsRecord(node.cluster.membership.name.encode() * 32, node.tickets.current, 0.0))


def test_a_node_that_joins_later_knows_the_age_of_the_secrets(make_node: Callable[..., Node]) -> None:
    a = make_node("a", SECRET)
    old = SecretsRecord(b"1" * 32, b"2" * 32, 5.0 * HOUR)
    a.thread.run(_store, a, old)
    b = make_node("b", SECRET)
    wait_for(lambda: b.tickets.current == old.current, "node b to take the secrets")
    assert abs(b.tickets.record().age - 5.0 * HOUR) < 60
    a.thread.run(_store, a, SecretsRecord(b"3" * 32, b"2" * 32, 500.0 * HOUR))
    c = make_node("c", SECRET)
    wait_for(lambda: c.tickets.current == b"3" * 32, "node c to take the secrets")
    rotation = Settings().tls_ticket_rotation * HOUR
    assert rotation <= c.tickets.record().age < rotation + 60  # due, and not so old that it would rotate alone


async def _store(node: Node, record: SecretsRecord) -> None:
    store = node.shared.store
    known = store.get(TICKETS)
    assert known is not None
    assert await store.put(TICKETS, node.shared._encoded_tickets(record), known.revision)


def test_a_node_with_another_secret_is_named_and_goes_on(make_node: Callable[..., Node]) -> None:
    a, b, c = make_node("a", SECRET), make_node("b", OTHER), make_node("c")
    other = f"the cluster's secrets {COOKIES}, {TICKETS}: sealed with another --cluster-secret"
    none = "the cluster's secrets are sealed, and this node has no --cluster-secret"
    wait_for(lambda: a.problems("b") == [other], lambda: f"node b to be named: {a.cluster.membership.reports}")
    wait_for(lambda: a.problems("c") == [none], lambda: f"node c to be named: {a.cluster.membership.reports}")
    for node in (b, c):
        assert node.secrets == (*node.first, None)
        assert any("this node goes on with those that it has" in line for line in node.log)
    a.thread.run(_set, a)
    wait_for(lambda: b.director.table.settings.read_timeout == 77, "node b to follow everything else")
    b.rotate()
    a.rotate()
    wait_for(lambda: a.tickets.previous == a.first[1], "the rotation of node a")
    assert b.secrets == (*b.first, None)


async def _set(node: Node) -> Any:
    return await node.edits.submit(Set({"read_timeout": "77"}))


def test_secrets_that_are_deleted_are_stored_again(
    make_node: Callable[..., Node], thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    a, b = make_node("a", SECRET), make_node("b", SECRET)
    wait_for(lambda: agree(a, b), "both nodes to agree")
    before = a.secrets
    keys = [f"{address.prefix}secrets/{name}" for name in (COOKIES, TICKETS)]
    assert thread.run(etcd.transact, [], [delete(key) for key in keys])[0]

    def are_stored() -> bool:
        pairs = thread.run(etcd.range, f"{address.prefix}secrets/")[1]
        return [pair.key for pair in pairs] == keys

    wait_for(are_stored, "the secrets to be stored again")
    assert a.secrets == b.secrets == before


def test_the_secret_of_a_cluster_is_exchanged(make_node: Callable[..., Node]) -> None:
    a, b = make_node("a", OTHER, SECRET), make_node("b", SECRET)
    assert b.secrets == (*b.first, None)  # the first one sealed with what node b does not know
    a.stop()
    c = make_node("c", SECRET, OTHER)
    wait_for(lambda: agree(b, c) and b.tickets.current == a.first[1], "node c to seal for node b")
    assert b.context.cookie_secret == a.first[0]


def test_the_steps_of_an_exchange_disturb_nobody(make_node: Callable[..., Node]) -> None:
    nodes = {name: make_node(name, SECRET) for name in "ab"}
    wait_for(lambda: agree(*nodes.values()), "both nodes to agree")
    cookie_secret = nodes["a"].context.cookie_secret
    nodes["a"].thread.run(_set_key, nodes["a"])
    for number, secrets in enumerate(((SECRET, OTHER), (OTHER, SECRET), (OTHER,))):
        for name in "ab":
            nodes[name].stop()
            nodes[name] = make_node(f"{name}{number}", *secrets)
            wait_for(lambda: agree(*nodes.values()), "both nodes to agree")
            assert nodes[name].context.cookie_secret == cookie_secret
            assert nodes[name].director.table.settings.cookie_key == "not-for-everyone"
            for one in nodes.values():
                assert not [line for name in one.cluster.membership.reports for line in one.problems(name)]


async def _set_key(node: Node) -> Any:
    return await node.edits.submit(Set({"cookie_key": "not-for-everyone"}))


def test_a_cluster_whose_secret_is_lost_begins_anew(
    make_node: Callable[..., Node], thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    former = make_node("former", SECRET)
    former.stop()
    a, b = make_node("a", OTHER), make_node("b", OTHER)
    wait_for(lambda: a.problems("b") and b.problems("a"), "both nodes to be named")
    keys = [f"{address.prefix}secrets/{name}" for name in (COOKIES, TICKETS)]
    assert thread.run(etcd.transact, [], [delete(key) for key in keys])[0]
    wait_for(lambda: agree(a, b), "both nodes to agree on what one of them has")
    wait_for(lambda: not a.problems("b") and not b.problems("a"), "both nodes to be well")
    assert former.context.cookie_secret != a.context.cookie_secret
