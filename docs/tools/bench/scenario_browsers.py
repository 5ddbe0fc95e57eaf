"""X, Y and Z: requests as browsers send them. U and V: a new connection for each of them."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable

from attrs import evolve

from bench import answers, browsers, configurations, peers, rounds
from bench.configurations import EDITS, LOOPBACK, SESSION, SHOW_FIELDS, HostRule, Site
from bench.failure import Failure
from bench.peers import HTTP, INSPECT, NGINX, TCP, Kind, Peer, Start
from bench.results import Case, Scenario
from bench.scenario_requests import ANYBODY, METRICS, PATH, WANTED, no_rules, three_rules
from bench.workshop import Servers, Workshop, servers

REQUESTS = (
    "requests of 500 to 900 bytes as browsers send them, with other paths, referers, cookies and user agents from "
    f"{browsers.CLIENTS:,} clients: {browsers.REQUESTS:,} different ones, the same bytes for every proxy"
)


def measure(
    shop: Workshop,
    what: str,
    site: Site,
    starts: list[Start],
    script: str,
    wanted: dict[str, tuple[str, ...]],
    *,
    close: bool = False,
) -> Case:
    """Start everybody, look at their answers, and measure them with a script's requests.

    what: the scenario's letter, and behind a comma the label of the case. wanted: path -> bodies that are right.
    """
    with contextlib.ExitStack() as stack:
        found = peers.start_all(stack, starts, site)
        for peer in found:
            answers.check(peer.name, peer.port, wanted, one_server=wanted is ANYBODY)
        figures = rounds.requests(shop, what, found, PATH, script=script, close=close)
    return Case(what.partition(", ")[2], figures)


HOSTS = (HostRule("static.example.com", 0, "static"), HostRule(browsers.HOST, 1, "main"))
"""The second one is that of the requests."""


def check_edits(peer: Peer) -> None:
    """Raises Failure unless a peer chooses the server by the host, and edits requests and responses."""
    ids = set()
    for rule in HOSTS * 2:
        with contextlib.closing(http.client.HTTPConnection(LOOPBACK, peer.port, timeout=10)) as connection:
            connection.request("GET", PATH, headers={"Host": rule.host})
            body = connection.getresponse().read().decode()
            connection.request("GET", SHOW_FIELDS, headers={"Host": rule.host, "User-Agent": "bench"})
            response = connection.getresponse()
            shown = response.read().decode().split()
        if body != configurations.answer(rule.server) or len(shown) != 4 or len(shown[0].replace("-", "")) != 32:
            raise Failure(f"{peer.name}: {rule.host} gets {body!r}, and its server the fields {shown}")
        if shown[1:] != [LOOPBACK, rule.site, LOOPBACK]:
            raise Failure(f"{peer.name}: the server gets the fields {shown[1:]}")
        ids.add(shown[0])
        for name, value in EDITS["response"].items():
            if response.headers.get_all(name) != [value]:
                raise Failure(f"{peer.name}: the response has {name}: {response.headers.get_all(name)}")
        if peer.name != NGINX and response.getheader("Server") is not None:
            raise Failure(f"{peer.name}: the response has Server")
    if len(ids) != 2 * len(HOSTS):
        raise Failure(f"{peer.name}: requests share an ID")


def run_x(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "X",
        "Requests as browsers send them",
        f"As A, with {REQUESTS}. *Edits*: two rules by host in place of those by path; servers get a random request "
        "ID, the client's address in X-Real-IP and X-Forwarded-For, and a field that differs by host; responses get "
        "Strict-Transport-Security and X-Frame-Options, and lose Server; each request is logged in the combined "
        "format.",
        METRICS,
    )
    script = browsers.write_script(shop.folder, "x", browsers.make_requests())
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    with servers(shop) as behind:
        case = measure(shop, "X", three_rules(behind), starts, script, WANTED)
        scenario.goals = case.goals("cpu", {HTTP: 0.8, NGINX: 0.7})
        log_file = str(shop.folder / "access-edits.log")
        edits = evolve(no_rules(behind), hosts=HOSTS, default=2, forwards=True, log="combined", log_file=log_file)
        with contextlib.ExitStack() as stack:
            found = peers.start_all(stack, starts, edits)
            for peer in found:
                check_edits(peer)
            edited = Case("edits", rounds.requests(shop, "X, edits", found, PATH, script=script))
    scenario.cases = [case, edited]
    scenario.goals += edited.goals("cpu", {HTTP: 0.7})
    return scenario


def run_y(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "Y",
        "The same, with X-Forwarded-For and an access log",
        "As X; servers are told the client's address, and each request is logged: in the combined format, and as JSON. "
        "HAProxy writes the same lines to a file, one at a time, nginx in batches of 64 KiB, as the switch does.",
        METRICS,
    )
    script = browsers.write_script(shop.folder, "y", browsers.make_requests())
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    with servers(shop) as behind:
        for form in ("combined", "json"):
            log_file = str(shop.folder / f"access-{form}.log")
            site = evolve(three_rules(behind), forwards=True, log=form, log_file=log_file)
            case = measure(shop, f"Y, {form}", site, starts, script, WANTED)
            scenario.cases.append(case)
            scenario.goals += case.goals("cpu", {HTTP: 0.8, NGINX: 0.7})
    return scenario


def sessions_of(peer: Peer, count: int = 60) -> list[str]:
    """Session cookies that the proxy has given, as they stand in Cookie. Raises Failure when it gives none."""
    found: dict[str, None] = {}
    for _ in range(count):
        with contextlib.closing(http.client.HTTPConnection(LOOPBACK, peer.port, timeout=10)) as connection:
            connection.request("GET", PATH)
            answer = connection.getresponse()
            answer.read()
            cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
            if cookie.startswith(SESSION):
                found[cookie] = None
    if not found:
        raise Failure(f"{peer.name} begins no session")
    return list(found)


def run_z(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "Z",
        "Sessions kept by a cookie",
        "As X, with three real servers for every request and a cookie that keeps a client at its own: ktcpvs with "
        "`chttp`, HAProxy with `cookie insert indirect`. *Sessions*: each request has the valid cookie of one of the "
        "servers. *New sessions*: none has, so every response sets one.",
        METRICS,
    )
    plain = browsers.write_script(shop.folder, "z", browsers.make_requests())
    starts = peers.everybody(shop, "chttp", peers.haproxy_http)
    with servers(shop) as behind, contextlib.ExitStack() as stack:
        found = peers.start_all(stack, starts, evolve(no_rules(behind), sessions=True))
        scripts = {
            peer.name: browsers.write_script(
                shop.folder, f"z-{peer.port}", browsers.make_requests(sessions=sessions_of(peer))
            )
            for peer in found
        }
        for label, chosen in (("sessions", scripts), ("new sessions", dict.fromkeys(scripts, plain))):
            figures = rounds.requests(shop, f"Z, {label}", found, PATH, script=chosen)
            case = Case(label, figures)
            scenario.cases.append(case)
            scenario.goals += case.goals("cpu", {HTTP: 0.8})
    return scenario


def run_u(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "U",
        "A new connection for every request, relayed",
        "As X, but each connection carries one request (`Connection: close`) and is relayed to the server with the "
        "fewest connections; nothing is read: ktcpvs with `wlc`, HAProxy in mode tcp with `leastconn`.",
        METRICS,
    )
    return new_connections(shop, scenario, "wlc", no_rules, peers.haproxy_tcp, {TCP: 0.8})


def run_v(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "V",
        "A new connection for every request, relayed by what it says",
        "As U, but the path of the request chooses by three rules: ktcpvs with `http`, HAProxy in mode tcp with "
        "`tcp-request content`, which waits for the request and chooses by `path_beg`.",
        METRICS,
    )
    return new_connections(shop, scenario, "http", three_rules, peers.haproxy_inspect, {INSPECT: 0.8})


def new_connections(
    shop: Workshop,
    scenario: Scenario,
    scheduler: str,
    site: Callable[[Servers], Site],
    kind: Kind,
    wanted: dict[str, float],
) -> Scenario:
    """U and V: measure the scheduler beside this kind of peer. wanted: peer -> the ratio that is the goal."""
    script = browsers.write_script(shop.folder, scenario.letter.lower(), browsers.make_requests(close=True))
    starts = peers.everybody(shop, scheduler, kind)
    right = ANYBODY if scheduler == "wlc" else {PATH: WANTED[PATH]}
    with servers(shop) as behind, contextlib.ExitStack() as stack:
        found = peers.start_all(stack, starts, site(behind))
        for peer in found:
            answers.check(peer.name, peer.port, right, one_server=True)
        case = Case("", rounds.requests(shop, scenario.letter, found, PATH, script=script))
    scenario.cases = [case]
    scenario.goals = case.goals("cpu", wanted)
    return scenario
