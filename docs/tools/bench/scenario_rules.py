"""D: many rules."""

from __future__ import annotations

import contextlib

from bench import answers, browsers, peers, rounds
from bench.configurations import Rule, Site, answer
from bench.peers import HTTP, NGINX
from bench.results import Case, Scenario
from bench.workshop import Workshop, servers

WANTED = {1000: 3.0, 10000: 15.0}
"""Number of rules -> the peers' cost divided by ours, as wanted."""


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


def run(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "D",
        "Many rules",
        "As X, with 1,000 and 10,000 regular expressions such as `^/customers/5000/[a-z]+\\.(html|css|js)$`, of which "
        "the middle one matches; the file name is another one in each request. ktcpvs has one rule for each; HAProxy "
        "has them in a file for `map_reg`, as people do who have many, and in a full run also as a `use_backend` for "
        "each; nginx has a `location ~` for each. Both use PCRE with its compiler.",
        ["cpu", "core", "rate", "p99"],
    )
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
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
    return scenario
