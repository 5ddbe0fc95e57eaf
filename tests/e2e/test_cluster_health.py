"""What several nodes decide together: whether a server is down, and how they divide limits.

All nodes run on one machine, so the servers tell them apart by the process at the other end of a connection.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_server import EtcdServer
from servers import LOOPBACK, SocketServer, dial, free_port, read_all, wait_for

from .harness import TIMEOUT, ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

NAMES = ("a", "b", "c")


def process_of(port: int, to: int, pids: list[int]) -> int | None:
    """Return which of these processes has a connection from that local port to that other one; None: none has."""
    line = rf"^ *\d+: [0-9A-F]+:{port:04X} [0-9A-F]+:{to:04X} .*"
    inodes = {found.split()[9] for found in re.findall(line, Path("/proc/net/tcp").read_text(), re.MULTILINE)} - {"0"}
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") in {f"socket:[{inode}]" for inode in inodes}:
                        return pid
    return None


class Nodes:
    """Three nodes of a cluster; `a` has two workers. refused: (server, node) pairs: that server does not respond to
    checks of that node. servers: the addresses of two web servers."""

    def __init__(self, daemons: dict[str, Daemon]) -> None:
        self.daemons = daemons
        self.refused: set[tuple[str, str]] = set()
        self.servers: list[str] = []
        self._pids = {daemon.pid: name for name, daemon in daemons.items()}

    def serve(self, sock: socket.socket) -> None:
        """Respond to requests with the address of the server, unless a check of this node is refused."""
        address = "{}:{}".format(*sock.getsockname())
        pid = process_of(sock.getpeername()[1], sock.getsockname()[1], list(self._pids))
        node = self._pids.get(pid or 0, "")
        while data := sock.recv(65536):
            if data.startswith(b"GET /check") and (address, node) in self.refused:
                return
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(address), address.encode()))

    def health(self, name: str) -> list[str]:
        """The states of both servers on a node."""
        stats = self.daemons[name].call("stats")["services"][0]
        return [server["health"]["state"] for server in stats["servers"]]

    def reasons(self, name: str) -> list[str]:
        stats = self.daemons[name].call("stats")["services"][0]
        return [server["health"]["reason"] for server in stats["servers"]]

    def become(self, **wanted: list[str]) -> None:
        """Wait until the servers have these states on these nodes."""
        wait_for(
            lambda: {name: self.health(name) for name in wanted} == wanted,
            lambda: str({name: (self.health(name), self.reasons(name)) for name in NAMES}),
            timeout=TIMEOUT,
        )

    def notes(self, asked: str) -> dict[str, list[str]]:
        rows = self.daemons[asked].call("nodes")["nodes"]
        return {row["node"]: row["notes"] for row in rows if row.get("notes")}


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def started(
    control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory, etcd: EtcdServer
) -> Iterator[Nodes]:
    daemons = {}
    with contextlib.ExitStack() as stack:
        for name in NAMES:
            options = ["--cluster", f"etcd:{etcd.url}/health", "--node", name]
            folder, workers = tmp_path_factory.mktemp(name), 2 if name == "a" else 0
            daemon = Daemon(control_thread, folder, *options, workers=workers, preloaded=True)
            daemon.start()
            stack.callback(daemon.finish)
            daemon.wait_for_log(f"node {name} follows")
            daemons[name] = daemon
        yield Nodes(daemons)


@pytest.fixture
def nodes(started: Nodes, serve: Callable[..., SocketServer]) -> Iterator[Nodes]:
    """The nodes, with a service whose two servers are up on all of them. Node `a` alone listens where clients come."""
    started.refused.clear()
    started.servers = [serve(started.serve).address for _ in range(2)]
    started.servers.sort()
    yield started
    daemon = started.daemons["a"]
    wait_for(lambda: daemon.call("nodes")["connected"], "node a to follow", timeout=TIMEOUT)
    daemon.call("stop")
    daemon.call("load", "", allow_empty=True)


def load(nodes: Nodes, **options: Any) -> None:
    """Load the service. Its listener is a socket in the folder of each node."""
    lines = {
        "check": "http /check",
        "check_interval": 1,
        "check_timeout": 30,
        "check_fall": 1,
        "check_rise": 1,
        **options,
    }
    text = "".join(f"    {name} = {value}\n" for name, value in lines.items())
    text += "".join(f"    server = {server}\n" for server in nodes.servers)
    listen = "unix:/proc/self/cwd/web.sock"
    nodes.daemons["a"].call(
        "load", f"Virtual web {{\n    listen = {listen}\n    scheduler = rr\n{text}}}\n", start="all"
    )
    nodes.become(**{name: ["up" for _ in nodes.servers] for name in NAMES})


def served(nodes: Nodes, name: str, count: int = 8) -> set[str]:
    """Send so many requests to a node; return the servers that respond."""
    found = set()
    for _ in range(count):
        with dial(str(nodes.daemons[name].folder / "web.sock")) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            found.add(read_all(client).rpartition(b"\r\n\r\n")[2].decode())
    return found


def test_most_nodes_decide_whether_a_server_is_down(nodes: Nodes) -> None:
    load(nodes, check_by="quorum")
    one, two = nodes.servers
    nodes.refused.add((one, "a"))
    wait_for(lambda: "1 of 3" in nodes.reasons("c")[0], lambda: str(nodes.reasons("c")), timeout=TIMEOUT)
    nodes.become(**{name: ["up", "up"] for name in NAMES})  # before the others have reported, node a counts alone
    assert served(nodes, "a") == {one, two}
    nodes.refused.add((one, "b"))
    nodes.become(**{name: ["down", "up"] for name in NAMES})
    assert served(nodes, "a") == served(nodes, "c") == {two}
    reason = nodes.reasons("c")[0]
    assert reason.startswith("check: down on 2 of 3 nodes (a: ")
    assert ", b: " in reason
    assert f"service web: server {one} is down: check: down on 2 of 3 nodes" in nodes.daemons["c"].log()
    assert "check: down on 2 of 3 nodes" in nodes.daemons["c"].adm("--list", "--stats").stdout
    nodes.refused.discard((one, "a"))
    nodes.become(**{name: ["up", "up"] for name in NAMES})
    assert served(nodes, "a") == {one, two}


def test_a_node_that_sees_every_server_down_trusts_the_others(nodes: Nodes) -> None:
    load(nodes, check_by="quorum")
    one, two = nodes.servers
    nodes.refused |= {(one, "b"), (two, "b")}
    note = "sees every server down; trusts the others"
    wait_for(lambda: nodes.notes("a") == {"b": [note]}, lambda: str(nodes.notes("a")), timeout=TIMEOUT)
    wait_for(lambda: nodes.notes("c") == {"b": [note]}, lambda: str(nodes.notes("c")), timeout=TIMEOUT)
    assert f"node b: {note}" in nodes.daemons["c"].adm("--nodes").stdout
    nodes.daemons["b"].wait_for_log("cluster: every server is down for this node, and not for the others")
    nodes.become(**{name: ["up", "up"] for name in NAMES})
    nodes.refused |= {(one, "a")}  # it is one of the two that count
    wait_for(lambda: "1 of 2" in nodes.reasons("c")[0], lambda: str(nodes.reasons("c")), timeout=TIMEOUT)
    assert nodes.health("c") == ["up", "up"]
    nodes.refused |= {(one, "c")}
    nodes.become(**{name: ["down", "up"] for name in NAMES})
    nodes.refused |= {(two, "a"), (two, "c")}
    nodes.become(**{name: ["down", "down"] for name in NAMES})
    wait_for(lambda: nodes.notes("a") == {}, lambda: str(nodes.notes("a")), timeout=TIMEOUT)
    nodes.refused.clear()
    nodes.become(**{name: ["up", "up"] for name in NAMES})


def test_a_node_that_is_cut_off_decides_alone(nodes: Nodes, etcd: EtcdServer) -> None:
    load(nodes, check_by="quorum")
    one, _ = nodes.servers
    nodes.refused.add((one, "a"))
    wait_for(lambda: "1 of 3" in nodes.reasons("a")[0], lambda: str(nodes.reasons("a")), timeout=TIMEOUT)
    assert nodes.health("a") == ["up", "up"]
    etcd.stop()
    nodes.become(a=["down", "up"], b=["up", "up"], c=["up", "up"])
    assert "nodes" not in nodes.reasons("a")[0]
    etcd.start()
    nodes.become(a=["up", "up"], b=["up", "up"], c=["up", "up"])


def test_nodes_decide_for_themselves_without_the_option(nodes: Nodes) -> None:
    load(nodes)
    one, two = nodes.servers
    nodes.refused |= {(one, "a"), (two, "b")}
    nodes.become(a=["down", "up"], b=["up", "down"], c=["up", "up"])
    nodes.daemons["c"].adm("-E", "-i", "web", "check_by=quorum")
    nodes.become(**{name: ["up", "up"] for name in NAMES})


def limits(nodes: Nodes) -> dict[str, int]:
    """The maxconn of the first server on each node."""
    stats = {name: nodes.daemons[name].call("stats")["services"][0] for name in NAMES}
    return {name: service["servers"][0]["maxconn"] for name, service in stats.items()}


def test_nodes_that_are_alive_divide_limits(nodes: Nodes, stack: contextlib.ExitStack) -> None:
    nodes.servers[0] += " 1 maxconn 10"
    nodes.servers.pop()
    load(nodes, share="cluster", queue_timeout=86400)
    wait_for(lambda: limits(nodes) == {"a": 4, "b": 4, "c": 4}, lambda: str(limits(nodes)), timeout=TIMEOUT)
    assert "maxconn 10" in nodes.daemons["b"].adm("--save").stdout

    def active() -> int:
        return int(nodes.daemons["a"].call("stats")["services"][0]["servers"][0]["stats"]["active"])

    def queued() -> int:
        return int(nodes.daemons["a"].call("stats")["services"][0]["stats"]["queued"])

    def admitted() -> list[socket.socket]:
        """Connect seven clients, and return them if four of them have a server; workers follow their supervisor."""
        clients = [stack.enter_context(dial(str(nodes.daemons["a"].folder / "web.sock"))) for _ in range(7)]
        wait_for(lambda: active() + queued() == 7, lambda: f"{active()}, {queued()}", timeout=TIMEOUT)
        if active() == 4:
            return clients
        for client in clients:
            client.close()
        wait_for(lambda: active() + queued() == 0, lambda: f"{active()}, {queued()}", timeout=TIMEOUT)
        return []

    clients = wait_for(admitted, lambda: str(active()), timeout=TIMEOUT)
    assert queued() == 3
    nodes.daemons["a"].adm("--drain-node", "c")
    wait_for(lambda: limits(nodes)["a"] == limits(nodes)["b"] == 5, lambda: str(limits(nodes)), timeout=TIMEOUT)
    wait_for(lambda: active() == 5, lambda: str(active()), timeout=TIMEOUT)
    for client in clients:
        client.close()
    nodes.daemons["a"].adm("--undrain-node", "c")
    wait_for(lambda: limits(nodes) == {"a": 4, "b": 4, "c": 4}, lambda: str(limits(nodes)), timeout=TIMEOUT)


def test_new_workers_know_the_nodes_that_divide_limits(nodes: Nodes, stack: contextlib.ExitStack) -> None:
    nodes.servers[0] += " 1 maxconn 6"
    nodes.servers.pop()
    load(nodes, share="cluster", queue_timeout=86400)
    daemon = nodes.daemons["a"]
    before = daemon.workers()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(set(daemon.workers()) - set(before)) == 2, "new workers", timeout=TIMEOUT)
    for _ in range(5):
        stack.enter_context(dial(str(daemon.folder / "web.sock")))

    def counts() -> tuple[int, int]:
        service = daemon.call("stats")["services"][0]
        return service["servers"][0]["stats"]["active"], service["stats"]["queued"]

    wait_for(lambda: counts() == (2, 3), lambda: str(counts()), timeout=TIMEOUT)


def test_a_switch_without_cluster_warns(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    warned = daemon.adm(
        "-A", "-i", "web", "-l", f"{LOOPBACK}:{free_port()}", "check=tcp", "check_by=quorum", "share=cluster"
    )
    assert "service web: share = cluster means node: this switch is in no cluster" in warned.stderr
    assert "service web: check_by = quorum means node: this switch is in no cluster" in warned.stderr
