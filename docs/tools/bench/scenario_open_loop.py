"""W: two workers under a load that does not wait: latencies at 70 % of the rate at saturation."""

from __future__ import annotations

import contextlib
from pathlib import Path

from attrs import evolve

from bench import answers, browsers, counters, open_loop, peers, rounds
from bench.configurations import Site
from bench.peers import HTTP, Peer
from bench.results import OURS, Case, Figures, Goal, Scenario, median
from bench.rounds import Measured
from bench.scenario_requests import WANTED, three_rules
from bench.scenario_workers import ENOUGH
from bench.workshop import Workshop, servers

WORKERS = 2
CLIENTS = 256
PART = 0.7
"""Of the smallest rate at saturation."""

GOAL = 1.3

WORK = (
    f"X, and Y with the combined log, with two processes: ktcpvs with `--workers {WORKERS}`, HAProxy with `nbthread "
    f"{WORKERS}`, nginx with as many worker processes. First, {CLIENTS} connections ask as fast as responses come: "
    f"*saturation*. Then all proxies get the same load, {100 * PART:.0f} % of the smallest of these rates. It is an "
    "open loop: every request has its time, at even intervals, whether the responses before it have come or not, and "
    f"its latency counts from then. So a proxy that pauses is charged for each request that would have come meanwhile. "
    f"The {CLIENTS} connections are used in turn, one request at a time on each. The load is `docs/tools/bench/"
    "open_loop.c`; its own delay, the time for which it got no core when a request was due, is part of the latency."
)

SHARED = (
    "This machine has {} cores, too few for two workers beside the load and the servers, so all of them share these "
    "cores. Saturation is therefore that of the whole machine: the rates of the proxies differ less than the proxies "
    "do, and none of them is what two cores of its own would carry. A latency has in it the time that a request waits "
    "until the load, a worker and a server get a core from each other, and at this rate the machine is still busy for "
    f"{100 * PART:.0f} % of the time or more. Such waits are of a few milliseconds and decide about the 99th "
    "percentile; the load's own delay shows how long they are for a program that does almost nothing."
)


def on_enough_cores(shop: Workshop) -> Workshop | None:
    """The workshop with two cores for the proxy and two or more for all else; None on a machine that has fewer."""
    cores = sorted(shop.proxy | shop.load)
    if len(cores) < ENOUGH:
        return None
    return evolve(shop, proxy=set(cores[-WORKERS:]), load=set(cores[:-WORKERS]))


def run(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "W",
        "Latency under a load that does not wait",
        WORK,
        ["p99", "p50", "late", "rate", "saturation", "cpu"],
    )
    cores = shop.proxy | shop.load
    place = on_enough_cores(shop)
    if place is None:
        place = evolve(shop, proxy=cores, load=cores)
        scenario.notes.append(SHARED.format(len(cores)))
    load = open_loop.build(shop.folder)
    requests = Path(browsers.write_script(shop.folder, "w", browsers.make_requests())).with_suffix(".requests")
    log_file = str(shop.folder / "w-access.log")
    with servers(place, workers=2) as behind:
        plain = evolve(three_rules(behind), threads=WORKERS)
        logged = evolve(plain, forwards=True, log="combined", log_file=log_file)
        for label, site in (("X", plain), ("Y, combined", logged)):
            case = Case(label, measure(place, label, site, load, requests))
            scenario.cases.append(case)
            scenario.goals += goals(case)
    return scenario


def goals(case: Case) -> list[Goal]:
    """The goal that our 99th percentile is at most so many times HAProxy's."""
    if HTTP not in case.figures:
        return []
    found = median(case.figures, OURS, "p99") / median(case.figures, HTTP, "p99")
    return [Goal(f"{case.label}: 99th percentile, {OURS} / {HTTP}", found, GOAL, at_most=True)]


def measure(shop: Workshop, label: str, site: Site, load: Path, requests: Path) -> Figures:
    """Find the rate at which each proxy is saturated, then offer the same part of the smallest to all of them."""
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy, workers=WORKERS)
    with contextlib.ExitStack() as stack:
        found = peers.start_all(stack, starts, site)
        for peer in found:
            answers.check(peer.name, peer.port, WANTED)

        def saturate(peer: Peer) -> Measured:
            report = open_loop.run(load, peer.port, requests, shop.load, clients=CLIENTS, rate=0, seconds=shop.seconds)
            return {"saturation": report.requests / report.seconds}

        figures = rounds.alternate(shop, f"W, {label}, saturation", found, saturate)
        rate = PART * min(median(figures, peer.name, "saturation") for peer in found)

        def offer(peer: Peer) -> Measured:
            before = counters.spent(peer.running.pid, shop.proxy)
            report = open_loop.run(
                load, peer.port, requests, shop.load, clients=CLIENTS, rate=rate, seconds=shop.seconds
            )
            spent = counters.spent(peer.running.pid, shop.proxy).since(before)
            return {
                "p99": report.slowest * 1e3,
                "p50": report.median * 1e3,
                "late": report.late * 1e3,
                "rate": report.requests / report.seconds,
                "cpu": spent.program / report.requests * 1e6,
            }

        for name, measured in rounds.alternate(shop, f"W, {label}, {rate:,.0f} requests/s", found, offer).items():
            figures[name].update(measured)
    return figures
