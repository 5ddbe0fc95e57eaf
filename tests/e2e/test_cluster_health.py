"""Health checks of several nodes: most of them decide about a server, and a node that is cut off decides alone.

All nodes run on one machine, so the servers tell them apart by the process at the other end of a connection.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_server import EtcdServer
from servers import LOOPBACK, SocketServer, dial, free_port, read_all, wait_for

from .harness import TIMEOUT, ControlThread, Daemon

pytestmark = pytest.mark.e2e

NAMES = ("a", "b", "c")


def process_of(port: int, pids: list[int]) -> int | None:
    """Return which of these processes has a connection from that local port; None: none has."""
    found = re.search(rf"^ *\d+: [0-9A-F]+:{port:04X} .*", Path("/proc/net/tcp").read_text(), re.MULTILINE)
    inode = found[0].split()[9] if found is not None else ""
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == f"socket:[{inode}]":
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
        pid = process_of(sock.getpeername()[1], list(self._pids))
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
            daemon = Daemon(control_thread, tmp_path_factory.mktemp(name), *options, workers=2 if name == "a" else 0)
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
    lines = {"check": "http /check", "check_interval": 1, "check_fall": 1, "check_rise": 1, **options}
    text = "".join(f"    {name} = {value}\n" for name, value in lines.items())
    text += "".join(f"    server = {server}\n" for server in nodes.servers)
    listen = "unix:/proc/self/cwd/web.sock"
    nodes.daemons["a"].call(
        "load", f"Virtual web {{\n    listen = {listen}\n    scheduler = rr\n{text}}}\n", start="all"
    )
    nodes.become(**{name: ["up", "up"] for name in NAMES})


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
    assert [nodes.health(name) for name in NAMES] == [["up", "up"]] * 3
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
    assert nodes.notes("a") == {}
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


def test_a_switch_without_cluster_warns(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    warned = daemon.adm("-A", "-i", "web", "-l", f"{LOOPBACK}:{free_port()}", "check=tcp", "check_by=quorum")
    assert "service web: check_by = quorum means node: this switch is in no cluster" in warned.stderr
