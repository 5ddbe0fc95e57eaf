"""I: two workers on two cores."""

from __future__ import annotations

from bench import answers, peers
from bench.configurations import Site
from bench.counters import cpu_of_each
from bench.load import wrk
from bench.processes import free_port
from bench.results import METRICS, Case, Goal, Scenario, median
from bench.rounds import Measured
from bench.scenario_requests import PATH, WANTED, three_rules
from bench.workshop import Workshop, servers

ONE, TWO = "one worker", "two workers"
GOAL = 1.7
ENOUGH = 4
"""Cores with which load and servers have two of their own."""

WORK = (
    "As A, in processes of their own: one worker, then two workers, each of which can have a core. What counts is how "
    "many requests they answer."
)

SHARED = (
    "This machine has {} cores, too few for two workers and a load that can keep both busy. So everything runs on all "
    "of them, and what is compared is how many requests all processes together answered for each second of CPU time "
    "that the busiest one used: so many a second there would be if that one had a core to itself."
)


def run(shop: Workshop) -> Scenario:
    scenario = Scenario("I", "Two workers on two cores", WORK, ["rate", "capacity", "p99"])
    if not peers.has_workers():
        scenario.skipped = "ktcpvs does not have the option `--workers` yet."
        shop.say(f"I: skipped: {scenario.skipped}")
        return scenario
    cores = sorted(shop.proxy | shop.load)
    if len(cores) >= ENOUGH:
        places = {ONE: ({cores[-1]}, set(cores[:-2])), TWO: (set(cores[-2:]), set(cores[:-2]))}
    else:
        places = dict.fromkeys((ONE, TWO), (set(cores), set(cores)))
        scenario.notes.append(SHARED.format(len(cores)))
        scenario.metrics = ["capacity", "rate", "p99"]
    case = Case("", {})
    for number in range(1, shop.rounds + 1):
        for name, (proxy, load) in places.items():
            measured = measure(shop, proxy, load, 1 if name == ONE else 2)
            for key, value in measured.items():
                case.figures.setdefault(name, {}).setdefault(key, []).append(value)
            told = f"{measured['rate']:,.0f} requests/s, {measured['capacity']:,.0f} for a second of CPU"
            shop.say(f"I: round {number} of {shop.rounds}, {name}: {told}")
    scenario.cases = [case]
    key = scenario.metrics[0]
    found = median(case.figures, TWO, key) / median(case.figures, ONE, key)
    scenario.goals = [Goal(f"{METRICS[key].title}, {TWO} / {ONE}", found, GOAL)]
    return scenario


def measure(shop: Workshop, proxy: set[int], load: set[int], workers: int) -> Measured:
    """One round of the switch with so many workers."""
    with servers(shop, cores=load, workers=2) as behind:
        rule_site = three_rules(behind)
        site = Site(free_port(), rule_site.servers, rule_site.rules, rule_site.default)
        with peers.ktcpvs(shop, site, "phttp", proxy, workers) as peer:
            answers.check(peer.name, peer.port, WANTED)
            if not shop.quick:
                wrk(peer.port, PATH, 1, load, threads=2)
            before = cpu_of_each(peer.running.pid)
            report = wrk(peer.port, PATH, shop.seconds, load, threads=2)
            after = cpu_of_each(peer.running.pid)
            peer.running.check()
    busiest = max(seconds - before.get(process, 0.0) for process, seconds in after.items())
    return {
        "rate": report.requests / report.seconds,
        "capacity": report.requests / busiest,
        "p99": report.slowest * 1e3,
    }
