"""K: connections that are served as a whole, by what carries their bytes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable

from attrs import evolve, frozen

from bench import answers, counters, peers, relay_memory, rounds
from bench.configurations import LOOPBACK
from bench.failure import Failure
from bench.load import wrk
from bench.peers import BIN, HERE, OURS, TCP, Peer
from bench.processes import output_of, program, running
from bench.relay_goals import ALONE, goals_of
from bench.results import Case, Scenario
from bench.rounds import Measured
from bench.scenario_requests import ANYBODY, PATH, WANTED, no_rules, three_rules
from bench.scenario_transfer import AT_ONCE, LARGE, SMALL, check, make_file
from bench.workshop import Servers, Workshop, servers
from ktcpvs.system import bpf

WORK = (
    "Connections whose bytes pass as they come, carried in each of three ways: ktcpvs with `relay = copy`, `splice` "
    "and `kernel`, beside HAProxy in mode tcp with `option splice-auto`. Small requests as in C (`wlc`) and in B "
    "(`http`, three rules), files as in F with `wlc`; there HAProxy runs once more, with `splice-request` and "
    "`splice-response`, because by itself it may decide against splicing. What the kernel does for a connection by "
    "itself belongs to no process and is done wherever the packet arrives; so all cores are looked at. *Beyond the "
    "load's* is their busy time less what the same load takes in the same round when it asks the servers without a "
    "proxy between. *Pinned*: the proxy has a core, load and servers have the others. *Unpinned*: everybody may run "
    "everywhere. *One core*: proxy, load and servers share one. *Contended*: as unpinned, while two programs for each "
    "core compute and do nothing else. The proxy's own CPU is taken from the scheduler's "
    "count in nanoseconds. The last table is the memory of 1,000 connections that have made one request each, as in "
    "H."
)

METRICS = ["beyond", "own", "all", "rate", "p99", "beyond_gb", "own_gb", "all_gb", "speed"]

PINNED, UNPINNED, ONE_CORE, CONTENDED = "pinned", "unpinned", "one core", "contended"

BUSY = [sys.executable, "-c", "while True: pass"]
"""Programs that take the cores from everybody, when they are contended."""

BUSY_FOR_EACH_CORE = 2


@frozen
class Work:
    """One case: the requests, and the cores. scheduler: of the switch. place: who runs on which cores. sizes: of the
    answers, bytes, each a case; 0 for small ones."""

    scheduler: str
    place: str
    sizes: tuple[int, ...] = (0,)

    def label(self, size: int) -> str:
        """The name of a case."""
        return f"{LABELS.get(size, self.scheduler)}, {self.place}"


SIZES = (0, SMALL, LARGE)
LABELS = {SMALL: "64 KiB", LARGE: "100 MiB"}
PATHS = {0: PATH, SMALL: "/files/small", LARGE: "/files/large"}


def works(quick: bool) -> list[Work]:
    """All that is measured."""
    if quick:
        return [Work("wlc", PINNED)]
    found = [work for place in (PINNED, UNPINNED) for work in (Work("wlc", place, SIZES), Work("http", place))]
    return [*found, Work("wlc", ONE_CORE), Work("http", ONE_CORE), Work("wlc", CONTENDED)]


def place_of(shop: Workshop, place: str) -> Workshop:
    """The same workshop with its cores shared out otherwise."""
    every = shop.proxy | shop.load
    shares = {PINNED: (shop.proxy, shop.load), ONE_CORE: (shop.proxy, shop.proxy)}
    proxy, load = shares.get(place, (every, every))
    return evolve(shop, proxy=proxy, load=load)


def relays() -> tuple[list[str], str]:
    """The relays that can be measured here, and why not all of them; an empty text when all can."""
    why = bpf.available()
    return (["copy", "splice"], why) if why else (["copy", "splice", "kernel"], "")


def ensure_relay(peer: Peer, shop: Workshop) -> None:
    """Raises Failure when the switch carries its bytes in another way than the one it is named for."""
    said = json.loads(output_of([str(BIN / "tcpvsadm"), "--control", peer.control, "--stats", "--json"], shop.load))
    used = said["services"][0]["stats"]["relay"]
    if f"{OURS} {used['in_use']}" != peer.name:
        raise Failure(f"{peer.name} relays by {used['in_use']}: {used['why']}")


def ensure_answers(found: list[Peer], work: Work, behind: Servers, shop: Workshop) -> None:
    """Raises Failure for a wrong answer, or a wrong relay."""
    digests = {size: make_file(behind, PATHS[size].rpartition("/")[2], size) for size in work.sizes if size}
    for peer in found:
        ruled = bool(work.scheduler == "http" and peer.control)
        answers.check(peer.name, peer.port, WANTED if ruled else ANYBODY, one_server=ruled)
        for size, digest in digests.items():
            check(peer, PATHS[size], digest)
        if peer.control:
            ensure_relay(peer, shop)


def requests(shop: Workshop, peer: Peer, size: int) -> tuple[int, float, Measured]:
    """The results of wrk: answers, seconds, and what else is to be kept."""
    report = wrk(peer.port, PATHS[size], shop.seconds, shop.load, is_tls=peer.is_tls)
    return report.requests, report.seconds, {} if size else {"p99": report.slowest * 1e3}


def fetches(shop: Workshop, peer: Peer, size: int) -> tuple[int, float, Measured]:
    """The same of large files, fetched until the time of a round is over."""
    words = [str(HERE / "fetcher.py"), str(peer.port), PATHS[size], str(size), str(AT_ONCE)]
    words += ["tls"] if peer.is_tls else []
    count, seconds = 0, 0.0
    while seconds < shop.seconds:
        seconds += float(output_of([sys.executable, *words], shop.load))
        count += AT_ONCE
    return count, seconds, {}


def measure(shop: Workshop, size: int) -> Callable[[Peer], Measured]:
    """Return a function that measures one peer for one round. The load alone comes first in each round; it is
    taken from the others'."""
    every = shop.proxy | shop.load
    ask = fetches if size == LARGE else requests
    ending, unit = ("_gb", 1e3) if size else ("", 1e6)
    alone = 0.0

    def one(peer: Peer) -> Measured:
        nonlocal alone
        before = counters.spent(peer.running.pid, every, exact=True)
        count, seconds, more = ask(shop, peer, size)
        spent = counters.spent(peer.running.pid, every, exact=True).since(before)
        amount = count * size / 1e9 if size else count
        busy = spent.cores / amount * unit
        measured: Measured = {f"all{ending}": busy, **more}
        measured["speed" if size else "rate"] = amount / seconds * (1e3 if size else 1)
        if peer.name == ALONE:
            alone = busy
            return measured
        return {f"beyond{ending}": busy - alone, f"own{ending}": spent.program / amount * unit, **measured}

    return one


def run_work(shop: Workshop, work: Work, ways: list[str], count: int) -> list[Case]:
    """All peers with this work, a case for each size. ways: the relays. count: of the rounds."""
    there = place_of(shop, work.place)
    with servers(there) as behind, contextlib.ExitStack() as stack:
        site = three_rules(behind) if work.scheduler == "http" else no_rules(behind)
        proxies = [peers.haproxy_splice, *([peers.haproxy_always] if any(work.sizes) else [])]
        starts = [peers.ours(there, work.scheduler, way) for way in ways]
        found = peers.start_all(stack, [*starts, *peers.whose(there, *proxies)], site)
        ensure_answers(found, work, behind, there)
        port = int(behind.addresses[0].removeprefix(f"{LOOPBACK}:"))
        everybody = [Peer(ALONE, port, behind.running), *found]
        rounds.warm_up(there, everybody, PATH)
        if work.place == CONTENDED:
            for number in range(BUSY_FOR_EACH_CORE * len(there.proxy)):
                stack.enter_context(running(BUSY, there.proxy, there.folder / f"busy{number}.log"))
        return [
            Case(label, rounds.alternate(there, f"K, {label}", everybody, measure(there, size), count))
            for size in work.sizes
            for label in [work.label(size)]
        ]


def run(shop: Workshop) -> Scenario:
    scenario = Scenario("K", "Relays", WORK, [*METRICS, *relay_memory.METRICS])
    ways, why = relays()
    if why:
        scenario.notes.append(f"`relay = kernel` was not measured, and has no goals: {why}.")
    if "+LINUX_SPLICE" not in output_of([program("haproxy"), "-vv"], shop.load):
        scenario.notes.append(f"This {TCP} was built without splicing.")
    count = 1 if shop.quick else shop.rounds
    for work in works(shop.quick):
        scenario.cases += run_work(shop, work, ways, count)
    if not shop.quick:
        scenario.cases.append(relay_memory.run(shop, [way for way in ways if way != "splice"], count))
    scenario.goals, notes = goals_of(scenario.cases)
    scenario.notes += notes
    scenario.how = f"{count} {'round' if count == 1 else 'rounds'} of {shop.seconds} s"
    return scenario
