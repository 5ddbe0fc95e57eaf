"""G: many real servers."""

from __future__ import annotations

import contextlib

from bench import answers, peers, rounds
from bench.configurations import Site, answer
from bench.peers import OURS
from bench.results import Case, Goal, Scenario, median
from bench.workshop import Workshop, many_addresses

COUNTS = (10, 1000, 10000)
WANTED = 1.3


def run(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "G",
        "Many real servers",
        "One service with 10, 1,000 and 10,000 real servers, a new connection for every request, so that each request "
        "makes the switch choose: ktcpvs with `wlc`, HAProxy in mode tcp with `leastconn`. The servers are one nginx "
        "that listens on so many addresses.",
        ["cpu", "core", "rate", "p99"],
    )
    starts = peers.everybody(shop, "wlc", peers.haproxy_tcp)
    with many_addresses(shop, max(COUNTS)) as addresses:
        for count in COUNTS[:: 2 if shop.quick else 1]:
            with contextlib.ExitStack() as stack:
                found = peers.start_all(stack, starts, Site(0, addresses[:count]))
                for peer in found:
                    answers.check(peer.name, peer.port, {"/": (answer(0),)})
                figures = rounds.requests(shop, f"G, {count:,} servers", found, "/", close=True)
            scenario.cases.append(Case(f"{count:,} servers", figures))
    few, many = (median(scenario.cases[place].figures, OURS, "cpu") for place in (0, -1))
    scenario.goals = [Goal(f"{OURS}: cost with 10,000 servers / with 10", many / few, WANTED, at_most=True)]
    return scenario
