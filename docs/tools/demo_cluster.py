"""Play a cluster of three switches with three members of etcd on loopback: `make demo-cluster`.

It edits on one switch and shows the others, ends members of etcd and a switch by force, and checks each step. Takes
half a minute on an idle machine, and exits with 0 or 1.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from demonstration import BIN, Demonstration, free_port, run_until_interrupted, running, wait_until_open

NODES = "abc"
STEP_SECONDS = 20
"""The most seconds for one step."""


class Program:
    """A program of the demonstration, which can be ended by force and started again."""

    def __init__(self, stack: contextlib.ExitStack, name: str, command: list[str], log: Path) -> None:
        self._stack, self._name, self._command = stack, name, command
        self.log = log
        self.start()

    def start(self) -> None:
        self.process = self._stack.enter_context(running(*self._command, log=self.log))

    def kill(self) -> None:
        """End it as a crash would, with the processes that it has started."""
        print(f"$ kill -9 {self.process.pid}   # {self._name}", flush=True)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class ClusterDemo(Demonstration):
    """Three members of etcd, two web servers and three switches."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        super().__init__(folder, stack)
        self.members: dict[str, Program] = {}
        self.switches: dict[str, Program] = {}
        self._clients = [free_port() for _ in range(3)]
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in NODES}

    # Showing.

    def adm(self, node: str, *arguments: str, refused: str = "") -> str:
        """Run one tcpvsadm command on a node, and print its output. refused: what a refusal must say; "": it must
        succeed."""
        status, output = self.run_tcpvsadm(("--control", f"unix:{self.folder}/{node}.sock"), arguments, f"{node}$")
        self.check((status != 0) == bool(refused) and refused in output, f"expected {refused or 'success'}")
        return output

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + STEP_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"not within {STEP_SECONDS} s: {what}; see the logs below\n{self.logs()}")
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("?.log")))

    # Starting.

    def start_etcd(self) -> None:
        peers = [free_port() for _ in self._clients]
        names = [f"m{number}" for number in range(1, len(peers) + 1)]
        cluster = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in zip(names, peers, strict=True))
        for name, client, peer in zip(names, self._clients, peers, strict=True):
            urls = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
            command = ["etcd", "--name", name, "--data-dir", f"{self.folder}/{name}", "--initial-cluster", cluster]
            command += ["--listen-client-urls", urls[0], "--advertise-client-urls", urls[0]]
            command += ["--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1]]
            command += ["--auto-compaction-retention", "1h", "--logger", "zap"]
            self.members[name] = Program(self.stack, f"etcd {name}", command, self.folder / f"{name}.log")
            print(f"$ etcd --name {name} --listen-client-urls {urls[0]} --auto-compaction-retention 1h ...")
        for client in self._clients:
            wait_until_open(client)

    def start_servers(self) -> list[str]:
        """Start two web servers with one page each; return their addresses."""
        addresses = []
        for name in ("one", "two"):
            root = self.folder / name
            root.mkdir()
            (root / "index.html").write_text(f"server {name}\n")
            addresses.append(self.start_web_server(name))
            print(f"server {name} is {addresses[-1]}")
        return addresses

    def start_switches(self) -> None:
        urls = ",".join(f"http://127.0.0.1:{port}" for port in self._clients)
        for name in NODES:
            options = ["--cluster", f"etcd:{urls}/demo", "--node", name, "--state", f"{self.folder}/{name}.state"]
            command = [str(BIN / "ktcpvs"), "--control", f"unix:{self.folder}/{name}.sock", *options]
            print(f"$ ktcpvs --cluster etcd:{urls}/demo --node {name} --state {name}.state")
            self.switches[name] = Program(self.stack, f"node {name}", command, self.folder / f"{name}.log")
            self.wait_until_following(name)

    def wait_until_following(self, node: str) -> None:
        log = self.switches[node].log
        self.wait(lambda: f"node {node} follows" in log.read_text(), f"node {node} to follow the cluster")

    # Playing.

    def request_all(self, expected: str) -> None:
        """Request the page from each node."""
        for address in self.addresses.values():
            try:
                with urllib.request.urlopen(f"http://{address}/", timeout=10) as response:
                    body = response.read().decode().strip()
            except OSError as error:
                body = str(error)
            print(f"$ curl http://{address}/\n{body}", flush=True)
            self.check(body == expected, f"expected {expected}")

    def play(self, one: str, two: str) -> None:
        self.say("Each switch is a node of the cluster:")
        self.adm("a", "--nodes")
        self.say("A file that is loaded on node a is in force on all. Each node listens on its own address:")
        listeners = "\n".join(f"    listen = {address} on {name}" for name, address in self.addresses.items())
        file = self.folder / "web.conf"
        file.write_text(f"Virtual web {{\n{listeners}\n    scheduler = phttp\n    server = {one}\n}}\n")
        print(f"$ cat web.conf\n{file.read_text()}", end="")
        self.adm("a", "-f", str(file), "--start", "--wait-nodes")
        self.request_all("server one")
        self.say("So is an edit on node b:")
        self.adm("b", "-a", "-i", "web", "-r", two)
        self.adm("b", "-d", "-i", "web", "-r", one, "--wait-nodes")
        self.request_all("server two")
        self.say("A member of etcd crashes: edits go on.")
        self.members["m1"].kill()
        self.adm("c", "-a", "-i", "web", "-r", one, "-w", "3", "--wait-nodes")
        self.say("So does a node. It is back with the table that has changed meanwhile, and under its name:")
        self.switches["c"].kill()
        self.adm("a", "-d", "-i", "web", "-r", two)
        self.switches["c"].start()
        self.wait_until_following("c")
        self.request_all("server one")
        self.say("A second member crashes, so etcd has no majority: every node serves on, and refuses edits.")
        self.members["m2"].kill()
        self.wait(lambda: all("goes on with the table" in p.log.read_text() for p in self.switches.values()), "the log")
        self.adm("a", "-a", "-i", "web", "-r", two, refused="etcd")
        self.request_all("server one")
        self.say("Both members are back:")
        for name in ("m1", "m2"):
            print(f"$ etcd --name {name} ...")
            self.members[name].start()
        for name in NODES:
            follows = f"node {name} follows"
            log = self.switches[name].log
            self.wait(lambda log=log, f=follows: f in log.read_text().rpartition("goes on with the table")[2], follows)
        self.adm("a", "-a", "-i", "web", "-r", two, "--wait-nodes")
        self.adm("b", "--nodes")


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ktcpvs-demo-") as name, contextlib.ExitStack() as stack:
        demo = ClusterDemo(Path(name), stack)
        demo.say("Three members of etcd, two web servers and three switches:")
        demo.start_etcd()
        one, two = demo.start_servers()
        demo.start_switches()
        demo.play(one, two)
        if demo.failures:
            print(f"\n{demo.failures} steps failed.\n{demo.logs()}")
            return 1
    print(f"\nEvery step succeeded, in {time.monotonic() - began:.0f} seconds. All that was started has ended.")
    return 0


if __name__ == "__main__":
    run_until_interrupted(main)
