"""A, B, C and E: small answers, one request after another."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from bench import answers, browsers, peers, rounds
from bench.configurations import Rule, Site, answer
from bench.peers import FORWARDER, HTTP, NGINX, TCP, Start
from bench.results import Case, Scenario
from bench.workshop import Servers, Workshop, servers

METRICS = ["cpu", "core", "rate", "p99"]

PATH = "/customers/42/index.html"
"""The requested path: the second rule decides."""

WANTED: dict[str, tuple[str, ...]] = {"/images/cat.jpg": (answer(0),), PATH: (answer(1),), "/": (answer(2),)}
ANYBODY = {PATH: tuple(answer(number) for number in range(3))}

RULES = (Rule("/images/", 0), Rule("/customers/", 1))


def three_rules(behind: Servers, clients: int = 1000) -> Site:
    """Three rules, the last one the default; each has its own real server."""
    return Site(0, behind.addresses, RULES, default=2, clients=clients)


def no_rules(behind: Servers) -> Site:
    return Site(0, behind.addresses)


def compare(
    shop: Workshop,
    scenario: Scenario,
    site: Site,
    starts: list[Start],
    *,
    close: bool = False,
    rules: bool = True,
    label: str = "",
    script: str | Mapping[str, str] = "",
) -> None:
    """Start everybody, look at their answers, and measure them. rules: False when any server may answer. label: of the
    case. script: of wrk's, instead of always the same request."""
    with contextlib.ExitStack() as stack:
        found = peers.start_all(stack, starts, site)
        for peer in found:
            by_request = rules and scenario.letter != "B"
            wanted = WANTED if rules and peer.name not in (TCP, FORWARDER) else ANYBODY
            answers.check(peer.name, peer.port, wanted, one_server=not by_request)
        what = f"{scenario.letter}, {label}" if label else scenario.letter
        figures = rounds.requests(shop, what, found, PATH, close=close, script=script)
        scenario.cases.append(Case(label, figures))


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
        starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
        compare(shop, scenario, three_rules(behind), starts)
    scenario.goals = scenario.cases[0].goals("cpu", {HTTP: 1.0, NGINX: 0.85})
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
        starts = peers.everybody(shop, "http", peers.haproxy_tcp, peers.forwarder)
        compare(shop, scenario, three_rules(behind), starts)
    scenario.goals = scenario.cases[0].goals("cpu", {TCP: 1.0})
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
        starts = peers.everybody(shop, "wlc", peers.haproxy_tcp, peers.forwarder)
        compare(shop, scenario, no_rules(behind), starts, rules=False)
    scenario.goals = scenario.cases[0].goals("cpu", {TCP: 1.0})
    return scenario


def run_e(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "E",
        "A new connection for every request",
        "As A, but each client connection carries one request (`Connection: close`) and the next one is made anew. "
        "Connections to the servers are kept. *Identical*: A's request. *Browsers*: other ones each time, as in X.",
        METRICS,
    )
    with servers(shop) as behind:
        starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
        script = browsers.write_script(shop.folder, "e", browsers.make_requests(close=True))
        for label, requests in (("identical", ""), ("browsers", script)):
            compare(shop, scenario, three_rules(behind), starts, close=True, label=label, script=requests)
    for case in scenario.cases:
        scenario.goals += case.goals("cpu", {HTTP: 1.0, NGINX: 0.6})
    return scenario
