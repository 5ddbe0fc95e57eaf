"""Edits of two nodes with a real etcd at the same time: each node runs both, and says what it cannot run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from e2e.harness import ControlThread
from memory import log_into
from servers import LOOPBACK, free_port, wait_for
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.editing import ClusterEdits
from ktcpvs.cluster.etcd import Change, Etcd, EtcdError, put
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.membership import LEASE_SECONDS
from ktcpvs.cluster.shared_health import HEALTH, SharedHealth, encode_results, share_health
from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, Busy, CannotSave
from ktcpvs.model.address import Inet
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.edits import START_ALL, AddService, Confirm, Load, StopService
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.quorum import QUORUM
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors


class Node:
    """A node without listeners, in the reactor of `thread`. refuses: an ident that it cannot run."""

    def __init__(self, thread: ControlThread, address: EtcdAddress, name: str) -> None:
        self.thread = thread
        self.log: list[str] = []
        self.refuses = ""
        self.dropped: set[str] = set()  # services that it has deleted because others did
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
            self.dropped |= {ident for ident, service in edit.services.items() if service is None}
            await adopt(edit)

        self.director.adopt = adopt_unless_refused  # type: ignore[method-assign]
        await self.cluster.start(self.director)

    async def submit(self, ident: str) -> Sequence[str]:
        return await self.edits.submit(AddService(ident))

    async def follow_again(self) -> None:
        self.cluster.follow_soon()

    def hold_watch(self) -> Callable[[], None]:
        """Keep back what the watch tells, until the function is called that this returns."""
        received, reported = self.cluster.received, []

        def keep(revision: int, changes: Sequence[Change]) -> None:
            reported.append((revision, changes)) if revision else received(0, changes)

        def tell() -> None:
            self.cluster.received = received  # type: ignore[method-assign]
            for report in reported:
                received(*report)

        self.cluster.received = keep  # type: ignore[method-assign]
        return tell

    def cut_watch(self) -> None:
        assert self.cluster._watch is not None
        self.cluster._watch.cancel()

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
    tell = one.hold_watch()
    earlier = await other.submit("first")
    own = Deferred.fromCoroutine(one.submit("later"))
    while not (other.services == {"first", "later"} and one.services == {"later"}):
        await other.cluster.next_change()
    tell()
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


async def end_while_catching_up(one: Node, other: Node) -> None:
    """Have `one` try an edit again that another one has come before, and end before its watch tells of that."""
    transact, has_failed = one.cluster.etcd.transact, Deferred()

    async def transact_in_vain(*arguments: Any) -> tuple[bool, int]:
        result = await transact(*arguments)
        has_failed.callback(None) if not result[0] and not has_failed.called else None
        return result

    one.hold_watch()
    await other.submit("first")
    one.cluster.etcd.transact = transact_in_vain  # type: ignore[method-assign]
    own = Deferred.fromCoroutine(one.submit("first"))
    await has_failed
    one.director.is_ending = True
    await one.cluster.hand_over()
    await own


def test_an_edit_that_waits_for_the_watch_ends_with_the_node(make_node: Callable[[str], Node]) -> None:
    one, other = make_node("one"), make_node("other")
    with pytest.raises(Busy, match="the daemon is ending"):
        one.thread.run(end_while_catching_up, one, other)


async def join_again_while_storing(one: Node) -> None:
    """Cut the watch of `one` while it stores a service. What it reads when it joins again arrives last."""
    etcd = one.cluster.etcd
    transact, read_range = etcd.transact, etcd.range
    stored: Deferred[None] = Deferred()

    async def transact_slowly(*arguments: Any) -> tuple[bool, int]:
        etcd.transact = transact  # type: ignore[method-assign]
        one.cut_watch()
        await deferLater(one.thread.reactor, 0.8)  # longer than until it joins again
        return await transact(*arguments)

    async def read_slowly(prefix: str) -> Any:
        found = await read_range(prefix)
        await stored
        return found

    etcd.transact, etcd.range = transact_slowly, read_slowly  # type: ignore[method-assign]
    await one.submit("first")
    stored.callback(None)
    while not one.cluster.is_connected:
        await one.cluster.next_change()


def test_a_node_that_joins_again_keeps_what_it_stores_meanwhile(make_node: Callable[[str], Node]) -> None:
    one = make_node("one")
    one.thread.run(join_again_while_storing, one)
    wait_for(lambda: one.cluster.applied == one.cluster.store.table_revision, "the node to follow")
    assert one.services == {"first"}
    assert not one.dropped


class NoRoom:
    """A follower that fails once when the node joins."""

    def __init__(self) -> None:
        self.has_failed = False

    def replace(self, *what: Any) -> None:
        pass

    apply = replace

    async def joined(self) -> None:
        if not self.has_failed:
            self.has_failed = True
            raise EtcdError("no room")


async def join_with(one: Node, joined: Callable[[], Any]) -> list[Deferred[None]]:
    """Have `one` join again. joined: called when its watch has begun. Return its watches."""
    watch, watches = one.cluster.etcd.watch, []

    async def remember(*arguments: Any) -> Callable[[], Deferred[None]]:
        ended = (await watch(*arguments))()
        watches.append(ended)
        await joined()
        return lambda: ended

    one.cluster.etcd.watch = remember  # type: ignore[method-assign]
    one.cut_watch()
    while not (one.cluster.has_left or (watches and one.cluster.is_connected)):
        await one.cluster.next_change()
    return watches


def test_a_node_that_cannot_join_ends_its_watch(make_node: Callable[[str], Node]) -> None:
    one = make_node("one")
    failing = NoRoom()
    one.cluster.followers.append(failing)

    async def joined() -> None:
        pass

    watches = one.thread.run(join_with, one, joined)
    wait_for(lambda: failing.has_failed and len(watches) == 2 and one.cluster.is_connected, "the second attempt")
    assert [watch.called for watch in watches] == [True, False]


def test_a_node_that_leaves_while_it_joins_ends_its_watch(make_node: Callable[[str], Node]) -> None:
    one = make_node("one")
    watches = one.thread.run(join_with, one, one.cluster.hand_over)
    wait_for(lambda: [watch.called for watch in watches] == [True], "the watch to end")


async def share_results(one: Node) -> SharedHealth:
    """Have `one` check a server that nobody else is, and share the results."""
    health = share_health(one.cluster, one.director)
    listen = (ListenAddress(Inet(LOOPBACK, free_port())),)
    server = RealServer(Inet(LOOPBACK, free_port()))
    web = VirtualService(
        "web", listen=listen, servers=(server,), check="tcp", check_interval=1, check_fall=1, check_by=QUORUM
    )
    await one.edits.submit(Load({"web": web}, start=START_ALL))
    return health


def test_health_results_whose_write_arrives_last_are_replaced(
    make_node: Callable[[str], Node], etcd: Etcd, address: EtcdAddress
) -> None:
    one = make_node("one")
    thread, key = one.thread, f"{address.prefix}{HEALTH}one"

    def stored() -> list[bytes]:
        return [pair.value for pair in thread.run(etcd.range, key)[1]]

    health = thread.run(share_results, one)
    wait_for(lambda: stored() and b"refused" in stored()[0], lambda: f"the results: {stored()}")
    results = stored()
    thread.run(etcd.transact, [], [put(key, encode_results({}))])
    wait_for(lambda: stored() == results, "the results again")
    thread.reactor.callFromThread(health.stop)
    thread.run(one.edits.submit, StopService())


# Tables on trial.

NO_SERVERS = ["service loaded: it has no servers: every client is refused"]
"""The warnings about such a table."""


def load(seconds: int) -> Load:
    return Load({"loaded": VirtualService("loaded")}, confirm=seconds)


async def confirm_before_hearing(one: Node) -> None:
    """Have `one` confirm a table before its watch has told of the trial."""
    tell = one.hold_watch()
    own = Deferred.fromCoroutine(one.edits.submit(load(60)))
    while one.edits.trial.record is None:
        await one.cluster.next_change()
    await one.edits.submit(Confirm())
    tell()
    await own


def test_a_trial_that_the_watch_tells_of_after_it_has_ended(make_node: Callable[[str], Node]) -> None:
    one = make_node("one")
    one.thread.run(confirm_before_hearing, one)
    assert one.edits.trial.record is None
    assert sum("is on trial" in line for line in one.log) == 1


async def confirm_before_the_response(one: Node, other: Node) -> Sequence[str]:
    """Have `other` confirm a table before the response to `one` has come, which has loaded it."""
    transact = one.cluster.etcd.transact

    async def transact_slowly(compares: Any, operations: Any) -> tuple[bool, int]:
        result = await transact(compares, operations)
        if any("range_end" in one for one in compares):  # the last step, which compares all keys of the table
            one.cluster.etcd.transact = transact  # type: ignore[method-assign]
            while other.edits.trial.record is None:
                await other.cluster.next_change()
            await other.edits.submit(Confirm())
            revision, _ = await one.cluster.etcd.range(one.cluster.store.prefix)
            while one.cluster.store.revision < revision:
                await one.cluster.next_change()
        return result

    one.cluster.etcd.transact = transact_slowly  # type: ignore[method-assign]
    return list(await one.edits.submit(load(60)))


def test_a_trial_that_ends_before_the_response_has_come(make_node: Callable[[str], Node]) -> None:
    one, other = make_node("one"), make_node("other")
    assert one.thread.run(confirm_before_the_response, one, other) == NO_SERVERS
    assert one.edits.trial.record is None
    assert one.services == other.services == {"loaded"}


async def confirm_elsewhere(one: Node, other: Node) -> None:
    """Have `one` go back from a table on trial that it cannot undo in etcd, and `other` confirm that table."""
    transact = one.cluster.etcd.transact
    await one.edits.submit(load(1))

    async def transact_in_vain(*arguments: Any) -> tuple[bool, int]:
        raise EtcdError("too many requests")

    one.cluster.etcd.transact = transact_in_vain  # type: ignore[method-assign]
    while one.services:
        await one.cluster.next_change()
    one.cluster.etcd.transact = transact  # type: ignore[method-assign]
    await other.edits.submit(Confirm())


def test_a_table_that_is_confirmed_after_a_node_has_gone_back(make_node: Callable[[str], Node]) -> None:
    one, other = make_node("one"), make_node("other")
    one.thread.run(confirm_elsewhere, one, other)
    wait_for(lambda: one.services == other.services == {"loaded"}, "both nodes to run what is confirmed")
