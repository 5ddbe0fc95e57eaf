"""The sealed values of a cluster in a real etcd: what one node stores, others with its secret read, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from e2e.harness import ControlThread

from ktcpvs.cluster.etcd import Change, Etcd, delete, put
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.sealed_store import MAX_STORED_BYTES, MAX_VALUE_BYTES, SealedStore
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.errors import BadValue

OLD, NEW = b"o" * 32, b"n" * 32


class Nodes:
    """Makes stores of nodes, which follow by hand."""

    def __init__(self, thread: ControlThread, etcd: Etcd, prefix: str) -> None:
        self._thread, self._etcd, self.prefix = thread, etcd, prefix

    def make(self, *secrets: bytes) -> SealedStore:
        store = SealedStore(self._etcd, self.prefix, Sealer(secrets) if secrets else None)
        self.read(store)
        return store

    def read(self, store: SealedStore) -> None:
        store.replace(*self._thread.run(self._etcd.range, self.prefix))

    def put(self, store: SealedStore, name: str, value: bytes, revision: int = 0) -> bool:
        return bool(self._thread.run(store.put, name, value, revision))

    def delete(self, store: SealedStore, name: str, revision: int) -> bool:
        return bool(self._thread.run(store.delete, name, revision))

    def join(self, store: SealedStore) -> None:
        self._thread.run(store.joined)

    def write(self, *operations: Any) -> None:
        assert self._thread.run(self._etcd.transact, [], operations)[0]

    def stored(self) -> dict[str, bytes]:
        return {pair.key: pair.value for pair in self._thread.run(self._etcd.range, self.prefix)[1]}


@pytest.fixture
def nodes(thread: ControlThread, etcd: Etcd, address: EtcdAddress) -> Nodes:
    return Nodes(thread, etcd, address.prefix)


def value(store: SealedStore, name: str) -> bytes | None:
    found = store.get(name)
    return found.value if found is not None else None


def test_what_one_node_stores_another_one_reads(nodes: Nodes) -> None:
    a, b = nodes.make(OLD), nodes.make(OLD)
    assert nodes.put(a, "one", b"first")
    assert value(a, "one") == b"first"
    assert value(b, "one") is None
    nodes.read(b)
    assert value(b, "one") == b"first"
    assert b.has("one")
    assert not b.has("two")
    assert not b.problems
    assert b"first" not in b"".join(nodes.stored().values())


def test_a_deleted_value_does_not_come_back_when_the_watch_tells_of_it(nodes: Nodes) -> None:
    store = nodes.make(OLD)
    assert nodes.put(store, "one", b"first")
    stored, found = nodes.stored(), store.get("one")
    assert found is not None
    ((key, sealed),) = stored.items()
    assert nodes.delete(store, "one", found.revision)
    store.apply(found.revision, [Change(key, sealed, found.revision, found.revision)])
    assert value(store, "one") is None
    store.apply(found.revision + 1, [Change(key, None, 0, found.revision + 1)])
    assert nodes.put(store, "one", b"second")
    assert value(store, "one") == b"second"


def test_a_value_that_another_node_has_changed_is_not_overwritten(nodes: Nodes) -> None:
    a, b = nodes.make(OLD), nodes.make(OLD)
    assert nodes.put(a, "one", b"first")
    assert not nodes.put(b, "one", b"other")
    nodes.read(b)
    found = b.get("one")
    assert found is not None
    assert nodes.put(b, "one", b"second", found.revision)
    assert not nodes.put(a, "one", b"third", found.revision)
    assert value(a, "one") == b"first"
    nodes.read(a)
    assert value(a, "one") == b"second"


def test_an_older_change_that_comes_late_is_ignored(nodes: Nodes) -> None:
    a = nodes.make(OLD)
    assert nodes.put(a, "one", b"first")
    first = a.get("one")
    assert first is not None
    key, stored = next(iter(nodes.stored().items()))
    assert nodes.put(a, "one", b"second", first.revision)
    a.apply(first.revision, [Change(key, stored, first.revision, first.revision)])
    assert value(a, "one") == b"second"
    a.apply(1 << 40, [Change(key, None, 0, 1 << 40)])
    assert not a.has("one")


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_later_change_that_is_heard_of_first_stays(nodes: Nodes, etcd: Etcd, is_deleted: bool) -> None:
    """The watch may report it before the response to what this node stores has come."""
    a, transact = nodes.make(OLD), etcd.transact
    prefix = f"{nodes.prefix}secrets/"

    async def transact_slowly(*arguments: Any) -> tuple[bool, int]:
        result = await transact(*arguments)
        (stored,) = (pair.value for pair in (await etcd.range(prefix))[1])
        later = delete(f"{prefix}one") if is_deleted else put(f"{prefix}one", b"of another version")
        _, revision = await transact([], [later])
        a.apply(result[1], [Change(f"{prefix}one", stored, result[1], result[1])])
        a.apply(revision, [Change(f"{prefix}one", None if is_deleted else b"of another version", 0, revision)])
        return result

    etcd.transact = transact_slowly  # type: ignore[method-assign]
    assert nodes.put(a, "one", b"first")
    assert a.get("one") is None
    assert a.has("one") == (not is_deleted)


def test_values_that_do_not_open_are_kept_out_and_named(nodes: Nodes) -> None:
    a, b, c = nodes.make(OLD), nodes.make(NEW), nodes.make()
    assert nodes.put(a, "one", b"first")
    assert nodes.put(a, "two", b"second")
    for store in (b, c):
        nodes.read(store)
        assert store.get("one") is None
        assert store.has("one")
    assert b.problems == ["the cluster's secrets one, two: sealed with another --cluster-secret"]
    assert c.problems == ("the cluster's secrets are sealed, and this node has no --cluster-secret",)
    assert not nodes.put(b, "one", b"mine")
    with pytest.raises(BadValue, match="needs a --cluster-secret"):
        nodes.put(c, "three", b"mine")
    nodes.read(a)
    assert value(a, "one") == b"first"


def test_garbage_and_moved_values_are_kept_out_and_named(nodes: Nodes) -> None:
    a = nodes.make(OLD)
    assert nodes.put(a, "one", b"first")
    prefix = f"{nodes.prefix}secrets/"
    sealed = nodes.stored()[f"{prefix}one"]
    long = b'{"format":1,"sealed":"' + b"x" * MAX_STORED_BYTES + b'"}'
    nodes.write(put(f"{prefix}moved", sealed), put(f"{prefix}empty", b""), put(f"{prefix}long", long))
    nodes.read(a)
    assert value(a, "one") == b"first"
    assert sorted(a.problems) == [
        "the cluster's secrets empty: it is not JSON",
        f"the cluster's secrets long: it has {len(long)} bytes; expected at most {MAX_STORED_BYTES}",
        "the cluster's secrets moved: changed by somebody, or moved here from another key of etcd",
    ]
    nodes.write(*(delete(f"{prefix}{name}") for name in ("moved", "empty", "long")))
    nodes.read(a)
    assert not a.problems


def test_the_line_about_many_values_is_short(nodes: Nodes) -> None:
    a = nodes.make(OLD)
    nodes.write(*(put(f"{nodes.prefix}secrets/{number}{'x' * 100}\n", b"") for number in range(50)))
    nodes.read(a)
    (line,) = a.problems
    assert line.endswith("x... and 45 more: it is not JSON")
    assert len(line) < 400
    assert "\n" not in line


def test_the_longest_value(nodes: Nodes) -> None:
    a, b = nodes.make(OLD), nodes.make(OLD)
    assert nodes.put(a, "one", b"x" * MAX_VALUE_BYTES)
    with pytest.raises(BadValue, match=f"secret two: it has {MAX_VALUE_BYTES + 1} bytes; expected at most"):
        nodes.put(a, "two", b"x" * (MAX_VALUE_BYTES + 1))
    nodes.read(b)
    assert value(b, "one") == b"x" * MAX_VALUE_BYTES


def test_a_node_with_another_newest_secret_seals_again_when_it_joins(nodes: Nodes) -> None:
    a, prepared, exchanged = nodes.make(OLD), nodes.make(OLD, NEW), nodes.make(NEW, OLD)
    assert nodes.put(a, "one", b"first")
    before = nodes.stored()
    nodes.read(prepared)
    nodes.join(prepared)
    assert nodes.stored() == before
    nodes.read(exchanged)
    nodes.join(exchanged)
    assert nodes.stored() != before
    assert value(nodes.make(NEW), "one") == value(exchanged, "one") == b"first"
    nodes.read(prepared)
    assert value(prepared, "one") == b"first"


def test_a_store_does_not_show_its_values(nodes: Nodes) -> None:
    a = nodes.make(OLD)
    assert nodes.put(a, "one", b"first")
    assert repr(a) == "<SealedStore of 1 values>"
    assert "first" not in repr(a.get("one"))
