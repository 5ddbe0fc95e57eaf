"""HTTP/2 for some minutes: `make soak-http2`.

1. Bodies of 1 GiB in both directions, with TLS and without, to a client and to a server that read slowly: the digests
   must be right, and the daemon's memory bounded.
2. 1,000 edits and 20 takeovers while h2load and other clients ask all the time: no request may fail.
3. Each attack of hostile clients by itself, beside well-behaved clients: these must be served rightly. Their latency
   and the daemon's memory are printed.

Exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from authority import SERVER, Authority  # noqa: E402
from e2e.harness import ControlThread, Daemon  # noqa: E402
from hostile_http2 import HTTP2_KINDS  # noqa: E402
from http2_attackers import Kind, attack  # noqa: E402
from http2_client import http2_context  # noqa: E402
from http2_load import BulkServer, H2Load, StreamLoad, body, download, upload  # noqa: E402
from servers import LOOPBACK, Nginx, free_port, wait_for  # noqa: E402
from timed_clients import TimedClients  # noqa: E402
from world import memory, print_outcome  # noqa: E402

NAME = "localhost"
TIMEOUT = 120.0

SLOW_RATE = 40 << 20
"""Bytes in a second that the slow client reads."""

SLOW_PAUSE = 0.02
"""Seconds for which the slow server pauses after each MiB."""

MAX_GROWTH = 32 << 20
"""Bytes by which the daemon may grow while it passes long bodies on, or is attacked."""

EDITS_PER_TAKEOVER = 50

MAX_LATENCY = 30.0
"""Seconds that a request of a well-behaved client may take: generous, since attackers and daemon share the cores."""


class Run:
    """A daemon with a service that has nginx as its server, and one for long bodies; each with TLS and without. wrong:
    a line for each violation."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._thread = ControlThread()
        stack.callback(self._thread.stop)
        self._daemons: list[Daemon] = []
        stack.callback(self._finish)
        web, bulk = Nginx("behind", folder), BulkServer(SLOW_PAUSE)
        stack.callback(web.stop)
        stack.callback(bulk.stop)
        self._web = web
        authority = Authority(folder)
        self.ca = authority.pem
        certificate = authority.issue("site", NAME, purposes=(SERVER,))
        self.ports = {name: free_port() for name in ("web", "web tls", "bulk", "bulk tls")}
        self._start()
        for ident, address in ("web", web.address), ("bulk", bulk.address):
            listen = [f"{LOOPBACK}:{self.ports[ident]}", f"{LOOPBACK}:{self.ports[f'{ident} tls']} tls"]
            self.daemon.call("add_service", ident, listen=listen, scheduler="phttp", certificate=[str(certificate)])
            self.daemon.call("add_server", ident, address)
            self.daemon.call("add_rule", ident, ".*", address)
            self.daemon.call("start", ident)
        self.daemon.set(drain_timeout=3600)
        self.wrong: list[str] = []

    @property
    def daemon(self) -> Daemon:
        """The one that serves."""
        return self._daemons[-1]

    def _start(self, *options: str, control: str | None = None) -> None:
        folder = self._folder / f"daemon{len(self._daemons)}"
        folder.mkdir()
        daemon = Daemon(self._thread, folder, "--state", str(self._folder / "state"), *options, control=control)
        self._daemons.append(daemon)
        if control is None:
            daemon.start()
        else:
            daemon.run()  # until it has taken over, the other one answers

    def _finish(self) -> None:
        self.daemon.finish()
        for old in self._daemons[:-1]:
            old.may_have_ended = True
            old.finish()

    # Long bodies.

    def bulk(self, size: int) -> None:
        """Move bodies of that many bytes."""
        expected = body(size)
        for ca in None, self.ca:
            port = self.ports["bulk" if ca is None else "bulk tls"]
            scheme, words = ("http", "without TLS") if ca is None else ("https", "by TLS")
            url = f"{scheme}://{NAME}:{port}"
            download(f"{url}/{1 << 20}", ca, 1 << 30)
            self._move(f"download {words}", size, expected, partial(download, f"{url}/{size}", ca, SLOW_RATE))
            self._move(f"upload {words}", size, expected, partial(upload, f"{url}/upload", ca, size))

    def _move(self, what: str, size: int, expected: str, move: Callable[[], str]) -> None:
        sampler = Memory(self.daemon.pid)
        began = time.monotonic()
        if move() != expected:
            self.wrong.append(f"{what}: another body has come")
        took, grown = time.monotonic() - began, sampler.stop()
        if grown > MAX_GROWTH:
            self.wrong.append(f"{what}: the daemon has grown by {grown >> 20} MiB")
        print(f"{what}: {size >> 20} MiB in {took:.0f} s; the daemon at most {grown / 2**20:.1f} MiB larger")

    # Edits and takeovers.

    def load(self, edits: int, takeovers: int) -> None:
        """Edit and take over while clients ask all the time."""
        chance, began = random.Random(1), time.monotonic()
        load = H2Load(f"http://{LOOPBACK}:{self.ports['web']}/hello")
        streams = [StreamLoad(self.ports["web"]), StreamLoad(self.ports["web tls"], http2_context(str(self.ca)))]
        loads = [load, *streams]
        try:
            for number in range(edits):
                self._edit(chance, number)
                if takeovers and number % EDITS_PER_TAKEOVER == EDITS_PER_TAKEOVER - 1:
                    takeovers -= 1
                    self._go_on(loads)
                    load.changes += 1
                    old = self.daemon
                    self._start("--takeover", old.control, control=old.control)
                    self.daemon.wait_for_log("taken over from", timeout=TIMEOUT)
                    wait_for(lambda old=old: not old.is_alive, "the old daemon to end", timeout=TIMEOUT)
                    load.changes += 1
                time.sleep(0.02)
            self._go_on(loads)
        finally:
            for one in loads:
                one.stop()
        self.wrong += [problem for one in loads for problem in one.problems]
        print(
            f"{edits} edits, {len(self._daemons) - 1} takeovers in {time.monotonic() - began:.0f} s: "
            f"{load.requests:,} requests of h2load, {sum(one.requests for one in streams):,} of other clients, "
            f"{sum(one.repeated for one in streams)} sent again; {sum(len(one.problems) for one in loads)} failed"
        )

    def _edit(self, chance: random.Random, number: int) -> None:
        call, address = self.daemon.call, self._web.address
        edits = (
            lambda: call("edit_server", "web", address, chance.randint(1, 9)),
            lambda: call("edit_service", "web", via=chance.choice(("off", "append"))),
            lambda: call("set", {"pool_size": chance.choice((0, 4, 64))}),
            lambda: call("add_rule", "web", f"^/{number}$", address),
            lambda: call("delete_rule", "web", f"^/{number - 1}$", address),
        )
        edits[number % len(edits)]()

    def _go_on(self, loads: list[H2Load | StreamLoad]) -> None:
        seen = [one.requests for one in loads]
        wait_for(
            lambda: all(one.requests > before or one.problems for one, before in zip(loads, seen, strict=True)),
            "the load to go on",
            timeout=TIMEOUT,
        )

    # Attacks.

    def attack(self, seconds: float) -> None:
        """Each kind of attack for so long, after as much time without any."""
        clients = TimedClients(self.ports["web"])
        self._attacked("no attack", None, seconds, clients)
        for kind in HTTP2_KINDS:
            self._attacked(kind.__name__.replace("_", " "), kind, seconds, clients)
        clients.stop()

    def _attacked(self, name: str, kind: Kind | None, seconds: float, clients: TimedClients) -> None:
        sampler, sent = Memory(self.daemon.pid), Counter[str]()
        if kind is None:
            time.sleep(seconds)
        else:
            sent = asyncio.run(attack(kind, [self.ports["web"]], [self.ports["web tls"]], seconds))
        times, grown = clients.lap(), sampler.stop()
        self.wrong += [f"{name}: {line}" for line in times.wrong]
        if grown > MAX_GROWTH:
            self.wrong.append(f"{name}: the daemon has grown by {grown >> 20} MiB")
        if not times.took or max(times.took) > MAX_LATENCY:
            self.wrong.append(f"{name}: a request took {max(times.took, default=0):.1f} s")
            return
        found = sorted(times.took)
        print(
            f"{name}: {sent['connections']} connections; {len(found)} good requests, median "
            f"{statistics.median(found) * 1000:.1f} ms, 99 % within {found[int(len(found) * 0.99)] * 1000:.0f} ms; "
            f"the daemon at most {grown / 2**20:.1f} MiB larger"
        )


class Memory:
    """The largest growth of a process, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._most = memory(pid)
        self._enough = threading.Event()
        self._looking = threading.Thread(target=self._look)
        self._looking.start()

    def _look(self) -> None:
        while not self._enough.wait(0.05):
            self._most = max(self._most, memory(self._pid))

    def stop(self) -> int:
        """Return the growth in bytes."""
        self._enough.set()
        self._looking.join()
        return self._most - self._before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=1024, help="of each long body; 0: none [1024]")
    parser.add_argument("--edits", type=int, default=1000, help="under load; 0: none [1000]")
    parser.add_argument("--takeovers", type=int, default=20, help="at most one for 50 edits [20]")
    parser.add_argument("--seconds", type=float, default=10, help="of each attack; 0: none [10]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ktcpvs-soak-") as folder, contextlib.ExitStack() as stack:
        run = Run(Path(folder), stack)
        if options.mebibytes:
            run.bulk(options.mebibytes << 20)
        if options.edits:
            run.load(options.edits, options.takeovers)
        if options.seconds:
            run.attack(options.seconds)
    return print_outcome(run.wrong)


if __name__ == "__main__":
    sys.exit(main())
