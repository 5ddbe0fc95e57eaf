"""The hostile soak test: `make soak-hostile`. Clients and servers that misbehave at every stage, beside well-behaved
ones.

Seeded generators select what the hostile ones do: the seed is printed, and SEED=... repeats the same acts.
docs/testing.md lists the checks. Exits with 1 if one fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from authority import SERVER, Authority  # noqa: E402
from clients import NAME  # noqa: E402
from e2e.harness import MAX_KEPT, ControlThread, Daemon  # noqa: E402
from good_clients import GoodClients  # noqa: E402
from grpc_servers import GRPCServer  # noqa: E402
from http2_client import http2_context  # noqa: E402
from servers import LOOPBACK, answers, free_port, wait_for  # noqa: E402
from slow import kernel_memory  # noqa: E402
from world import children, cpu, kinds_of_descriptors, memory, unreclaimable_slab  # noqa: E402

ACTORS = 60
"""Hostile clients at once."""

EACH = 3
"""Well-behaved clients of each kind."""

WARM_UP = 6.0
"""Seconds of well-behaved clients before the attack; what the switch has then is the base of all comparisons."""

MAX_P99 = 1.0
"""Seconds that the slowest of 99 of 100 small requests of the clean service may take more than without the attack."""

MAX_EDIT = 10.0
"""Seconds that an edit or a listing may take on an open control connection."""

MAX_AGE = 60.0
"""Seconds that a connection of an attacked service may live: hostile clients leave after 12, hostile servers after 20,
and the longest sum of timeouts is 20."""

MAX_GROWTH = 256 << 20
"""Bytes by which the memory of all processes may grow while the attack goes on."""

MAX_REMAINDER = 64 << 20
"""Bytes by which it may have grown when the attack is over: memory that malloc keeps."""

MAX_SLAB_GROWTH = 192 << 20
"""Bytes by which the kernel's unreclaimable slab may grow meanwhile: sockets, and the packets that they hold."""

MAX_TCP_GROWTH = 512 << 20
"""Bytes by which the memory of all TCP sockets may grow, those of the hostile programs included."""

MAX_LINES = 0.25
"""Lines of the log for each connection of a hostile client or to a hostile server, at the default `debug_level`."""

LONGEST = 30.0
"""Seconds within which the switch ends all connections to clients that do nothing more."""

LEFT_SLAB = 96 << 20
"""Bytes of slab that may be left when all hostile programs have ended; other programs of the machine count too."""

CONFIGURATION = """
global {{
    keepalive_timeout = {keepalive} read_timeout = 5 connect_timeout = 1 response_timeout = 8
    head_timeout = 2 tls_handshake_timeout = 3 queue_timeout = 2 choose_timeout = 1 linger_timeout = 1 linger_time = 5
    drain_timeout = 5 pool_size = {pool}
}}
Virtual clean {{
    listen = {host}:{clean} scheduler = phttp balance = {balance}
    server = {host}:{good[0]} {weights[0]} server = {host}:{good[1]} {weights[1]}
    rule = pattern ".*" use server {host}:{good[0]} server {host}:{good[1]}
}}
Virtual calls {{
    listen = {host}:{calls} scheduler = phttp server = {grpc} 1 h2 rule = pattern ".*" use server {grpc}
}}
Virtual echo {{
    listen = {host}:{echo} scheduler = wlc server = {host}:{good_raw}
}}
Virtual mixed {{
    listen = {host}:{mixed} scheduler = phttp balance = {balance} maxclients = 600
    check = http /health expect 200 check_interval = 1 check_timeout = 1 eject = 3 eject_time = 1
    {mixed_servers}
    rule = pattern ".*" use {mixed_used}
}}
Virtual web {{
    listen = {host}:{web} scheduler = phttp balance = rr eject = 0 maxclients = 600
    access_log = {folder}/web.log via = append x_forwarded_for = replace first_byte_timeout = 2
    server = {host}:{target[0]} server = {host}:{hostile[0]} server = {host}:{hostile[1]} server = {host}:{full}
    rule = pattern ".*" use server {host}:{target[0]} server {host}:{hostile[0]} server {host}:{hostile[1]}
    rule = pattern "=1000000$" use server {host}:{full} server {host}:{target[0]}
}}
Virtual sessions {{
    listen = {host}:{sessions} scheduler = chttp eject = 0 maxclients = 600
    access_log = {folder}/sessions.log access_log_format = json
    client_connections = 300 client_rate = 100/s client_head = 2000000 abort_on_close = on
    server = {host}:{target[0]} maxconn {maxconn} server = {host}:{hostile[0]} maxconn 3
    rule = pattern ".*" use server {host}:{target[0]} server {host}:{hostile[0]}
}}
Virtual first {{
    listen = {host}:{first} scheduler = http balance = rr eject = 0 maxclients = 600
    server = {host}:{target[0]} server = {host}:{hostile[1]}
    rule = pattern ".*" use server {host}:{target[0]} server {host}:{hostile[1]}
}}
Virtual clean-tls {{
    listen = {host}:{clean_tls} tls certificate = {certificate} scheduler = phttp balance = {balance}
    server = {host}:{good[0]} {weights[0]} server = {host}:{good[1]} {weights[1]}
}}
Virtual clean-sni {{
    listen = {host}:{clean_sni} scheduler = sni server = {host}:{clean_tls}
    rule = host localhost use server {host}:{clean_tls}
}}
Virtual secure {{
    listen = {host}:{secure} tls certificate = {certificate} scheduler = phttp balance = rr eject = 0
    maxclients = 600 x_forwarded_proto = replace
    server = {host}:{target[0]} server = {host}:{hostile[0]} server = {host}:{hostile[1]}
}}
Virtual client-ca {{
    listen = {host}:{client_ca} tls certificate = {certificate} scheduler = chttp eject = 0 maxclients = 600
    client_ca = {ca} client_certificate = required
    server = {host}:{target[0]}
}}
Virtual relayed-tls {{
    listen = {host}:{relayed_tls} tls certificate = {certificate} scheduler = rr eject = 0 maxclients = 600
    server = {host}:{raw[0]} server = {host}:{raw[1]} server = {host}:{target_raw}
}}
Virtual sni {{
    listen = {host}:{sni} scheduler = sni balance = rr eject = 0 maxclients = 600 starttls = postgresql
    server = {host}:{secure} server = {host}:{raw[0]}
    rule = host localhost use server {host}:{secure}
    rule = pattern ".*" use server {host}:{raw[0]}
}}
Virtual nobody {{
    listen = {host}:{nobody} scheduler = phttp maxclients = 600
}}
Virtual unreachable {{
    listen = {host}:{unreachable} scheduler = phttp maxclients = 600 eject = 0
    server = {host}:{full}
    rule = pattern ".*" use server {host}:{full}
}}
{relays}
"""

RELAY = """
Virtual {relay} {{
    listen = {host}:{port} scheduler = rr relay = {relay} eject = 0 maxclients = 600 {check}
    server = {host}:{raw[0]} server = {host}:{raw[1]} server = {host}:{target_raw}
}}
"""

CHECKS = {
    "copy": "check = tcp check_interval = 1",
    "splice": 'check = send "hello" expect "hello" check_interval = 1 check_timeout = 1',
    "kernel": "",
}

HTTP = "web", "sessions", "first", "nobody", "unreachable", "mixed"
TLS = "secure", "client_ca", "relayed_tls", "sni"
RELAYS = tuple(CHECKS)


class Program:
    """A Python program of the soak; it ends with its standard input. counts: what it has reported."""

    def __init__(self, folder: Path, name: str, **options: object) -> None:
        self.name = name
        self.report = folder / f"{name}-{len(list(folder.glob(f'{name}-*.json')))}.json"
        self.report.write_text("{}")
        path = ":".join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / f"{name}.py"), json.dumps({**options, "report": str(self.report)})],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )

    @property
    def counts(self) -> Counter[str]:
        return Counter(json.loads(self.report.read_text()))

    def freeze(self) -> None:
        """Stop the process; its sockets stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it. May be called twice."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class HostileSoak:
    """One run. wrong: a line for each violation."""

    def __init__(self, folder: Path, workers: int, seed: int, only: str) -> None:
        self.folder = folder
        self.workers = workers
        self.seed = seed
        self.only = only
        self.chance = random.Random(seed)
        self.wrong: list[str] = []
        self.said: set[str] = set()
        self.edits: Counter[str] = Counter()
        self.slowest_edit = 0.0
        self.quiet_p99 = 0.0
        self.thread = ControlThread()
        self.ports = {
            name: free_port()
            for name in (
                *("clean", "clean_tls", "clean_sni", "calls", "echo", *HTTP, *TLS, *RELAYS),
                *("status", "full", "good_raw", "target_raw"),
            )
        }
        authority = Authority(folder)
        self.ca = authority.pem
        self.certificate = authority.issue("soak", NAME, purposes=(SERVER,))
        self.good = [free_port(), free_port()]
        self.target = [free_port()]
        self.hostile = [free_port(), free_port()]
        self.raw = [free_port(), free_port()]
        self.relays = list(RELAYS)
        self.config = folder / "soak.conf"
        control = folder / "control.sock"
        self.daemon = Daemon(
            self.thread,
            folder,
            "--config",
            self.config,
            "--status",
            f"tcp:{self.ports['status']}:interface={LOOPBACK}",
            workers=workers,
            control=f"unix:{control}",
        )
        self.daemon.may_log_tracebacks = True  # its log is judged here
        self.grpc = GRPCServer(folder)
        self.programs: list[Program] = []
        self.hostile_programs: list[Program] = []
        self.clients = self._clients()
        self.samples: list[tuple[int, int, int]] = []  # memory, slab, TCP

    # Starting.

    def kill_all(self) -> None:
        """End the daemon, if it was started, and all programs."""
        try:
            if self.daemon.process is not None:
                self.daemon.finish()
        finally:
            self.grpc.stop()
            for program in (*self.programs, *self.hostile_programs):
                program.kill()

    def start(self) -> None:
        """Start the well-behaved servers and the daemon. Without the rights, the kernel relay is left out."""
        good = {"good": (self.good, [self.ports["good_raw"]]), "target": (self.target, [self.ports["target_raw"]])}
        for http, raw in good.values():
            self.programs.append(Program(self.folder, "good_servers", http=http, raw=raw))
        for http, raw in good.values():
            for port in (*http, *raw):
                wait_for(partial(answers, port), "a good server to listen", timeout=30)
        self._write(first=True)
        if not self._takes_kernel():
            print("no relay in the kernel here: it is not attacked")
            self.relays.remove("kernel")
            self._write(first=True)
        self.daemon.start()
        for name in ("clean", "clean_tls", "clean_sni", *HTTP, *TLS):
            wait_for(partial(answers, self.ports[name]), "the services to listen", timeout=30)
        for _ in range(10 * self.workers):
            wait_for(lambda: _is_served(self.ports["clean"]), "the workers to serve", timeout=30)

    def _takes_kernel(self) -> bool:
        try:
            self.daemon.start()
        except AssertionError:
            return False
        self.daemon.signal(signal.SIGTERM)
        self.daemon.wait()
        self.daemon.log_path.unlink()
        return True

    def attack(self) -> None:
        """Start the hostile programs."""
        self.hostile_programs = [
            Program(
                self.folder,
                "hostile_servers",
                seed=self.seed,
                http=self.hostile,
                raw=self.raw,
                full=self.ports["full"],
                only=self.only,
            ),
            Program(
                self.folder,
                "hostile_clients",
                seed=self.seed,
                http=[self.ports[name] for name in HTTP],
                raw=[self.ports[name] for name in self.relays],
                tls=[self.ports[name] for name in TLS],
                control=str(self.folder / "control.sock"),
                status=self.ports["status"],
                actors=ACTORS,
                only=self.only,
            ),
        ]

    def _write(self, first: bool = False) -> None:
        """Write a configuration that differs each time and serves well-behaved clients in the same way."""
        chance = self.chance
        mixed = [*self.target, *self.good, *self.hostile]
        if not first and chance.random() < 0.3:
            mixed.remove(chance.choice(mixed[2:]))
        relays = [
            RELAY.format(
                relay=relay,
                host=LOOPBACK,
                port=self.ports[relay],
                raw=self.raw,
                target_raw=self.ports["target_raw"],
                check=CHECKS[relay] if first or chance.random() < 0.8 else "",
            )
            for relay in self.relays
        ]
        self.config.write_text(
            CONFIGURATION.format(
                host=LOOPBACK,
                folder=self.folder,
                keepalive=3 if first else chance.choice((3, 3, 4)),
                pool=64 if first else chance.choice((4, 64)),
                balance=chance.choice(("wlc", "rr", "p2c")),
                weights=[chance.randint(1, 5) for _ in range(2)],
                maxconn=chance.randint(2, 8),
                good=self.good,
                target=self.target,
                hostile=self.hostile,
                raw=self.raw,
                mixed_servers=" ".join(f"server = {LOOPBACK}:{port}" for port in mixed),
                mixed_used=" ".join(f"server {LOOPBACK}:{port}" for port in mixed),
                relays="".join(relays),
                certificate=self.certificate,
                ca=self.ca,
                grpc=self.grpc.plain,
                **self.ports,
            )
        )

    # Edits and listings during the attack.

    def edits_weight(self) -> None:
        ident, port = self.chance.choice(
            [("clean", self.good[0]), ("web", self.hostile[0]), ("sessions", self.target[0]), ("mixed", self.target[0])]
        )
        weight = self.chance.randint(0, 5)
        self.daemon.adm("-e", "-i", ident, "-r", f"{LOOPBACK}:{port}", "-w", weight)

    def loads_a_file(self) -> None:
        self._write()
        self.daemon.adm("-f", self.config)

    def hangs_up(self) -> None:
        self._write()
        loaded = self.daemon.log().count("is loaded")
        self.daemon.signal(signal.SIGHUP)
        wait_for(lambda: self.daemon.log().count("is loaded") > loaded, "SIGHUP to load the file", timeout=MAX_EDIT)

    def adds_and_deletes(self) -> None:
        ident = self.chance.choice(("web", "mixed", *self.relays))
        address = f"{LOOPBACK}:{free_port()}"
        self._call("add_server", ident, address)
        time.sleep(self.chance.random())
        self._call("delete_server", ident, address)

    def changes_settings(self) -> None:
        self._call("set", {"pool_size": self.chance.choice((0, 4, 64)), "retry_after": self.chance.randrange(10)})

    def restarts_a_service(self) -> None:
        ident = self.chance.choice(("web", "sessions", "first", "secure", "sni", *self.relays))
        self.daemon.adm("--stop", "-i", ident)
        self.daemon.adm("--start", "-i", ident)

    def looks(self) -> None:
        self.daemon.adm("--stats", "-n")
        self._call("stats")
        self._call("table")

    def _call(self, method: str, *arguments: Any) -> Any:
        """Send an edit or a listing on the open control connection, and measure it."""
        began = time.monotonic()
        try:
            return self.daemon.call(method, *arguments)
        finally:
            took = time.monotonic() - began
            self.slowest_edit = max(self.slowest_edit, took)
            if took > MAX_EDIT:
                self.is_wrong(f"{method} took {took:.1f} s")

    def _administer(self, until: float) -> None:
        """Send edits and listings, every few seconds. Runs in a thread."""
        actions: list[Callable[[], None]] = [
            self.edits_weight, self.loads_a_file, self.hangs_up, self.adds_and_deletes, self.changes_settings,
            self.restarts_a_service, self.looks,
        ]  # fmt: skip
        while time.monotonic() < until:
            action = self.chance.choice(actions)
            name = action.__name__.replace("_", " ")
            try:
                action()
            except Exception as error:
                self.is_wrong(f"the administrator's {name}: {str(error)[:300]!r}")
            self.edits[name] += 1
            if not self.daemon.is_alive:
                return
            time.sleep(self.chance.uniform(0.5, 4))

    # Checks during the attack.

    def is_wrong(self, what: str, about: str = "") -> None:
        """Record a violation, once for each `about` if given."""
        if about and about in self.said:
            return
        self.said.add(about)
        print(f"\nWRONG {what}", flush=True)
        self.wrong.append(what)

    @property
    def pids(self) -> list[int]:
        return [self.daemon.pid, *children(self.daemon.pid)]

    def _look_at_connections(self) -> None:
        """Check that no connection of an attacked service outlives all timeouts."""
        for row in self._call("connections"):
            if row["service"] not in ("clean", "clean-tls", "clean-sni", "calls", "echo") and row["age"] > MAX_AGE:
                self.is_wrong(f"a connection lives for ever: {row}", f"{row['service']} {row['state']}")

    def sample(self) -> None:
        """Measure the memory and compare it with the first sample."""
        now = sum(map(memory, self.pids)), unreclaimable_slab(), kernel_memory()
        self.samples.append(now)
        bounds = MAX_GROWTH, MAX_SLAB_GROWTH, MAX_TCP_GROWTH
        whose = "the processes", "the kernel's slab", "TCP sockets"
        for what, value, first, bound in zip(whose, now, self.samples[0], bounds, strict=True):
            if value - first > bound:
                self.is_wrong(f"memory of {what} has grown by {value - first >> 20} MiB, {bound >> 20} may be", what)
            if value - first > 4 * bound:
                raise AssertionError(f"memory of {what} grows by {value - first >> 20} MiB: the attack ends here")
        if not self.daemon.is_alive:
            raise AssertionError(f"the daemon has ended: {self.daemon.log()[-3000:]}")

    async def warm_up(self) -> None:
        """Run well-behaved clients alone for some seconds, until all that is allocated once is allocated."""
        clients = self._clients()
        asking = asyncio.ensure_future(clients.run(EACH))
        await asyncio.sleep(WARM_UP)
        clients.enough = True
        await asyncio.wait_for(asking, 90)
        self.wrong += clients.wrong
        self._say_latencies("by HTTP/2 before the attack", clients.stream_latencies)
        self.quiet_p99 = self._say_latencies("before the attack", clients.latencies)

    def _clients(self) -> GoodClients:
        ports = self.ports
        tls = ssl.create_default_context(cafile=self.ca)
        secure, passed = ports["clean_tls"], ports["clean_sni"]
        http2 = ports["calls"], http2_context(str(self.ca))
        return GoodClients(ports["clean"], ports["mixed"], ports["echo"], self.seed, secure, passed, tls, *http2)

    async def run(self, seconds: float) -> None:
        """Run the attack."""
        asking = asyncio.ensure_future(self.clients.run(EACH))
        self.attack()
        began = time.monotonic()
        until = began + seconds
        administering = asyncio.ensure_future(asyncio.to_thread(self._administer, until))
        looked = began
        while time.monotonic() < until and not asking.done():
            await asyncio.sleep(1)
            self.sample()
            if time.monotonic() > looked + 5:
                looked = time.monotonic()
                try:
                    await asyncio.to_thread(self._look_at_connections)
                except Exception as error:
                    self.is_wrong(f"the list of connections: {error!r}", "list")
            for program in (*self.programs, *self.hostile_programs):
                assert program.process.poll() is None, f"{program.name} has ended"
            grown = [value - first >> 20 for value, first in zip(self.samples[-1], self.samples[0], strict=True)]
            print(
                f"\rhostile: {time.monotonic() - began:.0f} of {seconds:.0f} s, {self.clients.done.total():,} served, "
                f"{len(self.wrong) + len(self.clients.wrong)} wrong; "
                f"MiB more: processes {grown[0]}, slab {grown[1]}, TCP {grown[2]} ",
                end="",
                flush=True,
            )
        print()
        await administering
        self._say_latencies("by HTTP/2 in the attack", self.clients.stream_latencies)
        p99 = self._say_latencies("in the attack", self.clients.latencies)
        if p99 > self.quiet_p99 + MAX_P99:
            self.is_wrong(f"99 % of the small requests took up to {p99:.2f} s, and {self.quiet_p99:.2f} s before")
        self.clients.enough = True
        await asyncio.wait_for(asking, 90)

    def _say_latencies(self, when: str, latencies: list[float]) -> float:
        """Print the latencies; return the 99th percentile of the small requests, in seconds."""
        found = sorted(latencies)
        if not found:
            self.is_wrong(f"no small request was served {when}")
            return 0.0
        p99 = found[int(len(found) * 0.99)]
        print(
            f"{len(found):,} small requests {when}: median {statistics.median(found) * 1000:.1f} ms, "
            f"99 % within {p99 * 1000:.1f} ms, the slowest {found[-1] * 1000:.0f} ms"
        )
        return p99

    # Checks at the end.

    def end(self, before: Counter[str]) -> None:
        """The hostile servers leave and the hostile clients stop where they are: the timeouts of the switch must end
        their connections. Then the clients leave too. before: descriptors."""
        print("the end: hostile clients are frozen, and the timeouts must end their connections")
        self.wrong += self.clients.wrong[:20]
        for line in self.clients.wrong[:20]:
            print(f"WRONG {line}")
        if len(self.clients.wrong) > 20:
            self.is_wrong(f"and {len(self.clients.wrong) - 20} more such")
        events = sum(((program.counts) for program in self.hostile_programs), Counter())
        servers, clients = self.hostile_programs
        clients.freeze()
        servers.kill()
        self.daemon.set(keepalive_timeout=1)
        try:
            wait_for(lambda: not self.daemon.connections(), timeout=LONGEST, pause=0.5)
        except AssertionError:
            left = self.daemon.connections()
            forms = Counter((row["service"], row["state"]) for row in left)
            self.is_wrong(
                f"{LONGEST:.0f} s after everything hostile has stopped, connections live: {dict(forms)}; {left[:3]}"
            )
        used = self._cpu(3)
        if used > 0.3:
            self.is_wrong(f"the switch uses {used:.0%} of a core while its peers do nothing")
        clients.kill()
        self.wait_until_nothing_is_counted()
        self._check_descriptors(before)
        self._check_that_it_serves()
        self._check_memory()
        self._check_log(events["connections"])
        print(f"hostile: {', '.join(f'{what} {count:,}' for what, count in sorted(events.items()))}")
        joined = {relay: self.daemon.stats(relay)["stats"]["relay"]["joined"] for relay in self.relays}
        print(f"relays: {joined}")
        print(f"administration: {dict(self.edits)}; the slowest edit or view took {self.slowest_edit:.1f} s")
        print(f"well-behaved: {dict(self.clients.done)}; {self.clients.races} sent again")
        print(f"failures of the mixed service: {dict(self.clients.failures)}")

    def _cpu(self, seconds: float) -> float:
        """Return the number of cores that all processes use together."""
        before = sum(map(cpu, self.pids))
        time.sleep(seconds)
        return (sum(map(cpu, self.pids)) - before) / seconds

    def wait_until_nothing_is_counted(self) -> None:
        """Wait until no connection is counted as open, queued or kept."""

        def counted() -> dict[str, Any]:
            found: dict[str, Any] = {}
            for service in self.daemon.call("stats")["services"]:
                stats = service["stats"]
                found |= {f"{service['ident']} {key}": stats[key] for key in ("active", "queued") if stats[key]}
                for server in service["servers"]:
                    stats = server["stats"]
                    found |= {f"{server['address']} {key}": stats[key] for key in ("active", "kept") if stats[key]}
            return found

        try:
            wait_for(lambda: not counted(), timeout=15, pause=0.5)
        except AssertionError:
            self.is_wrong(f"when all have gone, these are counted: {counted()}")

    def _check_descriptors(self, before: Counter[str]) -> None:
        def left() -> Counter[str]:
            now = sum((kinds_of_descriptors(pid) for pid in self.pids), Counter[str]())
            return now - before

        def is_left() -> dict[str, int]:
            spare = {kind: (self.workers + 1) * count for kind, count in MAX_KEPT.items()}
            spare |= {
                f"{self.folder}/{log}.log": max(self.workers, 1) for log in ("web", "sessions")
            }  # opened by a first line
            # When checks of one server by two services meet, each keeps its connection for the next check.
            spare["socket:"] = len(self.good) + len(self.target)
            return {kind: count for kind, count in left().items() if count > spare.get(kind, 0)}

        try:
            wait_for(lambda: not is_left(), timeout=15, pause=0.5)
        except AssertionError:
            self.is_wrong(f"descriptors are left over: {is_left()}")
        print(f"descriptors before {dict(before)}, more afterwards {dict(left())}")

    def _check_that_it_serves(self) -> None:
        """Check that each service with a good server still serves."""
        self._write(first=True)
        self.daemon.adm("-f", self.config)
        hostile = {f"{LOOPBACK}:{port}" for port in (*self.hostile, *self.raw, self.ports["full"])}
        for service in self.daemon.call("stats")["services"]:
            for server in service["servers"]:
                if server["address"] in hostile:
                    self.daemon.call("edit_server", service["ident"], server["address"], 0)
        for ident in ("clean", "mixed", "web", "sessions", "first"):
            clients = GoodClients(self.ports[ident], self.ports[ident], self.ports["echo"], self.seed)
            try:
                uvloop.run(asyncio.wait_for(_some(clients), 60))
            except TimeoutError:
                self.is_wrong(f"afterwards: service {ident} does not serve within 60 s")
            for line in clients.wrong[:3]:
                self.is_wrong(f"afterwards: service {ident}: {line}")

    def _check_memory(self) -> None:
        try:
            wait_for(lambda: unreclaimable_slab() - self.samples[0][1] < LEFT_SLAB, timeout=20, pause=0.5)
        except AssertionError:
            self.is_wrong(f"{unreclaimable_slab() - self.samples[0][1] >> 20} MiB of slab are left over")
        grown = sum(map(memory, self.pids)) - self.samples[0][0]
        if grown > MAX_REMAINDER:
            self.is_wrong(f"the processes keep {grown >> 20} MiB, {MAX_REMAINDER >> 20} may be")
        peaks = [max(column) - column[0] >> 20 for column in zip(*self.samples, strict=True)]
        print(
            f"memory of the processes: {self.samples[0][0] >> 20} MiB, at most {peaks[0]} MiB more, "
            f"{grown >> 20} MiB more at the end; slab at most {peaks[1]} MiB more, TCP sockets {peaks[2]} MiB"
        )

    def _check_log(self, connections: int) -> None:
        log = self.daemon.log()
        for word in ("Traceback", "Unhandled", "never awaited", "never retrieved"):
            if count := log.count(word):
                place = log.find(word)
                self.is_wrong(f"the log has {count} times {word!r}: {log[max(place - 300, 0) : place + 2500]}")
        lines = log.splitlines()
        forms = Counter(re.sub(r"\d+", "N", line.partition("] ")[2])[:90] for line in lines)
        told = f"log: {len(lines):,} lines for {connections:,} hostile connections, mostly {forms.most_common(4)}"
        if len(lines) > MAX_LINES * connections:
            self.is_wrong(told)
        print(told)


def _is_served(port: int) -> bool:
    """True when a GET gets a response."""
    with socket.create_connection((LOOPBACK, port), timeout=30) as sock:
        sock.sendall(b"GET /echo/first HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
        return sock.recv(1000).startswith(b"HTTP/1.1 200 ")


async def _some(clients: GoodClients) -> None:
    """Send small requests for two seconds."""
    asking = [asyncio.ensure_future(clients.closes(random.Random(n))) for n in range(5)]
    await asyncio.sleep(2)
    clients.enough = True
    await asyncio.gather(*asking)
    if not clients.done.total():
        clients.wrong.append("no request was served")


def soak(seconds: float, workers: int, seed: int, only: str) -> list[str]:
    """Run it; return the violations."""
    with tempfile.TemporaryDirectory(prefix="ktcpvs-hostile-") as folder, contextlib.ExitStack() as stack:
        run = HostileSoak(Path(folder), workers, seed, only)
        stack.callback(run.thread.stop)
        stack.callback(run.kill_all)
        run.start()
        try:
            uvloop.run(run.warm_up())
            run.daemon.wait_until_empty()
            run.wait_until_nothing_is_counted()
            before = sum((kinds_of_descriptors(pid) for pid in run.pids), Counter[str]())
            run.sample()
            uvloop.run(run.run(seconds))
            run.end(before)
        except AssertionError as error:
            run.is_wrong(str(error))
        return run.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument(
        "--only", default="", help="kinds of hostile clients and servers, with commas; -KIND: all but it"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    wrong = soak(options.seconds, options.workers, options.seed, options.only)
    print(f"{len(wrong)} wrong; again with SEED={options.seed}" if wrong else "all as it must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
