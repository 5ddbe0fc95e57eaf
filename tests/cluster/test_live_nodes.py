"""The nodes that share limits: joins and ends follow soon, and a node that restarts changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from memory import log_into
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from ktcpvs.cluster.live_nodes import JOIN_DELAY, LEAVE_DELAY, LiveNodes
from ktcpvs.cluster.membership import Membership
from ktcpvs.cluster.records import NodeReport
from ktcpvs.model.nodes import NodeIdentity


class Switch:
    """Stands for the director and its limits. shared: the names that it was told, each time."""

    def __init__(self, clock: Clock, lines: list[str]) -> None:
        self.context = SimpleNamespace(reactor=clock, log=log_into(lines))
        self.shared_limits = self
        self.live: frozenset[NodeIdentity] = frozenset()
        self.are_used = True
        self.shared: list[list[str]] = []

    def divide_among(self, live: frozenset[NodeIdentity]) -> Deferred[None]:
        self.live = live
        self.shared.append(sorted(node.name for node in live))
        return succeed(None)


class Nodes:
    """Node `a` with its membership, which the test changes."""

    def __init__(self, *others: str) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        self.membership = Membership(SimpleNamespace(), "/k/", "a")  # type: ignore[arg-type]
        self.membership.reports = {name: NodeReport(name) for name in ("a", *others)}
        self.switch: Any = Switch(self.clock, self.lines)
        cluster: Any = SimpleNamespace(membership=self.membership)
        self.followed = LiveNodes(cluster, self.switch, NodeIdentity("a"))
        Deferred.fromCoroutine(self.followed.joined())
        self.clock.advance(0)

    def joins(self, name: str, **values: Any) -> None:
        self.membership.reports[name] = NodeReport(name, **values)
        self.followed.apply(1, ())

    def leaves(self, name: str) -> None:
        del self.membership.reports[name]
        self.followed.apply(1, ())


def test_a_node_counts_those_that_are_there_when_it_joins() -> None:
    nodes = Nodes("b", "c")
    assert nodes.switch.shared == [["a", "b", "c"]]
    assert nodes.lines == ["cluster: 3 nodes share the limits of services: a, b, c"]


def test_nodes_that_join_together_are_one_change() -> None:
    nodes = Nodes()
    nodes.joins("b")
    nodes.clock.advance(JOIN_DELAY / 2)
    nodes.joins("c")
    nodes.clock.advance(JOIN_DELAY / 2)
    assert nodes.switch.shared == [["a"], ["a", "b", "c"]]


def test_a_node_that_restarts_changes_nothing() -> None:
    nodes = Nodes("b")
    nodes.leaves("b")
    nodes.clock.advance(LEAVE_DELAY * 0.9)
    nodes.joins("b")
    nodes.clock.advance(LEAVE_DELAY)
    assert nodes.switch.shared == [["a", "b"]]


def test_a_node_that_leaves_is_counted_no_more() -> None:
    nodes = Nodes("b")
    nodes.leaves("b")
    nodes.clock.advance(LEAVE_DELAY)
    assert nodes.switch.shared[1:] == [["a"]]


def test_a_drained_node_needs_no_part() -> None:
    nodes = Nodes("b")
    nodes.joins("b", drain="draining")
    nodes.clock.advance(LEAVE_DELAY)
    assert nodes.switch.shared[1:] == [["a"]]


def test_reports_that_change_nothing_are_no_change() -> None:
    nodes = Nodes("b")
    nodes.joins("b", connections=7)
    nodes.clock.advance(10)
    assert len(nodes.switch.shared) == 1
    assert nodes.clock.getDelayedCalls() == []
