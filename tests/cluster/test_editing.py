"""Edits of two nodes with a real etcd at the same time: each node runs both, and says what it cannot run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from e2e.harness import ControlThread
from memory import log_into
from servers import wait_for
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.editing import ClusterEdits
from ktcpvs.cluster.etcd import Etcd
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.membership import LEASE_SECONDS
from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, CannotSave
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.edits import AddService
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors


class Node:
    """A node without listeners, in the reactor of `thread`. refuses: an ident that it cannot run."""

    def __init__(self, thread: ControlThread, address: EtcdAddress, name: str) -> None:
        self.thread = thread
        self.log: list[str] = []
        self.refuses = ""
        self.disk_is_full = False
        thread.run(self._start, address, name)
        wait_for(lambda: self.cluster.is_connected, lambda: f"the node to follow: {self.log}", 3 * LEASE_SECONDS)

    async def _start(self, address: EtcdAddress, name: str) -> None:
        async def save(table: Table) -> None:
            if self.disk_is_full:
                raise CannotSave("the disk is full")

        reactor = self.thread.reactor
        self.cluster = Cluster(Etcd(reactor, address), address.prefix, name)
        self.edits = ClusterEdits(self.cluster, save)
        self.director = Director(Context(reactor, log_into(self.log), Descriptors(100)), self.edits.save)
        adopt = self.director.adopt

        async def adopt_unless_refused(edit: Adopt) -> None:
            if self.refuses in edit.services:
                await deferLater(reactor, 0.1)  # as long as a bind may take
                raise BadValue("no room")
            await adopt(edit)

        self.director.adopt = adopt_unless_refused  # type: ignore[method-assign]
        await self.cluster.start(self.director)

    async def submit(self, ident: str) -> Sequence[str]:
        return await self.edits.submit(AddService(ident))

    async def follow_again(self) -> None:
        self.cluster.follow_soon()

    @property
    def services(self) -> set[str]:
        return set(self.director.table.services)


@pytest.fixture
def make_node(thread: ControlThread, address: EtcdAddress) -> Iterator[Callable[[str], Node]]:
    made = []

    def make(name: str) -> Node:
        made.append(Node(thread, address, name))
        return made[-1]

    yield make
    for node in made:
        thread.run(node.cluster.stop)


async def edit_while_another_does(one: Node, other: Node) -> tuple[Sequence[str], Sequence[str]]:
    """Have `one` store a service, and hear of another one, of `other`, before the response to that has come. Return the
    warnings of both edits."""
    transact, later = one.cluster.etcd.transact, []

    async def transact_slowly(*arguments: Any) -> tuple[bool, int]:
        result = await transact(*arguments)
        one.cluster.etcd.transact = transact  # type: ignore[method-assign]
        later.append(Deferred.fromCoroutine(other.submit("later")))
        while one.cluster.store.table_revision <= result[1]:
            await one.cluster.next_change()
        return result

    one.cluster.etcd.transact = transact_slowly  # type: ignore[method-assign]
    warnings = await one.submit("first")
    return list(warnings), list(await later[0])


def test_an_edit_that_is_heard_of_while_another_one_is_stored(make_node: Callable[[str], Node]) -> None:
    one, other = make_node("one"), make_node("other")
    assert one.thread.run(edit_while_another_does, one, other) == ([], [])
    wait_for(lambda: one.services == other.services == {"first", "later"}, "both nodes to run both services")
    assert one.cluster.applied == one.cluster.store.table_revision


async def edit_before_hearing(one: Node, other: Node) -> tuple[Sequence[str], Sequence[str]]:
    """Have `one` store a service whose response comes before its watch has reported an earlier edit, of `other`. Return
    the warnings of both edits."""
    received, reported = one.cluster.received, []
    one.cluster.received = lambda *report: reported.append(report)  # type: ignore[method-assign]
    earlier = await other.submit("first")
    own = Deferred.fromCoroutine(one.submit("later"))
    while not (other.services == {"first", "later"} and one.services == {"later"}):
        await other.cluster.next_change()
    one.cluster.received = received  # type: ignore[method-assign]
    for report in reported:
        received(*report)
    return list(earlier), list(await own)


def test_an_edit_that_is_stored_before_an_earlier_one_is_heard_of(make_node: Callable[[str], Node]) -> None:
    one, other = make_node("one"), make_node("other")
    assert one.thread.run(edit_before_hearing, one, other) == ([], [])
    wait_for(lambda: one.services == other.services == {"first", "later"}, "both nodes to run both services")
    wait_for(lambda: one.cluster.applied == one.cluster.store.table_revision, "node one to know that")


def test_a_node_tells_of_nothing_that_it_has_not_tried(make_node: Callable[[str], Node]) -> None:
    one, other = make_node("one"), make_node("other")
    one.refuses = "later"
    refusal = ["node one: service later: no room"]
    assert one.thread.run(edit_while_another_does, one, other) == (refusal, refusal)
    assert one.services == {"first"}


def test_a_node_that_cannot_save_an_edit_says_so_and_follows_later(make_node: Callable[[str], Node]) -> None:
    one, other = make_node("one"), make_node("other")
    one.disk_is_full = True
    stored = "the disk is full; the edit is stored in the cluster: the other nodes run it, and this one will when"
    with pytest.raises(CannotSave, match=stored):
        one.thread.run(one.submit, "first")
    wait_for(lambda: one.cluster.errors == ("service first: the disk is full",), "node one to say so")
    wait_for(lambda: other.services == {"first"}, "the other node to follow")
    assert not one.services
    one.disk_is_full = False
    one.thread.run(one.follow_again)
    wait_for(lambda: one.services == {"first"} and not one.cluster.errors, "node one to follow")
