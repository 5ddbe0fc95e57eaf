"""Switches of one cluster, each with ways of its own to three members of etcd, which tests can cut."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etcd_server import EtcdMembers, Links
from servers import wait_for

from .harness import ControlThread, Daemon

CUT_OFF = "this node goes on with the table that it has, and refuses edits until etcd responds"
"""What a node logs once when it loses etcd."""


class Node:
    """A switch. links: its ways to the members, in the order in which it asks them at first."""

    def __init__(
        self, thread: ControlThread, folder: Path, name: str, ports: list[int], *options: str | Path, workers: int = 0
    ) -> None:
        folder = folder / name
        folder.mkdir()
        self.name = name
        self.links = Links(ports)
        arguments = ["--cluster", f"etcd:{self.links.urls}/faults", "--node", name, "--state", folder / "state"]
        self.daemon = Daemon(thread, folder, *arguments, *options, workers=workers, preloaded=True)
        self.call, self.adm = self.daemon.call, self.daemon.adm

    def start(self) -> None:
        """Start it, and wait until it follows."""
        self.daemon.forget_log()
        self.daemon.start()
        self.daemon.wait_for_log(f"node {self.name} follows")

    def restart(self) -> None:
        """End it as a crash would, and start it again."""
        self.daemon.kill()
        self.start()

    def pause(self) -> None:
        self.daemon.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.daemon.signal(signal.SIGCONT)

    def nodes(self) -> dict[str, Any]:
        """What it knows of the cluster."""
        found: dict[str, Any] = self.call("nodes")
        return found

    def is_connected(self) -> bool:
        return bool(self.nodes()["connected"])

    def row(self, name: str) -> dict[str, Any]:
        """What it knows of one node; {}: nothing."""
        return next((row for row in self.nodes()["nodes"] if row["node"] == name), {})

    def services(self) -> dict[str, Any]:
        return {service["ident"]: service for service in self.call("table")["services"]}

    def weights(self, ident: str) -> dict[str, int]:
        """The weights of a service's servers, by address."""
        return {server["address"]: server["weight"] for server in self.services()[ident]["servers"]}

    def wait_until_connected(self) -> None:
        wait_for(self.is_connected, lambda: f"node {self.name} to follow: {self.daemon.log()}", timeout=30)


class Cluster:
    """Three members of etcd, and nodes: `a` with two workers, the others without."""

    def __init__(self, thread: ControlThread, folder: Path, names: str = "abc") -> None:
        self.etcd = EtcdMembers(folder)
        self.members = self.etcd.members
        self.nodes: list[Node] = []
        ports = [member.port for member in self.members]
        for number, name in enumerate(names):
            turned = ports[number:] + ports[:number]  # so that each node begins with another member
            self.nodes.append(Node(thread, folder, name, turned, workers=0 if number else 2))

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def in_step(self) -> bool:
        """True when all nodes run the same table, as far as they can, and each of them knows that."""
        tables = []
        for node in self.nodes:
            rows = node.nodes()["nodes"]
            if not node.is_connected() or any(row["state"] not in ("ok", "refused") for row in rows):
                return False
            if node.row(node.name)["state"] == "ok":
                tables.append(node.call("table"))
        return all(table == tables[0] for table in tables)

    def wait_until_in_step(self) -> None:
        wait_for(self.in_step, lambda: f"all nodes to be in step: {[node.nodes() for node in self]}", timeout=30)

    def recover(self) -> None:
        """Let everything run again after a test, and empty the table."""
        for member in self.members:
            if member.process.poll() is None:
                member.thaw()
            else:
                member.begin()
        for node in self.nodes:
            node.links.mend()
        for node in self.nodes:
            node.wait_until_connected()
        self.nodes[0].call("stop")
        self.nodes[0].call("load", "", allow_empty=True)
        self.wait_until_in_step()

    def finish(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.etcd.stop)
            for node in self.nodes:
                stack.callback(node.links.close)
                stack.callback(node.daemon.finish)
