"""L: requests over TLS. M: a new TLS connection for each request. N: large answers over TLS."""

from __future__ import annotations

import contextlib
from pathlib import Path

from attrs import evolve

from bench import answers, browsers, certificate, counters, handshakes, peers, rounds
from bench.configurations import CLIENTS
from bench.handshakes import FULL, RESUMED
from bench.peers import HTTP, Peer
from bench.results import Case, Scenario
from bench.rounds import Measured
from bench.scenario_browsers import REQUESTS
from bench.scenario_requests import METRICS, PATH, WANTED, three_rules
from bench.scenario_transfer import METRICS as TRANSFER_METRICS
from bench.scenario_transfer import transfer
from bench.workshop import Workshop, servers

EQUAL = (
    "TLS 1.3 ends at the proxy, with a certificate of ECDSA P-256; servers are asked without TLS. Each proxy has the "
    "defaults of its own for the rest."
)

WANTED_REQUESTS, WANTED_HANDSHAKES, WANTED_BULK = 0.75, 0.85, 0.85
"""Of HAProxy's cost to ours."""


def run_l(shop: Workshop) -> Scenario:
    scenario = Scenario("L", "Requests over TLS", f"As X, on kept connections, with {REQUESTS}. {EQUAL}", METRICS)
    script = browsers.write_script(shop.folder, "l", browsers.make_requests())
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    with servers(shop) as behind, contextlib.ExitStack() as stack:
        site = evolve(three_rules(behind), certificate=str(certificate.make(shop)))
        found = peers.start_all(stack, starts, site)
        for peer in found:
            answers.check(peer.name, peer.port, WANTED, is_tls=True)
        scenario.cases = [Case("", rounds.requests(shop, "L", found, PATH, script=script))]
    scenario.goals = scenario.cases[0].goals("cpu", {HTTP: WANTED_REQUESTS})
    return scenario


def run_m(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "M",
        "A new TLS connection for every request",
        f"As L, but each connection carries one request (`Connection: close`). *Full*: no session is offered, so the "
        "proxy signs each time. *Resumed*: each connection offers the session of an earlier one, by its ticket. The "
        f"load is `docs/tools/bench/handshakes.c` with {CLIENTS} connections at a time, X25519 and AES-128-GCM; it "
        f"fails when handshakes are of the other kind. {EQUAL}",
        METRICS,
    )
    load = handshakes.build(shop.folder)
    script = browsers.write_script(shop.folder, "m", browsers.make_requests(close=True))
    requests = Path(script).with_suffix(".requests")
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    with servers(shop) as behind, contextlib.ExitStack() as stack:
        site = evolve(three_rules(behind), certificate=str(certificate.make(shop)))
        found = peers.start_all(stack, starts, site)
        for peer in found:
            answers.check(peer.name, peer.port, {PATH: WANTED[PATH]}, is_tls=True)
        for kind in (FULL, RESUMED):

            def one(peer: Peer, kind: str = kind, seconds: float = shop.seconds) -> Measured:
                before = counters.spent(peer.running.pid, shop.proxy)
                report = handshakes.run(load, peer.port, requests, shop.load, kind, clients=CLIENTS, seconds=seconds)
                spent = counters.spent(peer.running.pid, shop.proxy).since(before)
                return {
                    "cpu": spent.program / report.requests * 1e6,
                    "core": spent.cores / report.requests * 1e6,
                    "rate": report.requests / report.seconds,
                    "p99": report.slowest * 1e3,
                }

            if not shop.quick:
                for peer in found:
                    one(peer, seconds=1)
            case = Case(kind, rounds.alternate(shop, f"M, {kind}", found, one))
            scenario.cases.append(case)
            scenario.goals += case.goals("cpu", {HTTP: WANTED_HANDSHAKES})
    return scenario


def run_n(shop: Workshop) -> Scenario:
    scenario = Scenario("N", "Large answers over TLS", f"As F, by TLS. {EQUAL}", TRANSFER_METRICS)
    transfer(shop, scenario, (WANTED_BULK, WANTED_BULK), str(certificate.make(shop)))
    return scenario
