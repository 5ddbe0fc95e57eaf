"""Nodes of a cluster, with a real etcd: one table for all of them, and what happens when something breaks."""

from __future__ import annotations

import contextlib
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_server import EtcdServer
from servers import LOOPBACK, Nginx, free_port, wait_for
from twisted.internet.defer import Deferred, DeferredList

from ktcpvs.errors import BadValue, NoCluster, Refusal

from .harness import ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    yield server
    server.stop()


class Nodes:
    """Two nodes of a cluster: `a`, with two workers, and `b`."""

    def __init__(self, a: Daemon, b: Daemon) -> None:
        self.a, self.b = a, b

    def state(self, name: str, asked: Daemon | None = None) -> str:
        """The state of a node, as another one sees it."""
        rows = {row["node"]: row for row in (asked or self.a).call("nodes")["nodes"]}
        return str(rows.get(name, {}).get("state"))

    def in_step(self) -> bool:
        return all(self.state(name, asked) == "ok" for name in "ab" for asked in (self.a, self.b))


def services(daemon: Daemon) -> dict[str, Any]:
    return {service["ident"]: service for service in daemon.call("table")["services"]}


@pytest.fixture(scope="module")
def nodes(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory, etcd: EtcdServer) -> Iterator[Nodes]:
    made = []
    for name, workers in (("a", 2), ("b", 0)):
        folder = tmp_path_factory.mktemp(name)
        options = ["--cluster", f"etcd:{etcd.url}/cluster", "--node", name, "--state", folder / "state"]
        made.append(Daemon(control_thread, folder, *options, workers=workers, preloaded=True))
        made[-1].start()
        made[-1].wait_for_log(f"node {name} follows")
    nodes = Nodes(*made)
    wait_for(nodes.in_step, "both nodes to know each other")
    yield nodes
    with contextlib.ExitStack() as stack:
        for daemon in made:
            stack.callback(daemon.finish)


@pytest.fixture(autouse=True)
def empty(nodes: Nodes) -> Iterator[None]:
    """Each test begins with an empty table, and leaves both nodes in step."""
    yield
    wait_for(lambda: nodes.a.call("nodes")["connected"], "node a to follow")
    nodes.a.call("stop")
    nodes.a.call("load", "", allow_empty=True)
    wait_for(nodes.in_step, lambda: f"both nodes to be in step: {nodes.a.call('nodes')}")


def test_an_edit_on_one_node_is_in_force_on_the_other(nodes: Nodes) -> None:
    nodes.a.adm("-A", "-i", "shop", "-l", f"{LOOPBACK}:{free_port()}", "-s", "wlc")
    nodes.a.adm("-a", "-i", "shop", "-r", "127.0.0.1:81", "--wait-nodes")
    assert [server["address"] for server in services(nodes.b)["shop"]["servers"]] == ["127.0.0.1:81"]
    nodes.b.adm("-e", "-i", "shop", "-r", "127.0.0.1:81", "-w", "7", "--wait-nodes")
    assert services(nodes.a)["shop"] == services(nodes.b)["shop"]
    assert services(nodes.a)["shop"]["servers"][0]["weight"] == 7
    nodes.b.adm("-D", "-i", "shop", "--wait-nodes")
    assert services(nodes.a) == {}


def test_workers_serve_what_another_node_has_changed(nodes: Nodes, web: list[Nginx]) -> None:
    port = free_port()
    nodes.b.call("add_service", "web", listen=f"{LOOPBACK}:{port}", scheduler="phttp")
    nodes.b.call("add_server", "web", web[0].address)
    nodes.a.call("start", "web")  # node a listens first
    wait_for(lambda: nodes.state("b") == "refused", "node b to refuse")
    assert fetch(port).endswith(b" GET /\n")
    nodes.b.call("set", {"read_timeout": "77"})
    wait_for(lambda: {s["name"]: s["value"] for s in nodes.a.call("settings")}["read_timeout"] == 77, "the setting")
    shown = nodes.a.adm("--nodes").stdout
    assert f"node b: service web: cannot listen on {LOOPBACK}:{port}" in shown
    refused = nodes.a.adm("-e", "-i", "web", "-r", web[0].address, "-w", "3", "--wait-nodes")
    assert f"node b: service web: cannot listen on {LOOPBACK}:{port}" in refused.stderr


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/", timeout=10) as response:
        return bytes(response.read())


def test_edits_of_both_nodes_at_the_same_time(nodes: Nodes, control_thread: ControlThread) -> None:
    nodes.a.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}")
    for port in range(81, 91):
        nodes.a.call("add_server", "shop", f"127.0.0.1:{port}")
    wait_for(nodes.in_step, "both nodes to be in step")
    both = (nodes.a.switch, nodes.b.switch)

    async def edit_all() -> list[Any]:
        asked = [
            Deferred.fromCoroutine(both[port % 2].edit_server("shop", f"127.0.0.1:{port}", weight=port))
            for port in range(81, 91)
        ]
        return list(await DeferredList(asked))

    assert all(is_done for is_done, _ in control_thread.run(edit_all))
    wait_for(nodes.in_step, "both nodes to be in step")
    for daemon in (nodes.a, nodes.b):
        assert [server["weight"] for server in services(daemon)["shop"]["servers"]] == list(range(81, 91))


def test_many_services_are_loaded_as_a_whole(nodes: Nodes, tmp_path: Path) -> None:
    path = tmp_path / "many.conf"
    blocks = [f"Virtual s{n} {{\n listen = {LOOPBACK}:{20000 + n}\n server = 127.0.0.1:81 1\n}}\n" for n in range(300)]
    path.write_text("".join(blocks))
    nodes.b.adm("-f", path, "--wait-nodes")
    assert list(services(nodes.a)) == list(services(nodes.b)) == [f"s{n}" for n in range(300)]


def test_edits_are_refused_while_etcd_does_not_respond(nodes: Nodes, etcd: EtcdServer) -> None:
    nodes.a.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}")
    etcd.freeze()
    try:
        with pytest.raises(Refusal, match="etcd"):
            nodes.a.call("add_server", "shop", "127.0.0.1:81")
        wait_for(lambda: not nodes.a.call("nodes")["connected"], "node a to notice")
        with pytest.raises(NoCluster, match=r"edits are refused until it responds: .* does not respond"):
            nodes.a.call("add_server", "shop", "127.0.0.1:82")
        assert "this node does not follow the cluster" in nodes.a.adm("--nodes").stdout
    finally:
        etcd.thaw()
    wait_for(lambda: nodes.a.call("nodes")["connected"] and nodes.b.call("nodes")["connected"], "both to follow again")
    nodes.a.call("add_server", "shop", "127.0.0.1:83")
    wait_for(lambda: services(nodes.a) == services(nodes.b), "both to have the same table")


def test_a_restart_of_etcd_loses_nothing(nodes: Nodes, etcd: EtcdServer) -> None:
    nodes.a.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}")
    etcd.stop()
    etcd.start()
    wait_for(lambda: nodes.a.call("nodes")["connected"] and nodes.b.call("nodes")["connected"], "both to follow again")
    nodes.b.call("add_server", "shop", "127.0.0.1:81")
    wait_for(lambda: len(services(nodes.a)["shop"]["servers"]) == 1, "the edit")


def test_a_snapshot_that_is_restored_is_in_force_on_all_nodes(nodes: Nodes, etcd: EtcdServer, tmp_path: Path) -> None:
    """The revisions of etcd go back."""
    nodes.a.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}")
    etcd.save_snapshot(tmp_path / "snapshot")
    for port in range(81, 90):
        nodes.b.call("add_server", "shop", f"127.0.0.1:{port}")
    nodes.a.call("add_service", "other", listen=f"{LOOPBACK}:{free_port()}")
    etcd.restore(tmp_path / "snapshot")
    wait_for(lambda: list(services(nodes.a)) == list(services(nodes.b)) == ["shop"], "the former table", timeout=30)
    assert services(nodes.a)["shop"]["servers"] == []
    wait_for(lambda: nodes.a.call("nodes")["connected"] and nodes.b.call("nodes")["connected"], "both to follow again")
    nodes.b.call("add_server", "shop", "127.0.0.1:81")
    nodes.a.call("add_server", "shop", "127.0.0.1:82")
    wait_for(lambda: services(nodes.a) == services(nodes.b), "both to have the same table")
    assert len(services(nodes.a)["shop"]["servers"]) == 2
    wait_for(nodes.in_step, "both nodes to be in step")


def test_a_node_that_ends_is_gone_and_comes_back_with_the_table(nodes: Nodes) -> None:
    nodes.a.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}")
    nodes.b.finish()
    wait_for(lambda: nodes.state("b") == "gone", "node b to be gone")
    nodes.a.call("add_server", "shop", "127.0.0.1:81")
    nodes.b.forget_log()
    nodes.b.start()
    nodes.b.wait_for_log("node b follows")
    assert services(nodes.b) == services(nodes.a)


def test_a_second_node_of_the_same_name_is_refused(
    nodes: Nodes, etcd: EtcdServer, make_daemon: Callable[..., Daemon]
) -> None:
    nodes.a.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}")
    twin = make_daemon("--cluster", f"etcd:{etcd.url}/cluster", "--node", "a")
    twin.start()
    twin.wait_for_log("a node named a is in the cluster already: give this one another --node")
    with pytest.raises(NoCluster, match="a node named a is in the cluster already"):
        twin.call("add_service", "other", listen=f"{LOOPBACK}:{free_port()}")
    wait_for(lambda: nodes.state("a", nodes.b) == "ok", "node a to be in step")


def test_a_start_without_etcd_takes_the_state_file(
    nodes: Nodes, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    alone = make_daemon("--state", state)
    alone.start()
    alone.call("add_service", "shop", listen=f"{LOOPBACK}:{free_port()}")
    alone.signal(signal.SIGTERM)
    alone.wait()
    node = make_daemon("--state", state, "--cluster", f"etcd:http://{LOOPBACK}:{free_port()}/x", "--node", "c")
    node.start()
    node.wait_for_log("this node goes on with the table that it has, and refuses edits until etcd responds")
    assert list(services(node)) == ["shop"]


def test_a_daemon_in_no_cluster_says_so(new_daemon: Daemon) -> None:
    with pytest.raises(BadValue, match="this daemon is in no cluster; --cluster and --node make it a node of one"):
        new_daemon.call("nodes")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--cluster-ca", "/x"), "--cluster-ca requires --cluster"),
        (("--cluster", "etcd:http://127.0.0.1:1"), "the prefix is missing"),
        (("--cluster", "etcd:http://127.0.0.1:1/x", "--node", "a b"), "--node a b: expected 1 to 63 letters"),
        (("--cluster", "etcd:http://127.0.0.1:1/x", "--cluster-ca", "/x"), "--cluster-ca requires members with https"),
        (("--cluster", "etcd:http://127.0.0.1:1/x", "--cluster-key", "/x"), "--cluster-key requires --cluster-cert"),
    ],
)
def test_options_that_make_no_sense(make_daemon: Callable[..., Daemon], options: tuple[str, ...], why: str) -> None:
    daemon = make_daemon(*options)
    daemon.run()
    assert daemon.wait() != 0
    assert why in daemon.log()


def test_credentials_that_cannot_be_read(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    options = ["--cluster", "etcd:http://127.0.0.1:1/x", "--node", "a", "--cluster-credentials"]
    assert "No such file or directory" in make_daemon(*options, tmp_path / "none").refused()
    (tmp_path / "bad").write_text("no colon\n")
    assert "its first line is not USER:PASSWORD" in make_daemon(*options, tmp_path / "bad").refused()
