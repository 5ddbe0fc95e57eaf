"""A cluster under load while its parts fail: `make soak-cluster`.

Four switches with two workers each serve requests, and take edits from an administrator each, while members of etcd and
switches are killed, paused, cut off and started again, in an order that the seed decides. At the end all nodes must run
the same table, every edit that was answered with "done" must be in it, none that was refused may be, and no request may
have failed, but for those on a switch that was killed. Exits with 1 when a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from attrs import define, field  # noqa: E402
from e2e.etcd_cluster import Node  # noqa: E402
from e2e.harness import ControlThread, child_processes  # noqa: E402
from etcd_server import EtcdMembers  # noqa: E402
from servers import LOOPBACK, Nginx, free_port, wait_for  # noqa: E402

from ktcpvs.control.client import connect  # noqa: E402
from ktcpvs.errors import CannotSave, Refusal  # noqa: E402

CLIENTS = 3
"""Clients of each switch, which send requests one after the other."""

REQUEST_PAUSE = 0.02
"""Seconds between two requests of a client."""

PATIENCE = 20.0
"""Seconds without a response after which a request has failed."""

FLIGHT = 1.0
"""Seconds after the return of a switch that was killed in which requests on it may still fail."""

CONFIGURATION = """
Virtual web {{
{listeners}
    scheduler = phttp
    {servers}
}}
Virtual book {{
    listen = 127.0.0.1:1
    server = 10.255.0.1:80
}}
"""
"""web serves requests. book does not run: its servers are the history of edits."""


@define
class Edit:
    """One edit. outcome: "done", "refused" or "unknown"."""

    writer: str
    server: str
    weight: int
    outcome: str = "unknown"


@define
class Writer:
    """An administrator at one node, who adds a server to `book` or changes the weight of one that only it changes."""

    node: Node
    number: int
    thread: ControlThread
    chance: random.Random
    history: list[Edit] = field(factory=list)
    _added: int = 0

    def run(self, has_ended: threading.Event) -> None:
        while not has_ended.wait(self.chance.random() * 0.5):
            self._edit()

    def _edit(self) -> None:
        if self.history and self.chance.random() < 0.5:
            edit = Edit(self.node.name, self.history[0].server, len(self.history) + 1)
        else:
            self._added += 1
            edit = Edit(self.node.name, f"10.{self.number}.{self._added // 250}.{self._added % 250 + 1}:80", 1)
        is_new = edit.weight == 1
        if not is_new and self.history[0].outcome != "done":
            return
        self.history.append(edit)
        try:
            self.thread.run(self._submit, edit, "add_server" if is_new else "edit_server")
            edit.outcome = "done"
        except CannotSave as error:
            edit.outcome = "unknown" if "is not known" in str(error) else "refused"
        except Refusal:
            edit.outcome = "refused"
        except Exception:  # the switch was killed, or paused for too long
            edit.outcome = "unknown"

    async def _submit(self, edit: Edit, method: str) -> None:
        switch = await connect(self.thread.reactor, self.node.daemon.control)
        try:
            await getattr(switch, method)("book", edit.server, weight=edit.weight)
        finally:
            switch.close()

    def check(self, weights: dict[str, int]) -> Iterator[str]:
        """Yield what is wrong with the table at the end. weights: of all servers of `book`."""
        last: dict[str, set[int]] = {}  # server -> weights that it may have; 0: it may be missing
        for edit in self.history:
            may = last.setdefault(edit.server, {0})
            if edit.outcome == "done":
                may.clear()
            if edit.outcome != "refused":
                may.add(edit.weight)
        for server, may in last.items():
            if weights.get(server, 0) not in may:
                yield f"node {self.node.name}: {server} has weight {weights.get(server, 0)}, expected one of {may}"


@define
class Switch:
    """A node with its port. killed: (from, until) of each time in which its connections may fail."""

    node: Node
    port: int
    killed: list[list[float]] = field(factory=list)

    def may_fail(self, began: float, ended: float) -> bool:
        return any(began <= until and ended >= since for since, until in self.killed)


class Load:
    """Clients of all switches, in a thread of their own."""

    def __init__(self, switches: list[Switch]) -> None:
        self.switches = switches
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._has_ended = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._has_ended = True
        self._thread.join(2 * PATIENCE)

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(switch) for switch in self.switches for _ in range(CLIENTS)))

    async def _client(self, switch: Switch) -> None:
        while not self._has_ended:
            began = time.monotonic()
            try:
                await self._connection(switch)
            except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                if switch.may_fail(began, time.monotonic()):
                    self.counts["on a killed switch"] += 1
                else:
                    self.failures.append(f"node {switch.node.name}: {error!r}")
                await asyncio.sleep(0.05)

    async def _connection(self, switch: Switch) -> None:
        """Send requests on one connection, up to a hundred."""
        reader, writer = await asyncio.open_connection(LOOPBACK, switch.port)
        try:
            for _ in range(100):
                if self._has_ended:
                    return
                writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                status = head.split(b" ", 2)[1]
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                await asyncio.wait_for(reader.readexactly(int(length.split(b":")[1])), PATIENCE)
                if status != b"200":
                    raise ValueError(head.split(b"\r\n")[0].decode())
                self.counts["done"] += 1
                await asyncio.sleep(REQUEST_PAUSE)
        finally:
            writer.close()


class ClusterSoak:
    """One run. events: how often each disturbance happened."""

    def __init__(self, folder: Path, names: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.events: Counter[str] = Counter()
        self.servers = [Nginx(name, folder) for name in ("one", "two")]
        self.etcd = EtcdMembers(folder)
        self.thread = ControlThread()
        ports = [member.port for member in self.etcd.members]
        self.switches = [
            Switch(Node(self.thread, folder, name, ports[number % 3 :] + ports[: number % 3], workers=2), free_port())
            for number, name in enumerate(names)
        ]
        self.nodes = [switch.node for switch in self.switches]
        self.load = Load(self.switches)
        self.writers = [
            Writer(node, number, self.thread, random.Random(f"{seed} {number}"))
            for number, node in enumerate(self.nodes, 1)
        ]

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        listeners = "\n".join(f"    listen = {LOOPBACK}:{one.port} on {one.node.name}" for one in self.switches)
        servers = "\n    ".join(f"server = {server.address}" for server in self.servers)
        self.nodes[0].call("load", CONFIGURATION.format(listeners=listeners, servers=servers))
        self.nodes[0].call("start", "web")
        for switch in self.switches:
            wait_for(lambda switch=switch: switch.node.row(switch.node.name)["state"] == "ok", "all to serve")

    def run(self, seconds: float) -> None:
        has_ended = threading.Event()
        threads = [threading.Thread(target=writer.run, args=(has_ended,)) for writer in self.writers]
        self.load.start()
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                time.sleep(0.3 + self.chance.random())
                disturb = self.chance.choice(
                    (
                        self._kill_member, self._freeze_member, self._kill_switch, self._end_switch,
                        self._pause_switch, self._cut_off, self._half_open, self._reset,
                    )
                )  # fmt: skip
                disturb()
                self._show()
        finally:
            has_ended.set()
            for thread in threads:
                thread.join(60)
            self.load.stop()
        print()

    def _show(self) -> None:
        done = sum(edit.outcome == "done" for writer in self.writers for edit in writer.history)
        print(
            f"\r{sum(self.events.values())} disturbances, {done} edits, {self.load.counts['done']} requests, "
            f"{len(self.load.failures)} failed ",
            end="",
            flush=True,
        )

    # Disturbances, one at a time.

    def _kill_member(self) -> None:
        member = self.chance.choice(self.etcd.members)
        member.kill()
        time.sleep(self.chance.random() * 3)
        member.start()
        self.events["member killed"] += 1

    def _freeze_member(self) -> None:
        member = self.chance.choice(self.etcd.members)
        for _ in range(self.chance.randrange(1, 4)):
            member.freeze()
            time.sleep(0.2 + self.chance.random())
            member.thaw()
            time.sleep(0.1)
        self.events["member paused"] += 1

    @contextlib.contextmanager
    def _down(self, switch: Switch) -> Iterator[None]:
        """Requests on a switch may fail in this block."""
        span = [time.monotonic(), float("inf")]
        switch.killed.append(span)
        yield
        span[1] = time.monotonic() + FLIGHT

    def _kill_switch(self) -> None:
        switch = self.chance.choice(self.switches)
        with self._down(switch):
            switch.node.restart()
        self.events["switch killed"] += 1

    def _end_switch(self) -> None:
        """End it as an administrator would. New clients are refused until it is back."""
        switch = self.chance.choice(self.switches)
        with self._down(switch):
            switch.node.daemon.signal(signal.SIGTERM)
            switch.node.daemon.wait()
            switch.node.start()
        self.events["switch restarted"] += 1

    def _pause_switch(self) -> None:
        """Pause the process that speaks to etcd, sometimes for longer than its lease; at times its workers too."""
        switch = self.chance.choice(self.switches)
        pid = switch.node.daemon.pid
        processes = [pid, *(child_processes(pid) if self.chance.random() < 0.3 else [])]
        for one in processes:
            os.kill(one, signal.SIGSTOP)
        time.sleep(self.chance.choice((0.5, 2.0, 12.0)) if len(processes) == 1 else 2.0)
        for one in processes:
            os.kill(one, signal.SIGCONT)
        self.events["switch paused"] += 1

    def _cut_off(self) -> None:
        """The network swallows all that a switch and etcd send each other."""
        node = self.chance.choice(self.nodes)
        node.links.swallow()
        time.sleep(self.chance.choice((1.0, 4.0, 12.0)))
        node.links.mend()
        self.events["switch cut off"] += 1

    def _half_open(self) -> None:
        self.chance.choice(self.nodes).links.half_open()
        self.events["connections half open"] += 1

    def _reset(self) -> None:
        for proxy in self.chance.choice(self.nodes).links:
            proxy.cut()
        self.events["connections reset"] += 1

    # The end.

    def check(self) -> list[str]:
        """Wait until everything is in order; return what is wrong."""
        for node in self.nodes:
            node.links.mend()
            node.wait_until_connected()
        wrong: list[str] = []
        try:
            wait_for(self._are_equal, timeout=30, pause=0.2)
        except AssertionError:
            wrong.append(f"the tables differ: {[node.nodes() for node in self.nodes]}")
            for node in self.nodes:
                print(f"the end of the log of node {node.name}:", *node.daemon.log().splitlines()[-20:], sep="\n")
        for node in self.nodes:
            weights = node.weights("book")
            for writer in self.writers:
                wrong += [f"{line}, as node {node.name} has it" for line in writer.check(weights)]
        wrong += self.load.failures
        outcomes = Counter(edit.outcome for writer in self.writers for edit in writer.history)
        if not outcomes["done"]:
            wrong.append("no edit was done")
        if not self.load.counts["done"]:
            wrong.append("no request was served")
        print(f"edits: {dict(outcomes)}; requests: {dict(self.load.counts)}, {len(self.load.failures)} failed")
        print(f"disturbances: {dict(self.events)}")
        return wrong

    def _are_equal(self) -> bool:
        tables: list[Any] = [self._configured(node.call("table")) for node in self.nodes]
        states = [row["state"] for node in self.nodes for row in node.nodes()["nodes"]]
        return all(table == tables[0] for table in tables) and set(states) == {"ok"}

    @staticmethod
    def _configured(table: dict[str, Any]) -> list[tuple[Any, ...]]:
        """What of a table is the same on all nodes."""
        return [
            (service["ident"], [(server["address"], server["weight"]) for server in service["servers"]])
            for service in table["services"]
        ]

    def finish(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.thread.stop)
            stack.callback(self.etcd.stop)
            for server in self.servers:
                stack.callback(server.stop)
            for node in self.nodes:
                stack.callback(node.links.close)
                stack.callback(node.daemon.finish)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--switches", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ktcpvs-soak-") as name:
        soak = ClusterSoak(Path(name), "abcdefgh"[: options.switches], options.seed)
        try:
            soak.start()
            soak.run(options.seconds)
            wrong = soak.check()
        finally:
            soak.finish()
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    print(f"{len(wrong)} checks failed; --seed {options.seed} repeats the order" if wrong else "all as it must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
