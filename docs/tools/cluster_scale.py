"""Measure a cluster with many services: how long an edit takes on all nodes, and how long a new node takes to start.

Needs etcd and the packages of the tests. Prints one line for each figure, with the load of the machine; run it on a
machine that does nothing else. Each node listens on addresses of its own on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from e2e.harness import ControlThread, Daemon  # noqa: E402
from etcd_server import EtcdMembers, EtcdServer  # noqa: E402
from servers import wait_for  # noqa: E402

FIRST_PORT = 21000


def configuration(services: int, rules: int, nodes: str) -> str:
    """A file of many services, each with rules that choose one of four servers, and with a listener for each node."""
    blocks = []
    for number in range(services):
        listeners = [
            f"    listen = 127.0.{place + 1}.1:{FIRST_PORT + number} on {name}\n" for place, name in enumerate(nodes)
        ]
        servers = [f"    server = 10.0.{number // 250}.{4 * (number % 60) + one}:8080 {one + 1}\n" for one in range(4)]
        chosen = [line.split()[2] for line in servers]
        lines = [f'    rule = pattern "/path{rule}/.*" use server {chosen[rule % 4]}\n' for rule in range(rules)]
        blocks.append(
            f"Virtual s{number} {{\n{''.join(listeners)}    scheduler = phttp\n{''.join(servers)}{''.join(lines)}}}\n"
        )
    return "".join(blocks)


class Scale:
    """Nodes of one cluster, with the table of `configuration`."""

    def __init__(self, folder: Path, workers: int, members: int) -> None:
        self.folder = folder
        self.workers = workers
        self.thread = ControlThread()
        self.etcd: EtcdServer | EtcdMembers = EtcdServer(folder) if members == 1 else EtcdMembers(folder, members)
        self.urls = [self.etcd.url] if isinstance(self.etcd, EtcdServer) else self.etcd.urls
        self.nodes: list[Daemon] = []

    def start_node(self, name: str) -> float:
        """Start a node without a table of its own; return the seconds until it has the cluster's in force."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        cluster = f"etcd:{','.join(self.urls)}/scale"
        daemon = Daemon(
            self.thread,
            folder,
            "--cluster", cluster, "--node", name, "--state", folder / "state",
            workers=self.workers, as_program=True,
        )  # fmt: skip
        began = time.monotonic()
        daemon.run()
        self.nodes.append(daemon)
        while f"node {name} follows" not in daemon.log():
            assert time.monotonic() - began < 60, daemon.log()
            time.sleep(0.01)
        took = time.monotonic() - began
        daemon.wait_until_ready()
        return took

    def edit(self, ident: str, weight: int) -> float:
        """Edit a server on the first node; return the seconds until the edit is in force on all nodes."""
        first = self.nodes[0]
        address = first.call("table", ident)["services"][0]["servers"][0]["address"]
        began = time.monotonic()
        first.call("edit_server", ident, address, weight=weight)
        wait_for(self.is_in_force, lambda: str(first.call("nodes")), timeout=30)
        return time.monotonic() - began

    def is_in_force(self) -> bool:
        nodes: list[dict[str, Any]] = self.nodes[0].call("nodes")["nodes"]
        wrong = [row for row in nodes if row["state"] not in ("ok", "behind", "gone")]
        assert not wrong, wrong
        return all(row["state"] != "behind" for row in nodes)

    def finish(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.etcd.stop)
            for daemon in self.nodes:
                stack.callback(daemon.finish)


def measure(count: int, what: str, one: Callable[[int], float]) -> None:
    """Print the median of several measurements, in seconds."""
    times = sorted(one(number) for number in range(count))
    print(
        f"{what}: {statistics.median(times):.2f} s (median of {count}; {times[0]:.2f} to {times[-1]:.2f}; load "
        f"{os.getloadavg()[0]:.1f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--rules", type=int, default=10, help="of each service")
    parser.add_argument("--workers", type=int, default=0, help="of each node")
    parser.add_argument("--members", type=int, default=3, help="of etcd")
    parser.add_argument("--times", type=int, default=5, help="how often each figure is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scale = Scale(Path(name), options.workers, options.members)
        try:
            for node in "abcd":
                scale.start_node(node)
            first = scale.nodes[0]

            def load(_: int) -> float:
                began = time.monotonic()
                first.call("load", configuration(options.services, options.rules, "abcd"), start="all")
                wait_for(scale.is_in_force, timeout=120)
                return time.monotonic() - began

            total = options.services * options.rules
            measure(1, f"{options.services} services with {total} rules, loaded and started on four nodes", load)
            size = next(scale.folder.glob("a-*/state")).stat().st_size
            print(f"state file: {size >> 10} KiB; memory of node a: {first.memory() >> 20} MiB")
            measure(
                options.times,
                "an edit of one service, until it is in force on all nodes",
                lambda n: scale.edit(f"s{n}", n + 7),
            )

            def restart(number: int) -> float:
                last = scale.nodes.pop()
                last.finish()
                return scale.start_node("d")

            measure(options.times, "a node without a state file, from its start until it has the table", restart)
        finally:
            scale.finish()


if __name__ == "__main__":
    main()
