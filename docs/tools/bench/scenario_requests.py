"""A, B, C and E: small answers, one request after another."""

from __future__ import annotations

import contextlib

from bench import answers, peers, rounds
from bench.configurations import Rule, Site, answer
from bench.peers import FORWARDER, HTTP, NGINX, OURS, TCP, Start
from bench.results import Case, Scenario
from bench.workshop import Servers, Workshop, servers

METRICS = ["cpu", "core", "rate", "p99"]

PATH = "/customers/42/index.html"
"""What is asked for: the second rule decides."""

WANTED: dict[str, tuple[str, ...]] = {"/images/cat.jpg": (answer(0),), PATH: (answer(1),), "/": (answer(2),)}
ANYBODY = {PATH: tuple(answer(number) for number in range(3))}

RULES = (Rule("/images/", 0), Rule("/customers/", 1))


def three_rules(behind: Servers, clients: int = 1000) -> Site:
    """Three rules, the last one the default; each has its own real server."""
    return Site(0, behind.addresses, RULES, default=2, clients=clients)


def no_rules(behind: Servers) -> Site:
    return Site(0, behind.addresses)


def compare(
    shop: Workshop, scenario: Scenario, site: Site, starts: list[Start], *, close: bool = False, rules: bool = True
) -> None:
    """Start everybody, look at their answers, and measure them. rules: False when any server may answer."""
    with contextlib.ExitStack() as stack:
        found = peers.start_all(stack, starts, site)
        for peer in found:
            by_request = rules and scenario.letter != "B"
            wanted = WANTED if rules and peer.name not in (TCP, FORWARDER) else ANYBODY
            answers.check(peer.name, peer.port, wanted, one_server=not by_request)
        figures = rounds.requests(shop, scenario.letter, found, PATH, close=close)
        scenario.cases.append(Case("", figures))


def run_a(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "A",
        "HTTP, request by request",
        "64 clients keep their connections and ask for 12 bytes again and again. Every request is read and decided by "
        "itself: three rules choose among three real servers, whose connections are kept. ktcpvs with `phttp`; HAProxy "
        "in mode http with `path_beg` rules and `http-reuse always`; nginx with prefix locations and `keepalive`.",
        METRICS,
    )
    with servers(shop) as behind:
        starts = [peers.ours(shop, "phttp"), *peers.whose(shop, peers.haproxy_http, peers.nginx_proxy)]
        compare(shop, scenario, three_rules(behind), starts)
    scenario.goals = [scenario.cases[0].ratio_goal(peer, OURS, "cpu", 1.0) for peer in (HTTP, NGINX)]
    return scenario


def run_b(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "B",
        "HTTP, decided once for a connection",
        "As A, but the first request decides for the whole connection, which is relayed from then on: ktcpvs with "
        "`http` and three rules. HAProxy in mode tcp and Twisted's own port forwarder relay blindly.",
        METRICS,
    )
    with servers(shop) as behind:
        starts = [peers.ours(shop, "http"), *peers.whose(shop, peers.haproxy_tcp, peers.forwarder)]
        compare(shop, scenario, three_rules(behind), starts)
    scenario.goals = [scenario.cases[0].ratio_goal(TCP, OURS, "cpu", 1.0)]
    return scenario


def run_c(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "C",
        "Connections by load",
        "64 clients keep their connections, each relayed to the server with the fewest connections, nothing is read: "
        "ktcpvs with `wlc`, HAProxy in mode tcp with `leastconn`, Twisted's own port forwarder to one server.",
        METRICS,
    )
    with servers(shop) as behind:
        starts = [peers.ours(shop, "wlc"), *peers.whose(shop, peers.haproxy_tcp, peers.forwarder)]
        compare(shop, scenario, no_rules(behind), starts, rules=False)
    scenario.goals = [scenario.cases[0].ratio_goal(TCP, OURS, "cpu", 1.0)]
    return scenario


def run_e(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "E",
        "A new connection for every request",
        "As A, but each client connection carries one request (`Connection: close`) and the next one is made anew. "
        "Connections to the servers are kept.",
        METRICS,
    )
    with servers(shop) as behind:
        starts = [peers.ours(shop, "phttp"), *peers.whose(shop, peers.haproxy_http, peers.nginx_proxy)]
        compare(shop, scenario, three_rules(behind), starts, close=True)
    scenario.goals = [scenario.cases[0].ratio_goal(HTTP, OURS, "cpu", 1.0)]
    return scenario
