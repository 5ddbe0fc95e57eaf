"""The names of nodes, with a real etcd: which process has one, and when it is free again."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from e2e.harness import ControlThread
from twisted.internet.defer import Deferred, gatherResults

from ktcpvs.cluster.etcd import Etcd, put
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.membership import Membership, NameTaken
from ktcpvs.cluster.records import NODES, NodeReport, encode_report
from ktcpvs.system.processes import identity


class Node:
    """A process that is a node named `a`, or would be. instance: tells processes apart."""

    def __init__(self, thread: ControlThread, etcd: Etcd, prefix: str, instance: str, process: str = "") -> None:
        self._thread, self._etcd, self._prefix = thread, etcd, prefix
        self.instance = instance
        self.membership = Membership(etcd, prefix, "a")
        if process:
            self.membership._process = process

    def read(self) -> None:
        """Learn what is in etcd."""
        self.membership.replace(*self._thread.run(self._etcd.range, self._prefix))

    def call(self, method: str, *arguments: Any) -> Any:
        return self._thread.run(getattr(self.membership, method), *arguments)

    def join(self) -> None:
        self.call("join", NodeReport(self.instance))

    def report(self) -> None:
        self.call("report", NodeReport(self.instance))

    def owner(self) -> str | None:
        """The instance that has the name."""
        self.read()
        report = self.membership.reports.get("a")
        return report.instance if report is not None else None


@pytest.fixture
def one(thread: ControlThread, etcd: Etcd, address: EtcdAddress) -> Node:
    node = Node(thread, etcd, address.prefix, "one")
    node.read()
    node.join()
    return node


@pytest.fixture
def two(thread: ControlThread, etcd: Etcd, address: EtcdAddress) -> Node:
    """Another process, which has not joined yet."""
    return Node(thread, etcd, address.prefix, "two")


def test_a_name_that_is_in_use_is_refused_until_it_is_free(one: Node, two: Node) -> None:
    two.read()
    with pytest.raises(NameTaken, match="a node named a is in the cluster already"):
        two.join()
    one.call("leave")
    two.read()
    two.join()
    assert two.owner() == "two"


def test_a_process_that_has_not_heard_of_the_other_one_does_not_get_its_name(one: Node, two: Node) -> None:
    with pytest.raises(NameTaken):  # two knows nothing
        two.join()
    assert one.owner() == "one"


def test_a_lease_that_has_ended_is_replaced(one: Node, thread: ControlThread, etcd: Etcd) -> None:
    first = one.membership.lease
    thread.run(etcd.revoke, first)
    one.report()
    assert one.membership.lease not in (0, first)
    assert one.owner() == "one"


def test_a_name_that_another_process_has_taken_meanwhile_is_not_taken_back(
    one: Node, two: Node, thread: ControlThread, etcd: Etcd
) -> None:
    one.read()
    thread.run(etcd.revoke, one.membership.lease)  # paused for longer than the lease
    two.join()
    with pytest.raises(NameTaken):
        one.report()
    assert two.owner() == "two"


def ended_process() -> str:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        name = identity(process.pid)
        process.kill()
    assert name
    return name


def test_the_name_of_a_process_of_this_machine_that_has_ended_is_free_at_once(
    thread: ControlThread, etcd: Etcd, address: EtcdAddress, two: Node
) -> None:
    crashed = Node(thread, etcd, address.prefix, "one", ended_process())
    crashed.join()
    two.read()
    two.join()
    assert two.owner() == "two"


@pytest.mark.parametrize("process", ["", "a b c d", "other-boot pid:[1] PID 5", "x PID", "\0 \0 \0 \0"])
def test_nothing_is_known_of_processes_elsewhere(
    thread: ControlThread, etcd: Etcd, address: EtcdAddress, two: Node, process: str
) -> None:
    Node(thread, etcd, address.prefix, "one", process.replace("PID", str(os.getpid())) or " ").join()
    two.read()
    with pytest.raises(NameTaken):
        two.join()


def test_a_report_of_a_newer_version_keeps_its_name(
    thread: ControlThread, etcd: Etcd, address: EtcdAddress, two: Node
) -> None:
    value = json.dumps({**json.loads(encode_report(NodeReport("one"))), "format": 99}).encode()
    thread.run(etcd.transact, [], [put(f"{address.prefix}{NODES}a", value)])
    two.read()
    with pytest.raises(NameTaken, match="nodes/a cannot be read: its format is 99"):
        two.join()


def test_names_that_no_node_can_have_are_kept_out(
    one: Node, thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    operations = [put(f"{address.prefix}{key}", b"x") for key in ("nodes/", "members/a\x1b[2J", "nodes/b/c")]
    thread.run(etcd.transact, [], operations)
    one.read()
    assert set(one.membership.reports) == one.membership.members == {"a"}
    assert all("this is no name of a node" in why for why in one.membership.unreadable.values())
    assert set(one.membership.unreadable) == {"", r"a\x1b[2J", "b/c"}


def test_reports_at_the_same_time_keep_the_lease(one: Node, thread: ControlThread) -> None:
    first = one.membership.lease

    async def report_all() -> None:
        await gatherResults(
            [Deferred.fromCoroutine(one.membership.report(NodeReport("one", number))) for number in range(5)]
        )

    thread.run(report_all)
    assert one.membership.lease == first
    one.read()
    assert one.membership.reports["a"].revision == 4
