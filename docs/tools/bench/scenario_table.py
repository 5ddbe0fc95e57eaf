"""J: a large table, loaded and changed while requests go on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve

from bench import answers, configurations, peers
from bench.configurations import Site, answer
from bench.failure import Failure
from bench.load import command
from bench.load import read as read_wrk
from bench.peers import BIN, HERE, OURS, Peer
from bench.processes import Running, free_port, output_of, running
from bench.results import Case, Goal, Scenario, median
from bench.scenario_rules import many_rules, paths
from bench.workshop import Workshop, servers

RULES = 10000
LOAD_GOAL = 1.0
SLOWEST_GOAL = 20.0
"""Milliseconds."""

CLIENTS = 16
LOOK, EDIT = "without an edit", "a rule is added"
LEAD = 0.3
"""Seconds that the load runs before a window begins."""

POLITE = 19
"""The niceness of tcpvsadm, so that on the core of load and servers its own start delays them least."""


class Prober:
    """The program that notes the slowest request, next to the load."""

    def __init__(self, started: Running) -> None:
        self._running = started

    def mark(self) -> float:
        """Milliseconds of the slowest request since the last mark. Raises Failure when an answer was wrong."""
        process = self._running.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"mark\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = b""
        if not line:
            process.wait(10)
            raise Failure(f"the prober has ended: {self._running.said()}")
        return float(line.split()[1]) * 1e3


@contextlib.contextmanager
def probing(shop: Workshop, peer: Peer, path: str) -> Iterator[Prober]:
    """A prober for as long as the block lasts."""
    ask = [sys.executable, str(HERE / "prober.py"), str(peer.port), path, answer(1)]
    log = shop.folder / "prober.log"
    with log.open("wb") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        with running(ask, shop.load, log, nice=-10, **pipes) as started:
            try:
                yield Prober(started)
            finally:
                for pipe in (started.process.stdin, started.process.stdout):
                    assert pipe is not None
                    pipe.close()


def adm(shop: Workshop, peer: Peer, *arguments: str) -> float:
    """Seconds that a tcpvsadm command took. Raises Failure when it was refused."""
    began = time.perf_counter()
    output_of([str(BIN / "tcpvsadm"), "--control", peer.control, *arguments], shop.load, nice=POLITE)
    return time.perf_counter() - began


def load_times(shop: Workshop, peer: Peer, small: Path, large: Path) -> list[float]:
    """Seconds of each load of the large file into the running service, which has the small one's rules before."""
    found = []
    for number in range(1, shop.rounds + 1):
        adm(shop, peer, "-f", str(small))
        found.append(adm(shop, peer, "-f", str(large)))
        answers.check(OURS, peer.port, paths(RULES))
        shop.say(f"J: {RULES:,} rules loaded, round {number} of {shop.rounds}: {found[-1]:.3f} s")
    return found


def window(shop: Workshop, peer: Peer, prober: Prober, path: str, words: list[str]) -> float:
    """Milliseconds of the slowest request while wrk asks and tcpvsadm runs with these words. Raises Failure when
    anybody got a wrong answer."""
    load = command(peer.port, path, shop.seconds + 1, clients=CLIENTS, close=False)
    with running(load, shop.load, shop.folder / "wrk.log") as pressing:
        time.sleep(LEAD)
        prober.mark()
        end = time.monotonic() + shop.seconds
        adm(shop, peer, *words)
        time.sleep(max(0.0, end - time.monotonic()))
        found = prober.mark()
        pressing.process.wait(30)
        read_wrk(pressing.said())
    return found


def slowest(shop: Workshop, peer: Peer, server: str) -> dict[str, list[float]]:
    """Milliseconds of the slowest request in windows of the same length, without an edit and with one."""
    path = f"/customers/{RULES // 2}/index.html"
    found: dict[str, list[float]] = {LOOK: [], EDIT: []}
    with probing(shop, peer, path) as prober:
        for number in range(1, shop.rounds + 1):
            edit = ["--add-rule", "-i", "web", "-p", f"^/added/{number}/[a-z]+$", "-r", server]
            for name, words in ((LOOK, ["--get", "pool_size"]), (EDIT, edit)):
                found[name].append(window(shop, peer, prober, path, words))
                shop.say(f"J: slowest request, {name}, round {number} of {shop.rounds}: {found[name][-1]:.2f} ms")
            answers.check(OURS, peer.port, {f"/added/{number}/x": (answer(1),), path: (answer(1),)})
    return found


def run(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "J",
        "The table",
        f"A running service gets {RULES:,} rules in the place of two from a file by tcpvsadm: the time of that "
        f"command. Then, while {CLIENTS} clients ask as fast as they can, tcpvsadm adds a rule to the "
        f"{RULES:,}: the slowest request of another client, in a window with the edit and in one of the same length in "
        "which tcpvsadm only looks.",
        ["load", "slowest"],
    )
    with servers(shop) as behind:
        rules = many_rules(RULES)
        small = Site(free_port(), behind.addresses, rules[:2], default=2)
        large = evolve(small, rules=rules)
        files = {
            name: shop.write(f"table-{name}.conf", configurations.ktcpvs(site, "phttp"))
            for name, site in (("small", small), ("large", large))
        }
        with peers.ktcpvs(shop, small, "phttp") as peer:
            loads = load_times(shop, peer, files["small"], files["large"])
            slow = slowest(shop, peer, behind.addresses[1])
    loading = Case(f"{RULES:,} rules loaded", {OURS: {"load": loads}})
    editing = Case(
        "one rule added under load", {f"{OURS}, {name}": {"slowest": values} for name, values in slow.items()}
    )
    scenario.cases = [loading, editing]
    worst = max(slow[EDIT])
    scenario.goals = [
        Goal(f"{loading.label}", median(loading.figures, OURS, "load"), LOAD_GOAL, at_most=True, unit="s"),
        Goal("slowest request while a rule is added, of all rounds", worst, SLOWEST_GOAL, at_most=True, unit="ms"),
    ]
    return scenario
