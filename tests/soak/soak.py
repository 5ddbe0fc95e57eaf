"""Everything at once for some minutes: `make soak`.

Clients of many kinds run while servers are killed, restarted, frozen and slowed down, workers are killed, the
configuration is changed, and other daemons take over. A request that may be retried must fail only when its own process
is killed. Memory must stay flat, and no socket may be left open. Exits with 1 when a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import uvloop

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from authority import SERVER, Authority  # noqa: E402
from clients import NAME, Clients, Failure  # noqa: E402
from e2e.harness import ControlThread, Daemon  # noqa: E402
from grpc_servers import GRPCServer  # noqa: E402
from http2_client import http2_context  # noqa: E402
from servers import LOOPBACK, Nginx, free_port, wait_for  # noqa: E402
from world import Kill, children, freeze_server, kill_server, kill_worker, memory, print_outcome, sockets  # noqa: E402

EACH = 4
"""Clients of each kind."""

FLAT = 1.05
"""The largest allowed ratio of the memory in the last quarter of the run to that in the second quarter."""

FLIGHT = 15.0
"""Seconds after a kill in which requests that the killed process served may fail."""

CONFIGURATION = """
global {{ keepalive_timeout = {keepalive} pool_size = {pool} drain_timeout = 20 }}
Virtual web {{
    listen = {host}:{web}
    scheduler = phttp
    balance = {balance}
    {servers}
    {rules}
}}
Virtual secure {{
    listen = {host}:{secure} tls
    certificate = {certificate}
    scheduler = phttp
    balance = {balance}
    {servers}
    {rules}
}}
Virtual relayed {{
    listen = {host}:{relayed}
    scheduler = wlc
    server = {host}:{echo}
}}
Virtual calls {{
    listen = {host}:{calls}
    scheduler = phttp
    server = {grpc} 1 h2
    rule = pattern ".*" use server {grpc}
}}
"""


class Soak:
    """One run. kills: the killed processes. said: how often each disturbance happened."""

    def __init__(self, folder: Path, workers: int, seed: int) -> None:
        self.folder = folder
        self.workers = workers
        self.chance = random.Random(seed)
        self.thread = ControlThread()
        self.kills: list[Kill] = []
        self.said: Counter[str] = Counter()
        self.servers = [Nginx(name, folder) for name in ("one", "two", "three")]
        files = {"small": 20_000, "middle": 400_000, "large": 3_000_000}
        digests = {name: {server.file(name, size) for server in self.servers} for name, size in files.items()}
        self.web, self.relayed, self.secure, self.calls, self.echo = (free_port() for _ in range(5))
        self.grpc = GRPCServer(folder)
        authority = Authority(folder)
        self.certificate = authority.issue("soak", NAME, purposes=(SERVER,))
        tls = ssl.create_default_context(cafile=authority.pem)
        once = {name: one.pop() for name, one in digests.items()}
        http2_tls = http2_context(str(authority.pem))
        self.clients = Clients(self.web, self.relayed, self.secure, self.calls, once, tls, http2_tls, seed)
        self.config = folder / "soak.conf"
        self._write()
        self.daemons: list[Daemon] = []
        self.daemon = self._daemon("--config", self.config)
        self.memory: list[int] = []

    def finish_daemons(self) -> None:
        for daemon in self.daemons:
            daemon.finish()

    def takes_over(self) -> None:
        old = self.daemon
        new = self._daemon("--config", self.config, "--takeover", old.control)
        new.run()
        wait_for(lambda: "taken over from" in new.log(), f"a takeover: {new.log()}", timeout=60)
        self.daemon = new
        old.may_have_ended = True
        wait_for(lambda: not old.is_alive, f"the old daemon to end: {old.log()}", timeout=60)
        assert old.process is not None
        assert old.process.returncode == 0, old.log()

    def _daemon(self, *options: object) -> Daemon:
        folder = self.folder / f"daemon{len(self.daemons)}"
        folder.mkdir()
        control = f"unix:{self.folder}/control.sock"
        daemon = Daemon(self.thread, folder, *map(str, options), workers=self.workers, control=control)
        self.daemons.append(daemon)
        return daemon

    def _write(self) -> None:
        """Write a configuration that differs each time and serves the same requests."""
        chance = self.chance
        servers = [f"server = {server.address} {chance.randint(1, 5)}" for server in self.servers]
        chance.shuffle(servers)
        used = " ".join(f"server {server.address}" for server in self.servers)
        patterns = [f"^/{chance.randrange(50)}$" for _ in range(chance.randrange(5))] + [".*"]
        self.config.write_text(
            CONFIGURATION.format(
                keepalive=chance.randint(5, 30),
                pool=chance.choice((2, 16, 64)),
                balance=chance.choice(("wlc", "rr", "p2c", "lc")),
                servers="\n    ".join(servers),
                rules="\n    ".join(f'rule = pattern "{pattern}" use {used}' for pattern in dict.fromkeys(patterns)),
                host=LOOPBACK,
                web=self.web,
                relayed=self.relayed,
                secure=self.secure,
                certificate=self.certificate,
                echo=self.echo,
                calls=self.calls,
                grpc=self.grpc.plain,
            )
        )

    # Disturbances.

    def kills_a_server(self) -> None:
        server = self.chance.choice(self.servers)
        self.kills.append(kill_server(server))
        time.sleep(self.chance.random() * 2)
        server.start()

    def slows_a_server(self) -> None:
        freeze_server(self.chance.choice(self.servers), self.chance.random() * 3)

    def freezes_a_server(self) -> None:
        freeze_server(self.chance.choice(self.servers), 12)

    def kills_a_worker(self) -> None:
        pids = children(self.daemon.pid)
        if len(pids) > 1:  # one at a time
            self.kills.append(kill_worker(self.chance.choice(pids), {self.web, self.relayed, self.secure, self.calls}))
            wait_for(lambda: len(children(self.daemon.pid)) == self.workers, timeout=20)
            time.sleep(2)

    def loads_another_file(self) -> None:
        self._write()
        self.daemon.adm("-f", self.config)

    def hangs_up(self) -> None:
        self._write()
        self.daemon.signal(1)

    def edits(self) -> None:
        server = self.chance.choice(self.servers).address
        for weight in (0, self.chance.randint(1, 9)):
            self.daemon.call("edit_server", "web", server, weight)
        self.daemon.call("edit_service", "web", via=self.chance.choice(("off", "append")))
        self.daemon.set(pool_size=self.chance.choice((0, 4, 64)))
        self.daemon.call("add_server", "web", f"{LOOPBACK}:1")
        self.daemon.call("delete_server", "web", f"{LOOPBACK}:1")

    # The run.

    async def run(self, seconds: float) -> None:
        talk = await asyncio.start_server(_echo, LOOPBACK, self.echo)
        asking = asyncio.ensure_future(self.clients.run(EACH))
        doing = asyncio.ensure_future(asyncio.to_thread(self._disturb, seconds))
        began = time.monotonic()
        while not doing.done():
            await asyncio.wait([doing, asking], timeout=1, return_when=asyncio.FIRST_COMPLETED)
            assert not asking.done(), asking.result()
            pids = [self.daemon.pid, *children(self.daemon.pid)]
            self.memory.append(sum(map(memory, pids)))
            went = self.clients.done.total()
            print(
                f"\rsoak: {time.monotonic() - began:.0f} of {seconds:.0f} s, {went:,} conversations, "
                f"{len(self.clients.failures)} failures, {self.memory[-1] >> 20} MiB ",
                end="",
                flush=True,
            )
        self.clients.enough = True
        doing.result()
        await asyncio.wait_for(asking, 120)
        talk.close()

    def _disturb(self, seconds: float) -> None:
        events = [self.kills_a_server, self.slows_a_server, self.loads_another_file, self.hangs_up, self.edits]
        if self.workers:
            events.append(self.kills_a_worker)
        begin = time.monotonic()
        due = {self.freezes_a_server: begin + 15, self.takes_over: begin + 30}
        while time.monotonic() < begin + seconds:
            event = next((event for event, when in due.items() if when < time.monotonic()), None)
            if event is None:
                event = self.chance.choice(events)
            else:
                due[event] = time.monotonic() + 60
            event()
            self.said[event.__name__.replace("_", " ")] += 1
            time.sleep(self.chance.random() * 2)

    def excuse(self, failure: Failure) -> bool:
        """True when a killed process served the request."""
        for kill in self.kills:
            if not kill.when - 1 < failure.when < kill.when + FLIGHT:
                continue
            if failure.port in kill.ports or (kill.what.startswith("server") and not failure.safe):
                return True
        return False


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


def soak(seconds: float, workers: int, seed: int) -> list[str]:
    """Run it; return the violations."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ktcpvs-soak-") as folder, contextlib.ExitStack() as stack:
        run = Soak(Path(folder), workers, seed)
        stack.callback(run.thread.stop)
        for server in (*run.servers, run.grpc):
            stack.callback(server.stop)
        run.daemon.start()
        stack.callback(run.finish_daemons)
        if workers:
            wait_for(lambda: len(children(run.daemon.pid)) == workers)
        time.sleep(1)
        before = _most_sockets(run.daemon)
        uvloop.run(run.run(seconds))
        run.daemon.set(keepalive_timeout=1)
        run.daemon.wait_until_empty()
        try:
            wait_for(lambda: _most_sockets(run.daemon) <= before, timeout=20)
        except AssertionError:
            wrong.append(f"{_most_sockets(run.daemon)} sockets are open, {before} were before")
        failures = [failure for failure in run.clients.failures if not run.excuse(failure)]
        wrong += [f"not excused: {failure}" for failure in failures]
        quarter = len(run.memory) // 4
        early = statistics.median(run.memory[quarter : 2 * quarter])
        late = statistics.median(run.memory[-quarter:])
        if late > early * FLAT:
            wrong.append(f"memory has grown from {early / 2**20:.1f} to {late / 2**20:.1f} MiB")
        latencies = sorted(run.clients.latencies)
        done = ", ".join(f"{kind} {count:,}" for kind, count in run.clients.done.items())
        print(f"\rsoak: {seconds:.0f} s with {workers} workers; went well: {done}; {run.clients.races} sent again")
        print(f"what happened: {', '.join(f'{what} {count}' for what, count in run.said.items())}")
        excused = Counter(failure.kind for failure in run.clients.failures if run.excuse(failure))
        print(f"in flight on killed processes: {dict(excused)}; sockets {before}, then {_most_sockets(run.daemon)}")
        print(f"memory of all processes {early / 2**20:.1f}, then {late / 2**20:.1f} MiB")
        print(f"an answer took {statistics.median(latencies) * 1000:.1f} ms (median), {latencies[-1]:.1f} s at most")
    return wrong


def _most_sockets(daemon: Daemon) -> int:
    return max(sockets(pid) for pid in (daemon.pid, *children(daemon.pid)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    wrong = soak(options.seconds, options.workers, options.seed)
    return print_outcome(wrong)


if __name__ == "__main__":
    sys.exit(main())
