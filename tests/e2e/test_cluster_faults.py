"""A cluster whose parts fail: members of etcd, the ways to them, nodes, and what is stored."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_server import leader
from servers import LOOPBACK, Nginx, free_port, wait_for

from ktcpvs.cluster.etcd import Etcd, KeyValue, delete, put
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.errors import NoCluster, Refusal

from .etcd_cluster import CUT_OFF, Cluster, Node
from .harness import ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.programs]

PREFIX = "/faults/"


@pytest.fixture(scope="module")
def cluster(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(control_thread, tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.finish()


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    """Each test begins with an empty table, and with everything in order."""
    for node in cluster:
        node.daemon.forget_log()
    yield
    cluster.recover()


class Store:
    """What is stored in etcd, for tests that change it themselves."""

    def __init__(self, thread: ControlThread, url: str) -> None:
        self._thread = thread
        self._etcd = Etcd(thread.reactor, EtcdAddress((url,), PREFIX))

    def pairs(self) -> dict[str, KeyValue]:
        return {pair.key: pair for pair in self._thread.run(self._etcd.range, PREFIX)[1]}

    def key_of(self, ident: str) -> str:
        return next(key for key in self.pairs() if key.endswith(f"/services/{ident}"))

    def put(self, key: str, value: bytes) -> None:
        self._thread.run(self._etcd.transact, [], [put(key, value)])

    def delete(self, key: str) -> None:
        self._thread.run(self._etcd.transact, [], [delete(key)])

    def compact(self) -> None:
        revision = self._thread.run(self._etcd.range, PREFIX)[0]
        self._thread.run(self._etcd._ask, "kv/compaction", {"revision": str(revision), "physical": True})


@pytest.fixture
def store(control_thread: ControlThread, cluster: Cluster) -> Iterator[Store]:
    store = Store(control_thread, cluster.members[0].url)
    yield store
    control_thread.run(store._etcd.close)


def shop(node: Node, count: int = 1) -> None:
    """Add a service that does not run, with servers on the ports from 81 on."""
    node.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}")
    for number in range(count):
        node.call("add_server", "shop", f"127.0.0.1:{81 + number}")


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/", timeout=10) as response:
        return bytes(response.read())


# etcd, or the way to it.


def test_everything_serves_on_without_etcd_and_says_so_once(cluster: Cluster, web: list[Nginx]) -> None:
    a, b, c = cluster
    port = free_port()
    a.call("add_service", "web", listen=f"{LOOPBACK}:{port}", scheduler="phttp")
    a.call("add_server", "web", web[0].address)
    a.call("start", "web")
    cluster.wait_until_in_step()
    for node in cluster:
        node.daemon.forget_log()
        node.links.reset()
    before = {node.name: sum(proxy.connections for proxy in node.links) for node in cluster}
    for node in cluster:  # several rounds of attempts
        wait_for(
            lambda node=node: sum(proxy.connections for proxy in node.links) > before[node.name] + 12,
            "attempts",
            timeout=20,
        )
    for node in cluster:
        assert node.daemon.log().count(CUT_OFF) == 1, node.daemon.log()
        with pytest.raises(NoCluster, match="edits are refused until it responds"):
            node.call("set", {"read_timeout": "5"})
    assert fetch(port).endswith(b" GET /\n")
    b.daemon.restart()  # it takes its state file
    assert list(b.services()) == ["web"]
    assert CUT_OFF in b.daemon.log()
    assert fetch(port).endswith(b" GET /\n")
    b.daemon.forget_log()
    b.links.mend()
    b.daemon.wait_for_log("node b follows")
    assert c.services() == b.services()


def test_nodes_that_are_away_for_longer_than_their_lease_come_back(cluster: Cluster) -> None:
    """One is cut off by a network that swallows everything, the other one is paused."""
    a, b, c = cluster
    shop(a)
    cluster.wait_until_in_step()
    b.links.swallow()
    c.pause()
    try:
        wait_for(lambda: a.row("b")["state"] == a.row("c")["state"] == "gone", "both to be gone", timeout=30)
        with pytest.raises(NoCluster, match=r"edits are refused until it responds: .* does not respond"):
            b.call("add_server", "shop", "127.0.0.1:99")
        a.call("edit_server", "shop", "127.0.0.1:81", weight=7)
    finally:
        c.resume()
    assert b.weights("shop") == {"127.0.0.1:81": 1}
    b.links.mend()
    cluster.wait_until_in_step()
    assert b.weights("shop") == c.weights("shop") == {"127.0.0.1:81": 7}
    for node in (b, c):
        assert "in the cluster already" not in node.daemon.log()
        assert node.row(node.name)["state"] == "ok"
        node.call("edit_server", "shop", "127.0.0.1:81", weight=8)


def test_a_half_open_connection_is_noticed(cluster: Cluster) -> None:
    """All connections of a node swallow everything from now on; new ones work."""
    a, b, _ = cluster
    shop(a)
    b.links.half_open()
    a.call("add_server", "shop", "127.0.0.1:99")
    wait_for(lambda: "127.0.0.1:99" in b.weights("shop"), lambda: f"the edit: {b.daemon.log()}", timeout=30)
    b.call("delete_server", "shop", "127.0.0.1:99")


def test_a_cut_watch_goes_on_where_it_was(cluster: Cluster) -> None:
    a, b, _ = cluster
    shop(a)
    for port in (90, 91):
        for proxy in b.links:
            proxy.cut()
        a.call("add_server", "shop", f"127.0.0.1:{port}")
    wait_for(lambda: len(b.weights("shop")) == 3, "both edits")


def test_a_node_reads_everything_again_if_etcd_has_compacted_what_it_missed(cluster: Cluster, store: Store) -> None:
    a, b, _ = cluster
    shop(a)
    wait_for(lambda: "shop" in b.services(), "the service")
    b.links.close()
    wait_for(lambda: not b.is_connected(), "node b to notice")
    a.call("edit_server", "shop", "127.0.0.1:81", weight=5)
    a.call("add_service", "other", listen=f"{LOOPBACK}:{free_port()}")
    a.call("delete_service", "other")
    store.compact()
    b.links.open()
    wait_for(lambda: b.is_connected() and b.weights("shop") == {"127.0.0.1:81": 5}, "node b to catch up", timeout=30)
    assert list(b.services()) == ["shop"]


# Members.


def member_of(cluster: Cluster, node: Node) -> Any:
    """The member that a node asks."""
    url = node.nodes()["etcd"]
    proxy = next(proxy for proxy in node.links if proxy.url == url)
    return next(member for member in cluster.members if member.port == proxy.to)


def test_an_edit_goes_through_when_a_member_is_lost(cluster: Cluster) -> None:
    """Also if it is the leader, and the node's own member."""
    a, b, _ = cluster
    shop(a)
    lost = member_of(cluster, a)
    lost.kill()
    for node in (a, b):
        wait_for(
            lambda node=node: member_of(cluster, node) is not lost and node.is_connected(),
            f"node {node.name} to follow another member",
        )
    a.call("add_server", "shop", "127.0.0.1:82")
    b.call("add_server", "shop", "127.0.0.1:83")
    lost.start()
    lost = leader(cluster.members)
    lost.kill()
    for node in cluster:
        wait_for(
            lambda node=node: member_of(cluster, node) is not lost and node.is_connected(),
            f"node {node.name} to follow another member",
            timeout=30,
        )
    for port, node in enumerate(cluster, 84):
        node.call("add_server", "shop", f"127.0.0.1:{port}")
    cluster.wait_until_in_step()
    assert len(a.weights("shop")) == 6


def test_an_edit_waits_until_a_node_has_found_etcd_again(cluster: Cluster) -> None:
    """The edit comes when the node has lost etcd, and before it has reached another member."""
    a, _, _ = cluster
    shop(a)
    a.daemon.forget_log()
    a.links.reset()
    a.daemon.wait_for_log(CUT_OFF)
    mend = threading.Timer(1, a.links.mend)
    mend.start()
    try:
        a.call("add_server", "shop", "127.0.0.1:82")
    finally:
        mend.join()
    assert len(a.weights("shop")) == 2


def test_an_edit_waits_for_a_new_leader(cluster: Cluster) -> None:
    """The leader is frozen when the edit comes, as by a disk that does not respond."""
    a, _, _ = cluster
    shop(a)
    frozen = leader(cluster.members)
    frozen.freeze()
    a.call("add_server", "shop", "127.0.0.1:82")
    frozen.thaw()
    wait_for(lambda: len(a.weights("shop")) == 2, "the edit")


def test_edits_go_through_while_a_disk_is_slow(cluster: Cluster) -> None:
    """The leader stops for half a second, again and again."""
    a, b, _ = cluster
    shop(a)
    slow, has_ended = leader(cluster.members), threading.Event()

    def stutter() -> None:
        while not has_ended.is_set():
            slow.freeze()
            time.sleep(0.5)
            slow.thaw()
            time.sleep(0.2)

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        for port in range(82, 88):
            (a, b)[port % 2].call("add_server", "shop", f"127.0.0.1:{port}")
    finally:
        has_ended.set()
        thread.join()
    assert len(a.weights("shop")) == 7
    cluster.wait_until_in_step()


def test_without_a_majority_edits_are_refused_and_nothing_is_lost(cluster: Cluster) -> None:
    a, b, c = cluster
    shop(a, 2)
    cluster.wait_until_in_step()
    lost = cluster.members[:2]
    for member in lost:
        member.kill()
    for node in cluster:
        wait_for(lambda node=node: not node.is_connected(), f"node {node.name} to notice", timeout=30)
        with pytest.raises(Refusal, match="etcd"):
            node.call("add_server", "shop", "127.0.0.1:99")
    for member in lost:
        member.begin()
    for node in cluster:
        node.wait_until_connected()
    cluster.wait_until_in_step()
    assert a.weights("shop") == b.weights("shop") == c.weights("shop") == {"127.0.0.1:81": 1, "127.0.0.1:82": 1}


# Nodes.


def test_a_node_that_was_killed_is_back_at_once(cluster: Cluster) -> None:
    """Its lease lasts for ten seconds more."""
    a, b, _ = cluster
    shop(a)
    cluster.wait_until_in_step()
    b.restart()
    assert "in the cluster already" not in b.daemon.log()
    assert b.weights("shop") == {"127.0.0.1:81": 1}
    wait_for(lambda: a.row("b").get("state") == "ok", "node a to see it")


def test_a_node_killed_while_etcd_is_away_starts_with_the_last_table(cluster: Cluster) -> None:
    a, b, _ = cluster
    shop(a)
    b.call("edit_server", "shop", "127.0.0.1:81", weight=9)
    b.links.close()
    b.daemon.restart()
    assert b.weights("shop") == {"127.0.0.1:81": 9}
    assert "the table comes from the state file" in b.daemon.log()
    a.call("edit_server", "shop", "127.0.0.1:81", weight=10)
    b.links.open()
    wait_for(lambda: b.weights("shop") == {"127.0.0.1:81": 10}, "node b to catch up", timeout=30)


# What is stored.


def wait_until_reported(node: Node, why: str) -> None:
    """Wait until a node reports that it could not put something in force."""

    def is_reported() -> bool:
        return any(why in error for error in node.row(node.name)["errors"])

    wait_for(is_reported, lambda: f"'{why}' to be reported: {node.nodes()}", timeout=20)


def test_a_service_that_cannot_be_read_stays_as_it_is(cluster: Cluster, store: Store) -> None:
    a, b, _ = cluster
    shop(a)
    a.call("add_service", "other", listen=f"{LOOPBACK}:{free_port()}")
    cluster.wait_until_in_step()
    key, other = store.key_of("shop"), store.key_of("other")
    good = store.pairs()[key].value
    newer = json.dumps({**json.loads(good), "format": 99}).encode()
    unknown = good.replace(b"scheduler = ", b"from_tomorrow = 5\\n    scheduler = ")
    for value, why in (
        (b"\xff\0garbage", "service shop: it is not JSON"),
        (newer, "service shop: its format is 99; this version reads formats up to 1"),
        (unknown, "service shop: this version cannot read it"),
        (store.pairs()[other].value, "service shop: it is not the service of its key"),
    ):
        store.put(key, value)
        for node in cluster:
            wait_until_reported(node, why)
            assert node.weights("shop") == {"127.0.0.1:81": 1}
        assert why in a.adm("--nodes").stdout
        with pytest.raises(Refusal, match=why):
            b.call("edit_server", "shop", "127.0.0.1:81", weight=3)
        b.call("edit_service", "other", scheduler="rr")  # everything else goes on
    store.put(key, re.sub(rb"scheduler = \w+", b"scheduler = from_tomorrow", good))
    for node in cluster:  # a part that can be read can be edited here too, and so mended
        wait_until_reported(node, "no scheduler 'from_tomorrow'")
    edited = b.adm("-e", "-i", "shop", "-r", "127.0.0.1:81", "-w", "2")
    assert "no scheduler 'from_tomorrow'" in edited.stderr
    store.put(key, good)
    cluster.wait_until_in_step()
    assert a.row("a")["state"] == "ok"
    b.call("edit_server", "shop", "127.0.0.1:81", weight=3)


@pytest.mark.parametrize("name", ["format", "table"])
def test_a_cluster_of_a_newer_version_is_left_alone(cluster: Cluster, store: Store, name: str) -> None:
    a, b, _ = cluster
    shop(a)
    cluster.wait_until_in_step()
    key = f"{PREFIX}{name}"
    good = store.pairs()[key].value
    store.put(key, b'{"format":2,"generation":"other"}')
    why = f"{key}: its format is 2; this version reads formats up to 1"
    for node in cluster:
        wait_until_reported(node, why)
        assert list(node.services()) == ["shop"]
        with pytest.raises(Refusal, match=why):
            node.call("add_server", "shop", "127.0.0.1:99")
    b.daemon.restart()
    b.daemon.wait_for_log(why)
    assert list(b.services()) == ["shop"]
    store.put(key, good)
    for node in cluster:
        node.wait_until_connected()
    wait_for(lambda: all(node.row(node.name)["state"] == "ok" for node in cluster), "all to be in order", timeout=30)
    b.call("add_server", "shop", "127.0.0.1:99")


def test_keys_that_are_none_of_ours_do_no_harm(cluster: Cluster, store: Store) -> None:
    a, b, _ = cluster
    shop(a)
    keys = [f"{PREFIX}{rest}" for rest in ("nodes/x\x1b[2J", "nodes/y", "members/", "tables/5/services/z", "unknown/z")]
    keys.append(store.key_of("shop") + "%ff%0a")
    for key in keys:
        store.put(key, b"{]")
    wait_for(lambda: a.row("y").get("state") == "unknown", lambda: f"node y: {a.nodes()}")
    shown = a.adm("--nodes").stdout
    assert "node y: it is not JSON" in shown
    assert "\x1b" not in shown
    assert r"service shop\ufffd\n: it is not JSON" in shown or r"service shop�\n: it is not JSON" in shown
    b.call("add_server", "shop", "127.0.0.1:99")
    b.restart()
    assert len(b.weights("shop")) == 2
    for key in keys:
        store.delete(key)
    cluster.wait_until_in_step()
    assert {row["node"] for row in a.nodes()["nodes"]} == {"a", "b", "c"}


def test_nodes_go_on_when_somebody_deletes_everything(cluster: Cluster, store: Store) -> None:
    a, b, c = cluster
    shop(a)
    cluster.wait_until_in_step()
    for key in store.pairs():
        store.delete(key)
    for node in cluster:
        wait_for(lambda node=node: node.row("a").get("state") == "ok", "the nodes to report again")
        assert list(node.services()) == ["shop"]
    b.call("add_server", "shop", "127.0.0.1:99")
    wait_for(lambda: a.weights("shop") == c.weights("shop") == b.weights("shop"), "the edit")


def test_a_member_that_is_not_etcd_is_passed_over(
    cluster: Cluster, store: Store, make_daemon: Callable[..., Daemon], web: list[Nginx], tmp_path: Path
) -> None:
    """nginx responds to everything, with text."""
    shop(cluster.nodes[0])
    urls = f"http://{web[0].address},{cluster.members[0].url}"
    node = make_daemon("--cluster", f"etcd:{urls}/faults", "--node", "d", "--state", tmp_path / "state")
    node.start()
    node.wait_for_log("node d follows")
    assert "the response is not etcd's" in node.log()
    assert "shop" in {service["ident"] for service in node.call("table")["services"]}
    node.signal(signal.SIGTERM)
    node.wait()
    store.delete(f"{PREFIX}members/d")
