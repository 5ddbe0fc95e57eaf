"""D: many rules."""

from __future__ import annotations

import contextlib
import random

from attrs import evolve

from bench import answers, browsers, peers, rounds
from bench.configurations import Rule, Site, answer
from bench.peers import HTTP, NGINX
from bench.results import Case, Scenario
from bench.workshop import Workshop, servers

WANTED = {1000: 3.0, 10000: 15.0}
"""Number of rules -> the peers' cost divided by ours, as wanted."""

HOSTS = {1000: (300, 1.5), 10000: (3000, 5.0)}
"""Number of rules -> the hosts that they are on, and the peers' cost divided by ours, as wanted."""


def many_rules(count: int, server: int = 0) -> tuple[Rule, ...]:
    """Regular expressions, no two of which match alike; the middle one chooses real server 1, the others `server`."""
    middle = count // 2
    return tuple(
        Rule(rf"/customers/{n}/[a-z]+\.(html|css|js)$", 1 if n == middle else server, is_regex=True)
        for n in range(count)
    )


def paths(count: int) -> dict[str, tuple[str, ...]]:
    """The middle rule's path, and others around it -> who must answer."""
    middle = count // 2
    wanted = {f"/customers/{middle}/index.html": (answer(1),)}
    for n in (0, middle - 1, middle + 1, count - 1):
        wanted[f"/customers/{n}/index.html"] = (answer(0),)
    return {**wanted, f"/customers/{count}/index.html": (answer(2),), f"/customers/{middle}/index.txt": (answer(2),)}


def host_of(number: int, hosts: int) -> str:
    """The host of the rule with this number."""
    return f"h{number % hosts}.example"


def rules_of_hosts(count: int, hosts: int) -> tuple[Rule, ...]:
    """The rules of `many_rules`, in turn on these hosts."""
    return tuple(evolve(rule, host=host_of(n, hosts)) for n, rule in enumerate(many_rules(count)))


def requests_to_hosts(count: int, hosts: int) -> list[bytes]:
    """Requests that match one of the rules each, drawn from all of them, with another file name in each."""
    chance = random.Random(browsers.SEED)
    made = []
    for request in browsers.make_requests(path="/customers/@.html"):
        number = chance.randrange(count)
        request = request.replace(b"GET /customers/", b"GET /customers/%d/" % number, 1)
        made.append(request.replace(b"Host: " + browsers.HOST.encode(), b"Host: " + host_of(number, hosts).encode(), 1))
    return made


def check_hosts(found: list[peers.Peer], count: int, hosts: int) -> None:
    """Ask everybody for paths of the middle rule's host, of the last rule's and of none. Raises Failure."""
    middle, last = count // 2, count - 1
    of_middle = {
        f"/customers/{middle}/index.html": (answer(1),),
        f"/customers/{middle}/index.txt": (answer(2),),
        f"/customers/{middle + 1}/index.html": (answer(2),),  # which is on another host
    }
    for peer in found:
        answers.check(peer.name, peer.port, of_middle, host=host_of(middle, hosts))
        wanted = {f"/customers/{last}/index.html": (answer(0),), f"/customers/{middle}/index.html": (answer(2),)}
        answers.check(peer.name, peer.port, wanted, host=host_of(last, hosts))
        answers.check(peer.name, peer.port, {f"/customers/{middle}/index.html": (answer(2),)}, host="x.example")


def run_hosts(shop: Workshop, starts: list[peers.Start]) -> list[tuple[Case, float]]:
    """Measure rules of many hosts. Returns each case with what is wanted of it."""
    cases = []
    for count, (hosts, wanted) in HOSTS.items():
        with servers(shop) as behind, contextlib.ExitStack() as stack:
            site = Site(0, behind.addresses, rules_of_hosts(count, hosts), default=2)
            found = peers.start_all(stack, starts, site)
            check_hosts(found, count, hosts)
            script = browsers.write_script(shop.folder, f"d-{count}-hosts", requests_to_hosts(count, hosts))
            name = f"{count:,} rules on {hosts:,} hosts"
            figures = rounds.requests(shop, f"D, {name}", found, "/", script=script)
            cases.append((Case(name, figures), wanted))
    return cases


def run(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "D",
        "Many rules",
        "As X, with 1,000 and 10,000 regular expressions such as `^/customers/5000/[a-z]+\\.(html|css|js)$`, of which "
        "the middle one matches; the file name is another one in each request. ktcpvs has one rule for each; HAProxy "
        "has them in a file for `map_reg`, as people do who have many, and in a full run also as a `use_backend` for "
        "each; nginx has a `location ~` for each. Both use PCRE with its compiler. With hosts, each rule names one of "
        "the hosts in turn, and each request is for another rule: HAProxy has host and pattern as one regular "
        "expression for `map_reg`, nginx has a `server` with its `server_name` for each host, and the locations in it.",
        ["cpu", "core", "rate", "p99"],
    )
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    with_hosts = list(starts)
    if not shop.quick:
        starts += peers.whose(shop, peers.haproxy_rules)
    for count, wanted in WANTED.items():
        with servers(shop) as behind, contextlib.ExitStack() as stack:
            site = Site(0, behind.addresses, many_rules(count), default=2)
            found = peers.start_all(stack, starts, site)
            for peer in found:
                answers.check(peer.name, peer.port, paths(count))
            path = f"/customers/{count // 2}/index.html"
            requests = browsers.make_requests(path=f"/customers/{count // 2}/@.html")
            script = browsers.write_script(shop.folder, f"d-{count}", requests)
            figures = rounds.requests(shop, f"D, {count:,} rules", found, path, script=script)
            case = Case(f"{count:,} rules", figures)
        scenario.cases.append(case)
        scenario.goals += case.goals("cpu", dict.fromkeys((HTTP, NGINX), wanted))
    for case, wanted in run_hosts(shop, with_hosts):
        scenario.cases.append(case)
        scenario.goals += case.goals("cpu", dict.fromkeys((HTTP, NGINX), wanted))
    return scenario
