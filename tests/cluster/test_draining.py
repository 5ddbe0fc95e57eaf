"""The drains of nodes, as etcd reports them, and as this node stores them."""

from __future__ import annotations

import pytest

from ktcpvs.cluster.draining import KnownDrain, NodeDrains
from ktcpvs.cluster.etcd import Change
from ktcpvs.cluster.records import DRAINS, Drain, encode_drain

PREFIX = "/p/"
DRAIN = Drain(0, 1, "a")


async def report() -> None:
    pass


def change(drain: Drain | None, revision: int, created: int | None = None) -> Change:
    """created: None: its key is made now."""
    value = None if drain is None else encode_drain(drain)
    return Change(f"{PREFIX}{DRAINS}b", value, revision if created is None else created, revision)


def make() -> NodeDrains:
    return NodeDrains(PREFIX, "a", report)


def test_what_this_node_has_stored_is_known_at_once() -> None:
    drains = make()
    drains.stored("b", DRAIN, 5)
    assert drains.drains == {"b": KnownDrain(DRAIN, 5, 5)}
    drains.apply(5, [change(DRAIN, 5)])
    drains.stored("b", None, 6)
    assert drains.drains == {}


def test_an_earlier_change_that_is_heard_of_last_changes_nothing() -> None:
    """The response to what this node stores may come before the watch reports what another one has stored before."""
    drains = make()
    drains.stored("b", DRAIN, 5)
    drains.apply(4, [change(None, 4)])
    assert drains.drains == {"b": KnownDrain(DRAIN, 5, 5)}
    drains.apply(5, [change(DRAIN, 5)])
    drains.stored("b", None, 7)
    drains.apply(6, [change(DRAIN, 6)])
    assert drains.drains == {}
    drains.apply(8, [change(None, 7), change(DRAIN, 8)])
    assert drains.drains == {"b": KnownDrain(DRAIN, 8, 8)}


def test_a_later_change_that_is_heard_of_first_stays() -> None:
    """The watch may report it before the response to what this node stores has come."""
    drains = make()
    drains.apply(6, [change(DRAIN, 5), change(None, 6)])
    drains.stored("b", DRAIN, 5)
    assert drains.drains == {}
    drains.apply(8, [change(None, 7), change(DRAIN, 8)])
    drains.stored("b", None, 7)
    assert drains.drains == {"b": KnownDrain(DRAIN, 8, 8)}


@pytest.mark.parametrize("is_own", [True, False], ids=["here", "elsewhere"])
def test_a_node_that_is_drained_again_still_does_what_it_has_reported(is_own: bool) -> None:
    drains = make()
    drains.apply(5, [change(DRAIN, 5)])
    assert drains.state_of("b", "drained", 4) == "leaving", "the report is of an earlier drain"
    assert drains.state_of("b", "drained", 5) == "drained"
    if is_own:
        drains.stored("b", Drain(9, 2, "a"), 6)
    drains.apply(6, [change(Drain(9, 2, "a"), 6, created=5)])
    assert drains.drains == {"b": KnownDrain(Drain(9, 2, "a"), 5, 6)}
    assert drains.state_of("b", "drained", 5) == "drained"
    drains.apply(8, [change(None, 7), change(DRAIN, 8)])
    assert drains.state_of("b", "drained", 6) == "leaving"
    assert drains.state_of("b", "drained", 8) == "drained"
