"""Three nodes of a cluster, one with two workers: what all of them do together, and nodes that are drained."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from etcd_server import EtcdServer
from servers import LOOPBACK, Nginx, SocketServer, dial, echo, free_port, wait_for

from ktcpvs.errors import BadValue, Busy

from .harness import ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

NAMES = ("a", "b", "c")
DRAIN_TIMEOUT = 60
"""Seconds: longer than any test of connections that drain."""


class Nodes:
    """Node `a` has two workers. ports: of service `web`, by node. status: ports of the status servers."""

    def __init__(
        self,
        daemons: dict[str, Daemon],
        options: dict[str, list[str | Path]],
        status: dict[str, int],
        ports: dict[str, int],
    ) -> None:
        self.daemons, self.options, self.status, self.ports = daemons, options, status, ports

    def __getitem__(self, name: str) -> Daemon:
        return self.daemons[name]

    def row(self, name: str, asked: str = "a") -> dict[str, Any]:
        """What `--nodes` says of a node."""
        return next((row for row in self[asked].call("nodes")["nodes"] if row["node"] == name), {})

    def wait_for_state(self, name: str, state: str, asked: str = "a") -> None:
        """Wait until a node tells that one of them is in this state; the others may hear of it later."""
        wait_for(
            lambda: self.row(name, asked)["state"] == state,
            lambda: f"node {name} to be {state} on node {asked}: {self.row(name, asked)}",
            30,
        )

    def ready(self, name: str) -> tuple[int, str]:
        """What /ready of a node responds."""
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.status[name]}/ready", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def get(self, name: str) -> int:
        """Send a request to service `web` on that node, and return the status."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.ports[name]}/", timeout=10) as response:
            return int(response.status)

    def accepts(self, name: str) -> bool:
        try:
            dial((LOOPBACK, self.ports[name])).close()
        except ConnectionRefusedError:
            return False
        return True


@pytest.fixture(scope="module")
def nodes(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory, web: list[Nginx]) -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        etcd = EtcdServer(tmp_path_factory.mktemp("etcd"))
        stack.callback(etcd.stop)
        daemons: dict[str, Daemon] = {}
        given: dict[str, list[str | Path]] = {}
        status = {}
        for name in NAMES:
            folder, status[name] = tmp_path_factory.mktemp(name), free_port()
            given[name] = ["--cluster", f"etcd:{etcd.url}/views", "--node", name, "--state", folder / "state"]
            given[name] += ["--status", f"tcp:{status[name]}"]
            workers = 2 if name == "a" else 0
            daemons[name] = Daemon(control_thread, folder, *given[name], workers=workers, preloaded=True)
            daemons[name].start()
            stack.callback(lambda one=name: daemons[one].finish())
            daemons[name].wait_for_log(f"node {name} follows")
        made = Nodes(daemons, given, status, {name: free_port() for name in NAMES})
        listeners = "".join(f"listen = {LOOPBACK}:{port} on {name}\n" for name, port in made.ports.items())
        text = f"global {{ drain_timeout = {DRAIN_TIMEOUT} }}\nVirtual web {{\n{listeners}scheduler = phttp\n"
        daemons["a"].call("load", f"{text}server = {web[0].address} 1\n}}\nVirtual off {{ listen = {LOOPBACK}:1 }}\n")
        daemons["a"].call("start", "web")
        for name, asked in product(NAMES, NAMES):
            made.wait_for_state(name, "ok", asked)
        daemons["a"].wait_until_workers_serve()
        yield made


def total(stats: dict[str, Any], ident: str = "web") -> int:
    return next(int(one["stats"]["total"]) for one in stats["services"] if one["ident"] == ident)


def test_counters_of_all_nodes_add_up(nodes: Nodes) -> None:
    before = nodes["b"].call("cluster_stats")
    sent = {"a": 4, "b": 2, "c": 1}
    for name, count in sent.items():
        assert [nodes.get(name) for _ in range(count)] == [200] * count
    after = nodes["b"].json("--stats", "--all-nodes")
    assert total(after) - total(before) == sum(sent.values())
    of_nodes = {one["node"]: total(one) for one in after["nodes"]}
    assert list(of_nodes) == list(NAMES)
    assert sum(of_nodes.values()) == total(after)
    assert {name: of_nodes[name] - total(one) for name, one in zip(NAMES, before["nodes"], strict=True)} == sent
    assert after["missing"] == {}
    (service,) = (one for one in after["services"] if one["ident"] == "web")
    assert service["servers"][0]["health"] == {"state": "up", "since": 0, "reason": "", "nodes": list(NAMES)}
    shown = nodes["c"].adm("--stats", "--all-nodes", "-i", "web").stdout
    assert "# Of nodes a, b, c.\n" in shown
    assert f" {total(after)} " in next(line for line in shown.splitlines() if line.startswith("web "))


def test_the_table_with_the_state_of_all_nodes_is_the_table_with_comments(nodes: Nodes) -> None:
    shown = nodes["b"].adm("--list", "--all-nodes", "-n").stdout
    assert shown.replace("# Of nodes a, b, c.\n", "") == nodes["b"].adm("--list", "-n").stdout
    lines = nodes["b"].adm("--diff", "-", input=shown, check=False).stdout.splitlines()
    assert [line for line in lines if not line.startswith("setting ")] == [], "a listing has no settings"


def test_rates_of_all_nodes(nodes: Nodes) -> None:
    nothing = {"connections": 0, "requests": 0, "bytes_in": 0, "bytes_out": 0}
    rates = nodes["a"].json("--rate", "--all-nodes", "-i", "web")
    assert {one["node"]: one["services"][0]["rate"] for one in rates["nodes"]} == dict.fromkeys(NAMES, nothing)
    assert rates["services"][0]["rate"] == nothing


def test_connections_name_their_node(nodes: Nodes) -> None:
    clients = {}
    for name in ("a", "c"):
        clients[name] = dial((LOOPBACK, nodes.ports[name]))
    try:

        def found() -> dict[str, str]:
            return {one["node"]: one["client"] for one in nodes["b"].call("cluster_connections")["connections"]}

        expected = {name: "{}:{}".format(*client.getsockname()) for name, client in clients.items()}
        wait_for(lambda: found() == expected, lambda: str(found()))
        shown = nodes["b"].adm("--connections", "--all-nodes").stdout.splitlines()
        first, *others = [line.split()[0] for line in shown[1:]]
        assert (first, sorted(others)) == ("Node", ["a", "c"])  # the oldest first, and these are of one second
    finally:
        for client in clients.values():
            client.close()


def test_a_node_that_does_not_respond_is_named(nodes: Nodes) -> None:
    nodes["c"].signal(signal.SIGSTOP)
    try:
        answer = nodes["a"].call("cluster_stats")
        assert answer["missing"] == {"c": "did not respond"}
        assert [one["node"] for one in answer["nodes"]] == ["a", "b"]
        assert total(answer) == sum(total(one) for one in answer["nodes"])
        assert "# Of nodes a, b; did not respond: c.\n" in nodes["a"].adm("--stats", "--all-nodes").stdout
    finally:
        nodes["c"].signal(signal.SIGCONT)
    wait_for(lambda: nodes["c"].call("nodes")["connected"], "node c to follow", timeout=30)
    nodes.wait_for_state("c", "ok")


def test_a_service_is_rebalanced_on_all_nodes(nodes: Nodes, serve: Callable[..., SocketServer]) -> None:
    """Node c, where the service does not run, says so."""
    servers, ports = [serve(echo), serve(echo)], {name: free_port() for name in "ab"}
    listen = "\n".join(f"{LOOPBACK}:{port} on {name}" for name, port in ports.items())
    nodes["a"].call("add_service", "raw", listen=listen, scheduler="wlc")
    try:
        nodes["a"].adm("-a", "-i", "raw", "-r", servers[0].address)
        nodes["a"].adm("--start", "-i", "raw", "--wait-nodes")
        with contextlib.ExitStack() as stack:
            for name in "abab":
                client = stack.enter_context(dial((LOOPBACK, ports[name])))
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            nodes["a"].adm("-a", "-i", "raw", "-r", servers[1].address, "--wait-nodes")
            command = ("--rebalance", "50", "-i", "raw", "--all-nodes", "--reset")
            done = nodes["c"].adm(*command, "--wait").stdout.splitlines()
            refused = "has refused: service raw does not run here, so no connection can move"
            assert done[0] == f"raw: 2 connections move now, of nodes a, b; {refused}: c"
            assert done[1].endswith(": 4 connections, 2 above its share; 2 move")
            assert done[-1] == "all have moved"
            assert len(nodes["c"].call("cluster_connections", "raw")["connections"]) == 2
        own = nodes["c"].adm("--rebalance", "50", "-i", "raw", check=False)
        assert own.stderr == "tcpvsadm: rebalance raw: service raw does not run here, so no connection can move\n"
    finally:
        nodes["a"].adm("--stop", "-i", "raw")
        nodes["a"].adm("-D", "-i", "raw", "--wait-nodes")


def test_an_unknown_service_is_refused(nodes: Nodes) -> None:
    assert (
        "no service wep; did you mean 'web'?"
        in nodes["a"].adm("--stats", "--all-nodes", "-i", "wep", check=False).stderr
    )


# Draining.


@pytest.mark.parametrize(("name", "asked"), [("a", "b"), ("b", "b")])
def test_a_drained_node_accepts_no_clients_until_it_is_undrained(nodes: Nodes, name: str, asked: str) -> None:
    assert nodes.ready(name) == (200, "ready\n")
    with dial((LOOPBACK, nodes.ports[name])) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")  # the rest comes later, so that it drains
        wait_for(lambda: nodes[name].call("connections"), "the connection")
        nodes[asked].adm("--drain-node", name)
        nodes.wait_for_state(name, "draining")
        assert nodes.ready(name) == (503, "draining\n")
        wait_for(lambda: not nodes.accepts(name), "the node's workers to stop accepting")
        wait_for(lambda: nodes.row(name, "c").get("drain") == "draining", lambda: str(nodes.row(name, "c")))
        wait_for(lambda: nodes.row(name, "c")["connections"] == 1, lambda: str(nodes.row(name, "c")))
        assert "draining 1 client" in nodes["c"].adm("--nodes").stdout
        nodes["c"].call("set", {"read_timeout": "77"})  # edits go on
        client.sendall(b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    assert nodes[asked].adm("--drain-node", name, "--wait").stdout.splitlines()[-1] == "drained"
    nodes.wait_for_state(name, "drained")  # on node a, which may hear of it later
    assert nodes.ready(name) == (503, "drained\n")
    nodes[asked].adm("--undrain-node", name)
    wait_for(lambda: nodes.accepts(name), "the node to accept", timeout=30)
    nodes.wait_for_state(name, "ok")
    assert nodes.get(name) == 200
    assert nodes.ready(name) == (200, "ready\n")


def test_a_drain_with_a_delay_goes_on_accepting_and_ends_when_it_is_undrained(nodes: Nodes) -> None:
    nodes["a"].adm("--drain-node", "c", "--delay", "600")
    wait_for(lambda: nodes.ready("c") == (503, "leaving\n"), "node c to be not ready")
    nodes.wait_for_state("c", "leaving")
    assert nodes.get("c") == 200
    nodes["b"].adm("--undrain-node", "c")
    wait_for(lambda: nodes.ready("c")[0] == 200, "node c to be ready")
    assert "node c was not drained" in nodes["b"].adm("--undrain-node", "c").stderr


@pytest.mark.parametrize("name", ["a", "c"])
def test_a_drain_survives_a_restart_of_the_node_and_of_its_workers(nodes: Nodes, name: str) -> None:
    nodes["b"].adm("--drain-node", name, "--wait")
    daemon = nodes[name]
    daemon.forget_log()
    daemon.restart()
    daemon.wait_for_log("this node is drained: it accepts no clients")
    wait_for(lambda: nodes.row(name, "b")["state"] == "drained", lambda: str(nodes.row(name, "b")), timeout=30)
    wait_for(lambda: nodes.ready(name) == (503, "drained\n"), lambda: str(nodes.ready(name)))
    if name == "a":
        daemon.wait_until_workers_serve()
        worker = daemon.workers()[0]
        os.kill(worker, signal.SIGKILL)
        daemon.wait_until_workers_serve(but=[worker])
    assert not nodes.accepts(name)
    nodes["b"].adm("--undrain-node", name)
    wait_for(lambda: nodes.accepts(name), "the node to accept", timeout=30)
    nodes.wait_for_state(name, "ok")
    assert nodes.get(name) == 200


@pytest.mark.parametrize("name", ["a", "c"])
def test_a_service_that_cannot_listen_again_does_not_hold_up_the_others(nodes: Nodes, name: str) -> None:
    port = free_port()
    ident = f"other-{name}"
    nodes["b"].call("add_service", ident, listen=f"{LOOPBACK}:{port} on {name}")
    nodes["b"].call("start", ident)
    nodes["b"].adm("--drain-node", name, "--wait")
    with contextlib.closing(socket.create_server((LOOPBACK, port))):
        nodes["b"].adm("--undrain-node", name)
        wait_for(lambda: nodes.accepts(name), "the other service to accept", timeout=30)
        nodes.wait_for_state(name, "refused", asked="b")
        assert nodes.get(name) == 200
        assert nodes.ready(name) == (200, "ready\n")
        assert f"node {name}: service {ident}: cannot listen on {LOOPBACK}:{port}" in nodes["b"].adm("--nodes").stdout
    nodes.wait_for_state(name, "ok")
    dial((LOOPBACK, port)).close()
    nodes["b"].call("stop", ident)


def test_edits_of_one_node_only_hold_after_it_was_drained(nodes: Nodes, web: list[Nginx]) -> None:
    def weight() -> int:
        return int(nodes["c"].call("stats", "web")["services"][0]["servers"][0]["weight"])

    nodes["c"].adm("-e", "-i", "web", "-r", web[0].address, "-w", "3", "--local")
    nodes["b"].adm("--drain-node", "c", "--wait")
    assert weight() == 3
    nodes["b"].adm("--undrain-node", "c")
    wait_for(lambda: nodes.accepts("c"), "the node to accept", timeout=30)
    assert weight() == 3
    nodes["c"].adm("--end-local")
    assert weight() == 1
    refused = nodes["c"].adm("--drain-node", "c", "--local", check=False)
    assert "leave out --local" in refused.stderr


def test_nodes_that_cannot_be_drained_or_forgotten(nodes: Nodes) -> None:
    with pytest.raises(BadValue, match="no node 'x'; there are: a, b, c"):
        nodes["a"].call("drain_node", "x")
    with pytest.raises(Busy, match="node b is alive: end it first"):
        nodes["a"].call("forget_node", "b")
    nodes.wait_for_state("b", "ok")


def test_a_node_that_is_gone_is_named_and_can_be_forgotten(nodes: Nodes) -> None:
    nodes["c"].finish()
    nodes["c"].may_have_ended = True
    nodes.wait_for_state("c", "gone")
    assert nodes["a"].call("cluster_stats")["missing"] == {"c": "gone"}
    with pytest.raises(Busy, match="node c is gone, so it has no clients; 'tcpvsadm --forget-node c'"):
        nodes["b"].call("drain_node", "c")
    nodes["b"].adm("--forget-node", "c")
    wait_for(lambda: nodes.row("c") == {}, "node c to be forgotten")
    assert nodes["a"].call("cluster_stats")["missing"] == {}
    nodes["c"].forget_log()
    nodes["c"].start()
    nodes["c"].wait_for_log("node c follows")
    nodes.wait_for_state("c", "ok")


def test_a_daemon_in_no_cluster_says_so(new_daemon: Daemon) -> None:
    why = "this daemon is in no cluster; --cluster and --node make it a node of one"
    for arguments in (
        ("--list", "--stats", "--all-nodes"),
        ("--list", "--connections", "--all-nodes"),
        ("--rebalance", "20%", "-i", "s", "--all-nodes"),
        ("--drain-node", "a"),
        ("--undrain-node", "a"),
        ("--forget-node", "a"),
    ):
        done = new_daemon.adm(*arguments, check=False)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr


# The status.


def test_the_status_shows_the_nodes(nodes: Nodes, tmp_path: Path) -> None:
    for name in NAMES:
        nodes.wait_for_state(name, "ok")
    with urllib.request.urlopen(f"http://{LOOPBACK}:{nodes.status['a']}/api/v1/status", timeout=10) as response:
        cluster = json.loads(response.read())["cluster"]
    assert (cluster["node"], cluster["connected"], cluster["revision"] > 0) == ("a", True, True)
    assert [(node["node"], node["state"]) for node in cluster["nodes"]] == [(name, "ok") for name in NAMES]
    with urllib.request.urlopen(f"http://{LOOPBACK}:{nodes.status['a']}/metrics", timeout=10) as response:
        metrics = response.read().decode()
    assert 'ktcpvs_cluster_node_state{node="b",state="ok"} 1\n' in metrics
    assert "ktcpvs_cluster_connected 1\n" in metrics
    with Browser(tmp_path / "browser") as browser:
        browser.open(f"http://{LOOPBACK}:{nodes.status['a']}/")
        first = "(row) => [...row.children].slice(0, 2).map((one) => one.textContent)"
        cells = f"[...document.querySelectorAll('#nodes tbody tr')].map({first})"
        expected = [["a this one", "ok"], ["b", "ok"], ["c", "ok"]]
        wait_for(lambda: browser.ask(cells) == expected, lambda: str(browser.ask(cells)), timeout=20)
        assert browser.complaints == []


# At the end, since a daemon that has taken over cannot be restarted with the same options.


@pytest.mark.parametrize("name", ["a", "c"])
def test_an_upgrade_of_a_drained_node_accepts_no_clients(
    nodes: Nodes, name: str, control_thread: ControlThread, tmp_path: Path
) -> None:
    nodes["b"].adm("--drain-node", name, "--wait")
    old, options = nodes[name], [*nodes.options[name], "--takeover", nodes[name].control]
    workers = 2 if name == "a" else 0
    new = Daemon(control_thread, tmp_path, *options, control=old.control, workers=workers, preloaded=True)
    new.run()
    nodes.daemons[name] = new
    accepted = []

    def serves() -> bool:
        accepted.append(nodes.accepts(name))
        return "control at unix:" in new.log()

    wait_for(serves, new.log, timeout=30)
    assert old.wait() == 0
    assert not any(accepted)
    wait_for(lambda: nodes.ready(name) == (503, "drained\n"), lambda: str(nodes.ready(name)), timeout=30)
    nodes["b"].adm("--undrain-node", name)
    wait_for(lambda: nodes.accepts(name), "the node to accept", timeout=30)
    assert nodes.get(name) == 200
    nodes.wait_for_state(name, "ok")
