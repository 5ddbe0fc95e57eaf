"""P: TLS passed through to a server that is chosen by its name."""

from __future__ import annotations

import contextlib

from bench import answers, certificate, peers, relay_goals, rounds, scenario_relays
from bench.configurations import NAME
from bench.peers import TCP, Peer
from bench.relay_goals import ALONE
from bench.results import Case, Goal, Scenario, median, ratio
from bench.scenario_relays import PATHS, PINNED, UNPINNED, ensure_relay, place_of
from bench.scenario_requests import ANYBODY, PATH, no_rules
from bench.scenario_transfer import SMALL, check, make_file
from bench.workshop import Workshop, servers

WORK = (
    "64 clients keep their connections of TLS 1.3, each relayed untouched to the server whose rule has the name in its "
    "ClientHello: ktcpvs with `sni`, HAProxy in mode tcp with `req.ssl_sni` and `option splice-auto`. Small requests, "
    f"and files of 64 KiB. TLS is between the load (server name `{NAME}`) and the servers, and is most of their work; "
    "so all cores are looked at, less what the load takes without a proxy between, as in K. *Pinned* and *unpinned* as "
    "in K."
)

METRICS = scenario_relays.METRICS

LABELS = {0: "small", SMALL: "64 KiB"}


def goals_of(case: Case) -> tuple[list[Goal], list[str]]:
    """The goals of a case, and notes on what could not be compared."""
    figures, label, goals = case.figures, case.label, []
    kernel = relay_goals.KERNEL
    if kernel not in figures:
        return [], []
    beyond = "beyond" if "beyond" in figures[kernel] else "beyond_gb"
    if label == f"small, {PINNED}":
        found = median(figures, kernel, "own")
        goals.append(Goal(f"{label}: CPU of {kernel} per request", found, relay_goals.PROCESS, at_most=True, unit="us"))
    if TCP not in figures:
        return goals, []
    if median(figures, kernel, beyond) <= 0:
        why = f"{label}: with {kernel} the cores were no busier than with the load alone, so there is no ratio."
        return goals, [why]
    text = f"{label}: all cores beyond the load, {TCP} / {kernel}"
    return [*goals, Goal(text, ratio(figures, TCP, kernel, beyond), relay_goals.ALIKE)], []


def run(shop: Workshop) -> Scenario:
    scenario = Scenario("P", "TLS passed through by server name", WORK, METRICS)
    ways, why = scenario_relays.relays()
    if why:
        scenario.notes.append(f"`relay = kernel` was not measured, and has no goals: {why}.")
    count = 1 if shop.quick else shop.rounds
    for place in (PINNED,) if shop.quick else (PINNED, UNPINNED):
        scenario.cases += measure(shop, place, ways, count)
    for case in scenario.cases:
        goals, notes = goals_of(case)
        scenario.goals += goals
        scenario.notes += notes
    scenario.how = f"{count} {'round' if count == 1 else 'rounds'} of {shop.seconds} s"
    return scenario


def measure(shop: Workshop, place: str, ways: list[str], count: int) -> list[Case]:
    """A case for each size. place: who runs on which cores. ways: the relays. count: of the rounds."""
    there = place_of(shop, place)
    with servers(there, certificate=str(certificate.make(shop))) as behind, contextlib.ExitStack() as stack:
        starts = [peers.ours(there, "sni", way) for way in ways]
        starts += [] if shop.only_ours else peers.whose(there, peers.haproxy_sni)
        found = peers.start_all(stack, starts, no_rules(behind), is_passed=True)
        digest = make_file(behind, PATHS[SMALL].rpartition("/")[2], SMALL)
        for peer in found:
            answers.check(peer.name, peer.port, ANYBODY, one_server=True, is_tls=True)
            check(peer, PATHS[SMALL], digest)
            if peer.control:
                ensure_relay(peer, there)
        port = int(behind.addresses[0].rpartition(":")[2])
        everybody = [Peer(ALONE, port, behind.running, is_tls=True), *found]
        rounds.warm_up(there, everybody, PATH)
        cases = []
        for size, name in LABELS.items():
            label = f"{name}, {place}"
            one = scenario_relays.measure(there, size)
            cases.append(Case(label, rounds.alternate(there, f"P, {label}", everybody, one, count)))
        return cases
