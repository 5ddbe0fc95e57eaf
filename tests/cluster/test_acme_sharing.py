"""Nodes with a real etcd: one of them orders certificates, all have what it obtains, and all answer challenges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.harness import ControlThread
from memory import log_into
from servers import wait_for
from twisted.internet.task import Clock

from ktcpvs.cluster import acme_challenges, acme_leader, sealed_store
from ktcpvs.cluster.acme_leader import MARGIN, ACMELeader
from ktcpvs.cluster.acme_sharing import ORDERS, share_acme
from ktcpvs.cluster.administration import ClusterAdministration
from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.editing import ClusterEdits
from ktcpvs.cluster.etcd import Etcd, put
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.membership import LEASE_SECONDS
from ktcpvs.cluster.records import NodeReport, encode_report
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.cluster.shared_secrets import share_secrets
from ktcpvs.director.challenges import NodeChallenges
from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, NoCluster
from ktcpvs.inspect.views import Views
from ktcpvs.model.challenges import HTTP_01, Challenge
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.ticket_secrets import TicketSecrets

SECRET = b"s" * 32
ONE = Challenge(HTTP_01, "a.example", "t1", "t1.thumbprint")
TWO = Challenge(HTTP_01, "b.example", "t2", "t2.thumbprint")


class Node:
    """A node without listeners, in the reactor of `thread`. log: its lines. changes: how often the values of ACME, and
    the leadership of this node, have changed."""

    def __init__(
        self, thread: ControlThread, address: EtcdAddress, name: str, *secrets: bytes, instance: str = "", **named: Any
    ) -> None:
        """is_old: of a version that knows nothing of ACME. clock: by which it judges whether its lease goes on."""
        self.thread = thread
        self.name = name
        self.log: list[str] = []
        self.changes = {"values": 0, "leadership": 0}
        thread.run(self._make, address, secrets, instance, named)

    async def _make(
        self, address: EtcdAddress, secrets: tuple[bytes, ...], instance: str, named: dict[str, Any]
    ) -> None:
        async def save(of: object) -> None:
            pass

        def counts(what: str) -> Callable[[], object]:
            return lambda: self.changes.update({what: self.changes[what] + 1})

        reactor, log = self.thread.reactor, log_into(self.log)
        self.context = Context(reactor, log, Descriptors(100))
        sealer = Sealer(secrets) if secrets else None
        self.cluster = Cluster(Etcd(reactor, address), address.prefix, self.name, instance, sealer)
        edits = ClusterEdits(self.cluster, save)
        self.director = Director(self.context, edits.save)
        tickets = TicketSecrets(self.context, lambda *secrets: None)
        store = share_secrets(self.cluster, self.director, tickets, save).store
        own = Views(self.director)
        self.administration = ClusterAdministration(self.cluster, own.view, own.rebalance, reactor, log)
        if not named.get("is_old"):
            node = NodeChallenges(self.director)
            requests = self.administration.requests
            sharing = share_acme(self.cluster, self.director, store, requests, node, lambda: True)
            self.publisher, self.leader, self.values = sharing.publisher, sharing.leadership, sharing.values
            self.values.observe(counts("values"))
            self.leader.observe(counts("leadership"))
        if "clock" in named:
            self.leader = ACMELeader(self.cluster, named["clock"], log, lambda: True)
            self.cluster.followers.append(self.leader)

    def join(self) -> None:
        self.thread.run(self.administration.start, self.director)
        wait_for(lambda: self.cluster.is_connected, lambda: f"the node to follow: {self.log}", 3 * LEASE_SECONDS)

    def stop(self) -> None:
        self.thread.run(self.cluster.stop)

    def put(self, name: str, value: bytes, revision: int = 0) -> bool:
        return bool(self.thread.run(self.values.put, name, value, revision))

    def value(self, name: str) -> bytes | None:
        found = self.values.get(name)
        return found.value if found is not None else None

    def notes(self) -> dict[str, list[str]]:
        """Return the notes of `--nodes` about each node."""

        async def view() -> Any:
            return self.administration.view("nodes", None)

        return {node["node"]: list(node["notes"]) for node in self.thread.run(view)["nodes"]}

    def knows(self, *others: Node) -> None:
        wait_for(lambda: {one.name for one in others} <= self.cluster.membership.reports.keys(), "the other nodes")

    @property
    def answers(self) -> set[str]:
        return {challenge.token for challenge in self.context.challenges.challenges}


Make = Callable[..., Node]


@pytest.fixture
def make_node(thread: ControlThread, address: EtcdAddress) -> Iterator[Make]:
    made = []

    def make(name: str, *secrets: bytes, **named: Any) -> Node:
        node = Node(thread, address, name, *(secrets or (SECRET,)), **named)
        made.append(node)
        if named.get("joins", True):
            node.join()
        return node

    yield make
    for node in made:
        if not node.cluster.has_left:
            node.stop()


def leads(node: Node) -> None:
    wait_for(lambda: node.leader.is_leader, lambda: f"{node.name} to lead: {node.log}", 2 * LEASE_SECONDS)


def test_one_node_orders_and_another_one_takes_its_place(make_node: Make, thread: ControlThread) -> None:
    a, b, c = make_node("a"), make_node("b"), make_node("c")
    leads(a)
    wait_for(lambda: b.leader.leader == c.leader.leader == "a", "all to know the leader")
    assert not b.leader.is_leader
    wait_for(lambda: b.notes() == {"a": [ORDERS], "b": [], "c": []}, "the notes of all nodes")
    a.stop()
    assert not a.leader.is_leader
    wait_for(lambda: b.leader.is_leader or c.leader.is_leader, "another node to lead")
    wait_for(lambda: b.leader.leader == c.leader.leader != "a", "both to know it")
    assert b.leader.is_leader is not c.leader.is_leader
    assert sum(node.changes["leadership"] for node in (b, c)) == 1
    leader = b if b.leader.is_leader else c
    assert [line for line in leader.log if "orders certificates" in line]


def test_a_leader_whose_lease_has_ended_is_none(make_node: Make, etcd: Etcd) -> None:
    """Its key ends with the lease, and what it still wants to store is refused."""
    a, b = make_node("a"), make_node("b")
    leads(a)
    a.thread.run(etcd.revoke, a.cluster.membership.lease)

    def stores() -> Node | None:
        """The node that leads now; for a while, the old one takes itself for the leader."""
        return next((node for node in (a, b) if node.leader.is_leader and node.put("acme:x", b"1")), None)

    winner = wait_for(stores, "one of them to lead", 2 * LEASE_SECONDS)
    loser = b if winner is a else a
    assert not loser.put("acme:y", b"2")
    wait_for(lambda: not loser.leader.is_leader, "the other one to know it")
    wait_for(lambda: a.leader.leader == b.leader.leader == winner.name, "both to know it")


def test_a_leader_that_does_not_know_yet_that_it_is_none_stores_nothing(
    make_node: Make, thread: ControlThread, etcd: Etcd
) -> None:
    a = make_node("a")
    leads(a)

    async def race() -> bool:
        await etcd.transact([], [put(a.leader.key, b'{"node": "other", "instance": "other"}')])
        return await a.values.put("acme:x", b"1", 0)

    assert thread.run(race) is False
    wait_for(lambda: a.leader.leader == "other", "the node to know it")


def test_a_process_that_was_stopped_does_not_count_itself_as_the_leader(make_node: Make) -> None:
    clock = Clock()
    a = make_node("a", clock=clock)
    leads(a)
    clock.advance(LEASE_SECONDS - MARGIN - 0.1)
    assert a.leader.is_leader
    clock.advance(0.2)
    assert not a.leader.is_leader
    leads(a)  # its next report shows that its lease has gone on


def test_a_leader_that_cannot_reach_the_ca_makes_room_for_another_one(make_node: Make, thread: ControlThread) -> None:
    a = make_node("a")
    leads(a)
    thread.run(a.leader.resign)
    assert a.leader.is_leader, "there is no other node"
    b = make_node("b")
    a.knows(b)
    thread.run(b.leader.resign)
    assert a.leader.is_leader, "node b is no leader"
    thread.run(a.leader.resign)
    leads(b)
    wait_for(lambda: not a.leader.is_leader, "node a to know it")
    assert a.changes["leadership"] == 2


def test_a_leader_that_has_resigned_leads_again_where_no_other_node_does(
    make_node: Make, thread: ControlThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme_leader, "REST_SECONDS", 0.5)
    a, b = make_node("a"), make_node("b", is_old=True)
    leads(a)
    a.knows(b)
    thread.run(a.leader.resign)
    wait_for(lambda: a.changes["leadership"] == 3, "the node to resign, and to lead again")
    leads(a)


def test_a_daemon_that_takes_over_orders_from_then_on(make_node: Make, thread: ControlThread) -> None:
    a, b = make_node("a"), make_node("b")
    leads(a)
    heir = make_node("a", instance=a.cluster.instance, joins=False)
    thread.run(a.cluster.hand_over)
    assert not a.leader.is_leader
    heir.join()
    assert heir.leader.is_leader
    assert heir.put("acme:x", b"1")
    wait_for(lambda: b.value("acme:x") == b"1", "the other node")
    assert b.leader.leader == "a"


def test_all_nodes_have_what_the_leader_stores(make_node: Make) -> None:
    a, b = make_node("a"), make_node("b")
    leads(a)
    assert a.values.is_complete
    before = b.changes["values"]
    assert a.put("acme:one", b"first")
    assert a.value("acme:one") == b"first"
    wait_for(lambda: b.value("acme:one") == b"first", "the other node")
    assert b.changes["values"] > before
    assert b.values.names() == ["acme:one"]
    assert not a.put("acme:one", b"second"), "it has one already"
    assert not b.put("acme:two", b"of another node"), "only the leader stores"
    late = make_node("c")
    assert late.value("acme:one") == b"first", "a node that joins has it at once"
    found = a.values.get("acme:one")
    assert found is not None
    assert not b.thread.run(b.values.delete, "acme:one", found.revision)
    assert a.thread.run(a.values.delete, "acme:one", found.revision)
    assert a.value("acme:one") is None
    wait_for(lambda: b.values.names() == [], "the other node")
    with pytest.raises(BadValue):
        a.put("cookie-secret", b"x" * 32, 1)


def test_there_may_not_be_too_many_values(make_node: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make_node("a"), make_node("b")
    leads(a)
    monkeypatch.setattr(sealed_store, "MAX_VALUES", 1)  # besides the two that all nodes share anyway
    assert a.put("acme:one", b"1")
    with pytest.raises(BadValue, match="1 secrets"):
        a.put("acme:two", b"2")
    found = a.values.get("acme:one")
    assert found is not None
    assert a.put("acme:one", b"1b", found.revision)
    monkeypatch.setattr(sealed_store, "MAX_VALUES", 2)
    assert a.put("acme:two", b"2")
    wait_for(lambda: b.value("acme:two") == b"2", "the other node")
    monkeypatch.setattr(sealed_store, "MAX_VALUES", 1)
    late = make_node("c")
    assert len(late.values.names()) == 1
    assert [line for line in late.log if "more than 1 secrets" in line]
    assert late.context.cookie_secret == a.context.cookie_secret


def test_a_node_without_the_secret_neither_orders_nor_reads(make_node: Make, thread: ControlThread) -> None:
    a = make_node("a")
    leads(a)
    assert a.put("acme:one", b"first")
    blind = make_node("b", b"other" * 8)
    a.knows(blind)
    assert not blind.leader.is_leader
    assert blind.value("acme:one") is None
    thread.run(a.publisher.publish, [ONE])
    assert "t1" not in blind.answers
    assert [line for line in a.log if "node b may not answer" in line and "cannot read" in line]


def test_all_nodes_answer_when_a_challenge_is_published(make_node: Make, thread: ControlThread, etcd: Etcd) -> None:
    a, b, c = make_node("a"), make_node("b"), make_node("c", is_old=True)
    a.knows(b, c)
    many = [Challenge(HTTP_01, f"{number}.example", f"m{number}", "k") for number in range(100)]
    for published in ([ONE], [TWO], many):
        thread.run(a.publisher.publish, published)
        for node in a, b:
            assert {one.token for one in published} <= node.answers
    assert not c.answers
    assert [line for line in a.log if "node c may not answer" in line and "of another version" in line]
    assert not [line for line in a.log if "node b may not" in line]
    stored = b"".join(pair.value for pair in thread.run(etcd.range, a.cluster.store.prefix)[1])
    assert ONE.key_authorization.encode() not in stored
    late = make_node("d")
    assert {"t1", "t2", "m0", "m99"} <= late.answers
    thread.run(a.publisher.withdraw, [ONE, *many[:70]])
    left = {"t2", *(one.token for one in many[70:])}
    wait_for(lambda: a.answers == b.answers == late.answers == left, "all nodes to forget some")
    thread.run(a.publisher.withdraw, [TWO, *many])
    wait_for(lambda: not (a.answers or b.answers or late.answers), "all to forget")
    assert not [
        pair for pair in thread.run(etcd.range, a.cluster.store.prefix)[1] if "/challenges/" in pair.key
    ]  # fmt: skip


def test_an_order_goes_on_without_a_node_that_does_not_respond(
    make_node: Make, thread: ControlThread, etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = make_node("a")
    monkeypatch.setattr(acme_challenges, "CONFIRM_TIMEOUT", 0.3)
    report = encode_report(NodeReport("dead"))
    thread.run(etcd.transact, [], [put(f"{a.cluster.store.prefix}nodes/dead", report)])
    wait_for(lambda: "dead" in a.cluster.membership.reports, "the report of a node that has just died")
    thread.run(a.publisher.publish, [ONE])
    assert a.answers == {"t1"}
    assert [line for line in a.log if "node dead may not answer" in line and "did not respond" in line]


def test_nothing_is_published_without_etcd(thread: ControlThread) -> None:
    node = Node(thread, EtcdAddress(("http://127.0.0.1:1",), "/x/"), "a", SECRET)
    with pytest.raises(NoCluster, match="has not reached it yet"):
        thread.run(node.publisher.publish, [ONE])
    assert not node.answers


def test_challenges_that_cannot_be_read_are_ignored(make_node: Make, thread: ControlThread, etcd: Etcd) -> None:
    a = make_node("a")
    prefix = f"{a.cluster.store.prefix}challenges/"
    assert a.cluster.sealer is not None
    values = [b"", b"{", b'{"format": 1, "sealed": "x"}', b"x" * 10000]
    values.append(b'{"format": 1, "sealed": "%b"}' % a.cluster.sealer.seal(f"{prefix}4", b'{"kind": "x"}').encode())
    operations = [put(f"{prefix}{number}", value) for number, value in enumerate(values)]
    thread.run(etcd.transact, [], operations)
    wait_for(lambda: any("a challenge of ACME cannot be read" in line for line in a.log), "the line of the log")
    assert not a.answers
