"""The pool decides which idle connections are reused, kept and closed; it does no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.http.pool import Pool
from ktcpvs.model.destination import Destination

A, B = Destination("a"), Destination("b")  # type: ignore[arg-type]


@dataclass(eq=False)
class Connection:
    destination: Destination = field(default=A)
    idle_since: int = 0


def test_the_most_recently_used_comes_first() -> None:
    pool: Pool[Connection] = Pool()
    first, second = Connection(), Connection()
    assert pool.put(first, 1, 10) is None
    assert pool.put(second, 2, 10) is None
    assert (first.idle_since, second.idle_since, pool.idle(A), pool.idle(B)) == (1, 2, 2, 0)
    assert [pool.take(A), pool.take(A), pool.take(A)] == [second, first, None]


def test_a_surplus_connection_is_returned_to_be_closed() -> None:
    pool: Pool[Connection] = Pool()
    kept, surplus = Connection(), Connection()
    assert pool.put(kept, 0, 1) is None
    assert pool.put(surplus, 0, 1) is surplus
    assert pool.put(Connection(B), 0, 1) is None
    assert pool.take(A) is kept
    assert pool.put(surplus, 0, 0) is surplus


def test_old_connections_expire() -> None:
    pool: Pool[Connection] = Pool()
    old, young, other = Connection(), Connection(), Connection(B)
    for tick, connection in enumerate((old, young, other)):
        pool.put(connection, tick, 10)
    assert pool.expire(0) == []
    assert pool.expire(1) == [old]
    assert pool.expire(5) == [young, other]
    assert not pool


def test_servers_that_are_gone_are_drained() -> None:
    pool: Pool[Connection] = Pool()
    ours, other = Connection(), Connection(B)
    pool.put(ours, 0, 10)
    pool.put(other, 0, 10)
    assert pool.drain(frozenset({A})) == [other]
    pool.discard(other)
    assert pool.take(A) is ours
    pool.put(ours, 0, 10)
    pool.discard(ours)
    assert pool.drain() == []


@given(st.lists(st.tuples(st.sampled_from("tpde"), st.integers(0, 1), st.integers(0, 3)), max_size=40))
def test_each_connection_is_kept_once_or_handed_out(steps: list[tuple[str, int, int]]) -> None:
    """In any order of operations, no connection is lost, and none is kept twice."""
    pool: Pool[Connection] = Pool()
    kept: set[Connection] = set()
    for tick, (step, place, number) in enumerate(steps):
        destination = (A, B)[place]
        if step == "t":
            taken = pool.take(destination)
            kept -= {taken} if taken else set()
        elif step == "p":
            connection = Connection(destination)
            surplus = pool.put(connection, tick, number)
            kept |= {connection} if surplus is None else set()
        elif step == "d":
            kept -= set(pool.drain(frozenset({destination})))
        else:
            expired = pool.expire(tick - number)
            assert all(connection.idle_since < tick - number for connection in expired)
            kept -= set(expired)
        there = [connection for idle in pool.kept.values() for connection in idle]
        assert len(there) == len(kept)
        assert set(there) == kept
        assert all(connection.destination in (A, B) for connection in there)
