"""F: large answers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from functools import partial

from bench import answers, counters, peers, rounds
from bench.configurations import Site
from bench.failure import Failure
from bench.load import wrk
from bench.peers import HERE, HTTP, Peer
from bench.processes import output_of
from bench.results import Case, Scenario
from bench.rounds import Measured
from bench.workshop import Servers, Workshop, servers

SMALL = 64 << 10
LARGE = 100 << 20
METRICS = ["cpu_gb", "core_gb", "speed"]
AT_ONCE = 4
"""Fetches of the large answer at the same time."""


def make_file(behind: Servers, name: str, size: int) -> str:
    """A file of random bytes; its SHA-256."""
    digest = hashlib.sha256()
    with (behind.files / name).open("wb") as file:
        for start in range(0, size, 1 << 20):
            block = os.urandom(min(1 << 20, size - start))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def check(peer: Peer, path: str, wanted: str) -> None:
    """Raises Failure when the answer is not 200 with the bytes whose SHA-256 is `wanted`."""
    digest = hashlib.sha256()
    with contextlib.closing(answers.connection_to(peer.port, peer.is_tls)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        while block := answer.read(1 << 20):
            digest.update(block)
    if answer.status != 200 or digest.hexdigest() != wanted:
        raise Failure(f"{peer.name} answers {path} with {answer.status} and other bytes")


def per_gigabyte(spent: counters.Spent, size: int, seconds: float) -> Measured:
    """The cost of 10^9 bytes."""
    gigabytes = size / 1e9
    return {
        "cpu_gb": spent.program / gigabytes,
        "core_gb": spent.cores / gigabytes,
        "speed": gigabytes * 1000 / seconds,
    }


def small(shop: Workshop, peer: Peer) -> Measured:
    """A round of the small file."""
    before = counters.spent(peer.running.pid, shop.proxy)
    report = wrk(peer.port, "/files/small", shop.seconds, shop.load, is_tls=peer.is_tls)
    spent = counters.spent(peer.running.pid, shop.proxy).since(before)
    return per_gigabyte(spent, report.requests * SMALL, report.seconds)


def large(shop: Workshop, peer: Peer) -> Measured:
    """A round of the large file."""
    fetches = AT_ONCE if shop.quick else 2 * AT_ONCE
    command = [sys.executable, str(HERE / "fetcher.py"), str(peer.port), "/files/large", str(LARGE), str(AT_ONCE)]
    command += ["tls"] if peer.is_tls else []
    seconds = 0.0
    before = counters.spent(peer.running.pid, shop.proxy)
    for _ in range(fetches // AT_ONCE):
        seconds += float(output_of(command, shop.load))
    return per_gigabyte(counters.spent(peer.running.pid, shop.proxy).since(before), fetches * LARGE, seconds)


def transfer(shop: Workshop, scenario: Scenario, wanted: tuple[float, float], certificate: str = "") -> None:
    """Measure both files. wanted: the goals beside HAProxy, of the small one and of the large one. certificate: of the
    proxies; an empty text: they speak no TLS."""
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    with servers(shop) as behind, contextlib.ExitStack() as stack:
        digests = {"small": make_file(behind, "small", SMALL), "large": make_file(behind, "large", LARGE)}
        found = peers.start_all(stack, starts, Site(0, behind.addresses[:1], certificate=certificate))
        for peer in found:
            for name, digest in digests.items():
                check(peer, f"/files/{name}", digest)
        for label, one, least in (("64 KiB", small, wanted[0]), ("100 MiB", large, wanted[1])):
            case = Case(label, rounds.alternate(shop, f"{scenario.letter}, {label}", found, partial(one, shop)))
            scenario.cases.append(case)
            scenario.goals += case.goals("cpu_gb", {HTTP: least})


def run(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "F",
        "Large answers",
        f"Files of 64 KiB for 64 clients that keep their connections, and of 100 MiB for {AT_ONCE} at once that make a "
        "new one each time; request by request as in A.",
        METRICS,
    )
    transfer(shop, scenario, (1.0, 0.9))
    return scenario
