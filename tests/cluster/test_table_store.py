"""The cluster's table in a real etcd: what one node stores, another one reads; what conflicts is not stored."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from e2e.harness import ControlThread
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from model.strategies import tables

from ktcpvs.cluster.etcd import Change, Etcd, KeyValue, delete, put
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.records import FORMAT_KEY, TABLE_KEY, TABLES, encode_table, service_key, settings_key
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.cluster.table_store import MAX_OPERATIONS, NotInForce, TableStore
from ktcpvs.errors import BadValue
from ktcpvs.model.address import Inet
from ktcpvs.model.edits import AddServer, AddService, DeleteService, EditServer, Set, StartService
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table

SECRET = b"s" * 32
FEW = examples(8, suppress_health_check=[HealthCheck.function_scoped_fixture])
A = Inet("a", 1)
WEB, MAIL = VirtualService("web", servers=(RealServer(A),)), VirtualService("mail", servers=(RealServer(A),))

_prefixes = count()


def many(number: int) -> Table:
    return Table.of(
        VirtualService(f"s{place}", listen=(ListenAddress(Inet("0.0.0.0", 1000 + place)),)) for place in range(number)
    )


class Node:
    """A node: its store and the table that it runs."""

    def __init__(self, thread: ControlThread, etcd: Etcd, prefix: str, *secrets: bytes) -> None:
        """secrets: of the cluster, the newest first; none: the usual one."""
        self._thread, self._etcd = thread, etcd
        self.store = TableStore(prefix, Sealer(secrets or (SECRET,)))
        self.table = Table()
        self.read()

    def read(self) -> None:
        """Read everything, and follow."""
        self.store.replace(*self._thread.run(self._etcd.range, self.store.prefix))
        self.table = self.store.table(self.table)

    def keys(self) -> dict[str, KeyValue]:
        """What is stored now."""
        return {pair.key: pair for pair in self._thread.run(self._etcd.range, self.store.prefix)[1]}

    def hear(self, before: dict[str, KeyValue]) -> None:
        """Follow what has changed since `before`, as a watch reports it."""
        self.store.apply(*self.changes_since(before))

    def changes_since(self, before: dict[str, KeyValue]) -> tuple[int, list[Change]]:
        """What a watch reports that has changed since `before`, and the revision."""
        revision, pairs = self._thread.run(self._etcd.range, self.store.prefix)
        changes = [
            Change(pair.key, pair.value, pair.create_revision, pair.mod_revision)
            for pair in pairs
            if before.get(pair.key) != pair
        ]
        gone = [Change(key, None, 0, revision) for key in before.keys() - {pair.key for pair in pairs}]
        return revision, sorted([*changes, *gone], key=lambda change: change.mod_revision)

    def change(self, new: Table, meanwhile: Callable[[], object] | None = None) -> bool:
        """Store a new table; return False if another node was faster. meanwhile: called when it is stored, before this
        node hears of that; None: the watch reports it then. Raises NotInForce."""
        before = self.keys()
        transaction = self.store.transaction(self.table, new)
        if transaction is None:
            return True
        revisions = []
        for step in transaction.steps:
            done, revision = self._thread.run(self._etcd.transact, step.compares, step.operations)
            if not done:
                return False
            revisions.append(revision)
        if meanwhile is not None:
            meanwhile()
        self.store.committed(transaction, revisions)
        if meanwhile is None:
            self.hear(before)
        self.table = new
        return True


@pytest.fixture
def make_node(thread: ControlThread, etcd: Etcd) -> Any:
    return lambda prefix, *secrets: Node(thread, etcd, prefix, *secrets)


@FEW
@given(states=st.lists(tables(), min_size=1, max_size=4))
def test_what_one_node_stores_another_one_reads(make_node: Any, states: list[Table]) -> None:
    prefix = f"/store{next(_prefixes)}/"
    one, other = make_node(prefix), make_node(prefix)
    for state in states:
        assert one.change(state)
        assert one.store.table(Table()) == state
        other.read()
        assert other.table == state
        assert all(other.store.text_of(service) for service in other.table)
        assert other.store.revision >= one.store.table_revision == other.store.table_revision


def test_the_first_of_two_nodes_stores_the_first_table(make_node: Any) -> None:
    one, other = make_node("/first/"), make_node("/first/")
    assert one.change(Table.of([WEB]))
    assert not other.change(Table.of([MAIL]))
    other.read()
    assert list(other.table.services) == ["web"]


def test_an_edit_of_another_service_goes_through(make_node: Any) -> None:
    one, other = make_node("/two/"), make_node("/two/")
    one.change(Table.of([WEB, MAIL]))
    other.read()
    assert one.change(EditServer("web", A, 5).apply(one.table))
    assert other.change(EditServer("mail", A, 7).apply(other.table))
    one.read()
    assert one.table == EditServer("mail", A, 7).apply(EditServer("web", A, 5).apply(Table.of([WEB, MAIL])))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (EditServer("web", A, 5), EditServer("web", A, 6)),
        (EditServer("web", A, 5), StartService("web")),
        (EditServer("web", A, 5), DeleteService("web")),
        (DeleteService("web"), EditServer("web", A, 5)),
        (AddService("new"), AddService("new", {"port": 81})),
        (Set({"max_backlog": "5"}), Set({"read_timeout": "6"})),
    ],
)
def test_an_edit_of_the_same_key_does_not(make_node: Any, first: Any, second: Any) -> None:
    prefix = f"/same{next(_prefixes)}/"
    one, other = make_node(prefix), make_node(prefix)
    one.change(Table.of([WEB, MAIL]))
    other.read()
    assert one.change(first.apply(one.table))
    assert not other.change(second.apply(other.table))
    other.read()
    assert other.table == one.table


def test_many_services_are_replaced_as_a_whole(make_node: Any) -> None:
    one, other = make_node("/many/"), make_node("/many/")
    one.change(Table.of([WEB, MAIL]))
    other.read()
    generation = one.store.generation
    assert one.change(many(3 * MAX_OPERATIONS))
    assert one.store.generation != generation
    assert not other.change(AddServer("web", Inet("b", 1)).apply(other.table))  # web is deleted
    assert not other.change(AddService("new").apply(other.table))  # the generation has changed
    other.read()
    assert other.table == one.table
    keys = {pair.key for pair in one._thread.run(one._etcd.range, f"/many/{TABLES}")[1]}
    assert len(keys) == 3 * MAX_OPERATIONS + 1  # nothing of the former table is left
    assert other.change(AddService("new").apply(other.table))


def test_many_services_are_not_replaced_if_one_has_changed(make_node: Any) -> None:
    one, other = make_node("/changed/"), make_node("/changed/")
    one.change(many(2 * MAX_OPERATIONS))
    other.read()
    assert one.change(StartService("s7").apply(one.table))
    assert not other.change(StartService().apply(other.table))
    other.read()
    assert other.table == one.table


def test_what_a_watch_reports_is_followed(make_node: Any) -> None:
    one, other = make_node("/watch/"), make_node("/watch/")
    one.change(Table.of([WEB]))
    other.read()
    before = one.keys()
    one.change(many(2 * MAX_OPERATIONS))
    other.hear(before)
    assert other.store.table(other.table) == one.table
    assert other.store.table_revision == one.store.table_revision


LATER_EDITS: dict[str, tuple[Callable[[Table], Table], Callable[[Table], Table]]] = {
    "same service": (EditServer("web", A, 5).apply, EditServer("web", A, 6).apply),
    "other service": (EditServer("web", A, 5).apply, EditServer("mail", A, 6).apply),
    "deleted": (EditServer("web", A, 5).apply, DeleteService("web").apply),
    "added again": (DeleteService("web").apply, AddService("web").apply),
    "both deleted": (DeleteService("web").apply, DeleteService("mail").apply),
    "new one deleted": (AddService("new").apply, DeleteService("new").apply),
    "beside a new one": (AddService("new").apply, DeleteService("web").apply),
    "settings": (Set({"max_backlog": "5"}).apply, Set({"max_backlog": "6"}).apply),
    "of many": (lambda _: many(2 * MAX_OPERATIONS), StartService("s7").apply),
    "deleted of many": (lambda _: many(2 * MAX_OPERATIONS), DeleteService("s7").apply),
    "settings with many": (lambda _: many(2 * MAX_OPERATIONS), Set({"max_backlog": "6"}).apply),
    "many others": (lambda _: many(2 * MAX_OPERATIONS), lambda _: many(3 * MAX_OPERATIONS)),
    "all replaced": (EditServer("web", A, 5).apply, lambda _: many(2 * MAX_OPERATIONS)),
}
"""The edit of a node, and the next one, of another node."""


@pytest.mark.parametrize("name", LATER_EDITS)
@pytest.mark.parametrize("is_heard_first", [True, False])
def test_a_later_edit_of_another_node_is_followed(make_node: Any, name: str, is_heard_first: bool) -> None:
    """The watch may report it before the response to the transaction of this node has come."""
    mine, later = LATER_EDITS[name]
    prefix = f"/later{next(_prefixes)}/"
    one, other = make_node(prefix), make_node(prefix)
    one.change(Table.of([WEB, MAIL]))
    before = one.keys()
    reports = []

    def change_again() -> None:
        reports.append(one.changes_since(before))
        stored = one.keys()
        other.read()
        assert other.change(later(other.table))
        reports.append(one.changes_since(stored))
        hear(is_heard_first)

    def hear(is_time: bool) -> None:
        for report in reports if is_time else ():
            one.store.apply(*report)

    assert one.change(mine(one.table), change_again)
    hear(not is_heard_first)
    assert one.store.table(one.table) == other.table
    assert one.store.table_revision == other.store.table_revision
    one.table = one.store.table(one.table)
    assert one.change(AddService("more").apply(one.table))
    other.read()
    assert other.table == one.table


def test_what_this_node_does_not_run_is_not_overwritten(make_node: Any) -> None:
    one, other = make_node("/behind/"), make_node("/behind/")
    one.change(Table.of([WEB, MAIL]))
    other.read()
    one.change(EditServer("web", A, 5).apply(one.table))
    other.store.replace(*one._thread.run(one._etcd.range, "/behind/"))  # known, and not in force yet
    with pytest.raises(NotInForce, match="service web has changed"):
        other.change(EditServer("web", A, 6).apply(other.table))
    assert other.change(EditServer("mail", A, 6).apply(other.table))


@pytest.mark.parametrize("value", [b"garbage", b'{"format":9}', b'{"format":1,"service":"Virtual web { new = 1 }"}'])
def test_what_cannot_be_read_is_kept_out_and_named(make_node: Any, value: bytes) -> None:
    prefix = f"/bad{next(_prefixes)}/"
    one = make_node(prefix)
    one.change(Table.of([WEB, MAIL]))
    key = f"{prefix}{TABLES}{one.store.generation}/services/web"
    one._thread.run(one._etcd.transact, [], [put(key, value)])
    one.read()
    assert one.table == Table.of([WEB, MAIL])  # the last good one
    (why,) = one.store.unreadable
    assert why.startswith("service web: ")
    with pytest.raises(NotInForce, match="service web: "):
        one.change(EditServer("web", A, 6).apply(one.table))
    assert one.change(EditServer("mail", A, 6).apply(one.table))
    other = make_node(prefix)
    assert list(other.table.services) == ["mail"]


@pytest.mark.parametrize("key", ["format", "table"])
def test_a_cluster_of_a_newer_version_is_left_alone(make_node: Any, key: str) -> None:
    prefix = f"/newer{next(_prefixes)}/"
    one = make_node(prefix)
    one.change(Table.of([WEB]))
    one._thread.run(one._etcd.transact, [], [put(f"{prefix}{key}", b'{"format":2}')])
    one.read()
    assert one.table == Table.of([WEB])
    assert one.store.unreadable == [f"{prefix}{key}: its format is 2; this version reads formats up to 1"]
    with pytest.raises(NotInForce, match="its format is 2"):
        one.change(Table())


def test_a_service_that_is_too_long(make_node: Any) -> None:
    one = make_node("/long/")
    rules = tuple(Rule(f"/{'x' * 200}{number}", (A,)) for number in range(5000))
    with pytest.raises(BadValue, match=r"service web: its text has [0-9]+ bytes; .* at most 1000000: split it"):
        one.change(Table.of([VirtualService("web", servers=(RealServer(A),), rules=rules)]))


@pytest.mark.parametrize("key", [FORMAT_KEY, TABLE_KEY])
@pytest.mark.parametrize("value", [b"", b"\xff", b"{}", b'{"format":99,"generation":5}'])
def test_a_table_that_cannot_be_read_stays_as_it_is_until_it_can(
    thread: ControlThread, etcd: Etcd, address: EtcdAddress, key: str, value: bytes
) -> None:
    node = Node(thread, etcd, address.prefix)
    assert node.change(Table.of([WEB]))
    found = {pair.key: pair for pair in thread.run(etcd.range, address.prefix)[1]}
    good = found[f"{address.prefix}{key}"]

    def put_and_follow(data: bytes) -> None:
        _, revision = thread.run(etcd.transact, [], [put(good.key, data)])
        node.store.apply(revision, [Change(good.key, data, good.create_revision, revision)])

    put_and_follow(value)
    assert node.store.problem.startswith(f"{address.prefix}{key}: it")
    assert list(node.store.table(node.table).services) == ["web"]
    with pytest.raises(NotInForce):
        node.store.transaction(node.table, Table())
    node.read()
    assert node.store.unreadable == [node.store.problem]
    assert list(node.table.services) == ["web"]
    put_and_follow(good.value)
    assert node.store.problem == ""
    node.read()
    assert list(node.table.services) == ["web"]


# A table on trial.


def try_out(node: Node, new: Table) -> Any:
    """Store a table on trial; return its record."""
    transaction = node.store.trial(node.table, new, 60, "a")
    done = [node._thread.run(node._etcd.transact, step.compares, step.operations) for step in transaction.steps]
    assert all(is_done for is_done, _ in done)
    node.store.committed(transaction, [revision for _, revision in done])
    node.table = new
    return transaction.trial


@FEW
@given(before=tables(), after=tables())
def test_the_table_before_a_trial_is_known_and_comes_back(make_node: Any, before: Table, after: Table) -> None:
    prefix = f"/trial{next(_prefixes)}/"
    one, other = make_node(prefix), make_node(prefix)
    one.change(before)
    trial = try_out(one, after)
    other.read()  # it has seen only the one on trial in use
    for node in (one, other):
        assert node.store.table(Table()) == after
        assert node.store.table_of(trial.former, Table()) == before
    revision = other.store.revision + 1
    for node in (one, other):
        node.store.apply(revision, [Change(f"{prefix}table", encode_table(trial.former), 0, revision)])
        assert node.store.table(Table()) == before
        assert node.store.table_of(trial.generation, Table()) == after


def test_nothing_is_stored_while_a_table_is_on_trial(make_node: Any) -> None:
    one, other = make_node("/blocked/"), make_node("/blocked/")
    one.change(Table.of([WEB]))
    try_out(one, Table.of([WEB, MAIL]))
    other.read()
    assert not other.change(EditServer("web", A, 5).apply(other.table))
    assert not other.change(many(2 * MAX_OPERATIONS))
    with pytest.raises(AssertionError):
        try_out(other, Table())
    one._thread.run(one._etcd.transact, [], [delete("/blocked/trial")])
    assert other.change(EditServer("web", A, 5).apply(other.table))


@given(st.sets(st.integers(0, 1 << 62), min_size=1, max_size=3), st.integers(0, 1 << 62))
def test_other_generations_are_deleted_and_no_more(kept: set[int], other: int) -> None:
    asked = [one["request_delete_range"] for one in TableStore("/p/").delete_others(*kept)]
    ranges = [(b64decode(one["key"]).decode(), b64decode(one["range_end"]).decode()) for one in asked]

    def is_deleted(key: str) -> bool:
        return any(first <= key < end for first, end in ranges)

    for generation in kept | {other}:
        for key in (f"/p/{settings_key(generation)}", f"/p/{service_key(generation, 'web')}"):
            assert is_deleted(key) == (generation not in kept)
    assert not any(map(is_deleted, ("/p/table", "/p/trial", "/p/format", "/p/nodes/a")))


def test_what_is_no_part_of_the_table_does_not_change_its_revision(make_node: Any) -> None:
    """A report of another node comes before the response to an edit that was stored earlier."""
    one, other = make_node("/reports/"), make_node("/reports/")
    transaction = one.store.transaction(Table(), Table.of([WEB]))
    done = [one._thread.run(one._etcd.transact, step.compares, step.operations) for step in transaction.steps]
    _, later = one._thread.run(one._etcd.transact, [], [put("/reports/nodes/b", b"{}")])
    one.store.apply(later, [Change("/reports/nodes/b", b"{}", later, later)])
    one.store.committed(transaction, [revision for _, revision in done])
    other.read()
    assert other.store.table_revision == done[-1][1]
    assert one.store.revision == later


def test_an_earlier_edit_of_another_node_is_followed_when_it_is_told(make_node: Any) -> None:
    """The response to a transaction comes before the watch has reported what another node has stored before it."""
    prefix = f"/earlier{next(_prefixes)}/"
    one, other = make_node(prefix), make_node(prefix)
    assert one.change(Table.of([WEB]))
    other.read()
    before = one.keys()
    assert other.change(AddService("earlier").apply(other.table))
    reports = [one.changes_since(before)]
    before = one.keys()
    assert one.change(AddService("own").apply(one.table), lambda: reports.append(one.changes_since(before)))
    known = one.store.table_revision
    assert not one.change(Table.of([*one.table.services.values(), *many(2 * MAX_OPERATIONS)]), lambda: None)
    for report in reports:
        one.store.apply(*report)
        assert one.store.table_revision > known
        known = one.store.table_revision
    assert set(one.store.table(one.table).services) == {"web", "earlier", "own"}


def test_a_service_that_this_node_has_deleted_does_not_come_back_when_it_is_told(make_node: Any) -> None:
    one = make_node(f"/own-deletion{next(_prefixes)}/")
    assert one.change(Table.of([WEB]))
    before, reports = one.keys(), []
    assert one.change(AddService("own").apply(one.table), lambda: reports.append(one.changes_since(before)))
    before = one.keys()
    assert one.change(DeleteService("own").apply(one.table), lambda: reports.append(one.changes_since(before)))
    assert one.store.own_revision > one.store.table_revision
    for report in reports:
        one.store.apply(*report)
        assert one.store.table(one.table) == Table.of([WEB])
    assert one.store.table_revision == one.store.own_revision
    assert one.change(AddService("own").apply(one.table))
    assert set(one.store.table(one.table).services) == {"web", "own"}


def test_a_load_is_not_stored_over_a_deletion_that_this_node_has_not_followed(make_node: Any) -> None:
    prefix = f"/deletion{next(_prefixes)}/"
    one, other = make_node(prefix), make_node(prefix)
    assert one.change(Table.of([WEB, MAIL]))
    other.read()
    before = one.keys()
    assert other.change(DeleteService("web").apply(other.table))
    one.hear(before)
    with pytest.raises(NotInForce, match="service web is deleted"):
        one.change(Table.of([WEB, *many(MAX_OPERATIONS)]))


# Secret settings.


KEYED = Table(settings=Settings(cookie_key="not-for-everyone", read_timeout=77))


def test_a_node_with_another_secret_follows_all_settings_but_the_key(make_node: Any) -> None:
    one, other = make_node("/keyed/"), make_node("/keyed/", b"o" * 32)
    other.table = Table(settings=Settings(cookie_key="what-it-had"))
    assert one.change(KEYED)
    other.read()
    assert other.table.settings == Settings(cookie_key="what-it-had", read_timeout=77)
    assert other.store.unreadable == ["settings: cookie_key: sealed with another --cluster-secret"]
    with pytest.raises(NotInForce, match="settings: cookie_key: sealed with another"):
        other.change(Set({"read_timeout": "78"}).apply(other.table))
    with pytest.raises(NotInForce, match="settings: cookie_key: sealed with another"):
        other.change(many(MAX_OPERATIONS))
    assert other.change(AddService("web").apply(other.table))
    one.read()
    assert one.table == AddService("web").apply(KEYED)


def test_a_key_whose_secret_is_lost_can_be_replaced(make_node: Any) -> None:
    one, other = make_node("/lost/"), make_node("/lost/", b"o" * 32)
    assert one.change(KEYED)
    other.read()
    assert other.change(Set({"cookie_key": "another-one"}).apply(other.table))
    assert other.store.unreadable == []
    other.read()
    assert other.table.settings == Settings(cookie_key="another-one", read_timeout=77)


def test_a_node_without_a_secret_stores_no_key(make_node: Any, thread: ControlThread, etcd: Etcd) -> None:
    one = make_node("/bare/")
    one.store = TableStore("/bare/")
    with pytest.raises(BadValue, match="cookie_key would be readable in etcd"):
        one.change(KEYED)
    assert one.change(Table.of([WEB]))
    with pytest.raises(BadValue, match="cookie_key would be readable in etcd"):
        one.change(Set({"cookie_key": "not-for-everyone"}).apply(one.table))
    assert one.store.resealing() is None
    assert all(b"not-for" not in pair.value for pair in thread.run(etcd.range, "/bare/")[1])


def test_the_key_is_sealed_again_with_a_new_secret(make_node: Any) -> None:
    one = make_node("/again/")
    assert one.change(KEYED)
    assert one.store.resealing() is None
    exchanged = make_node("/again/", b"n" * 32, SECRET)
    transaction = exchanged.store.resealing()
    assert transaction is not None
    for step in transaction.steps:
        assert exchanged._thread.run(exchanged._etcd.transact, step.compares, step.operations)[0]
    exchanged.read()
    assert exchanged.store.resealing() is None
    assert make_node("/again/", b"n" * 32).table == exchanged.table == KEYED
    one.read()
    assert one.store.unreadable == ["settings: cookie_key: sealed with another --cluster-secret"]
