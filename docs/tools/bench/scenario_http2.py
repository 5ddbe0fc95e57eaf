"""Q: requests over HTTP/2. R: gRPC. S: large answers over HTTP/2. T: idle HTTP/2 connections over TLS."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from attrs import evolve

from bench import browsers, certificate, counters, peers, rounds, scenario_memory
from bench.configurations import NAME, Site
from bench.failure import Failure
from bench.h2load import CONNECTIONS, STREAMS, h2load
from bench.peers import HTTP, NGINX, Peer
from bench.processes import program
from bench.results import Case, Scenario
from bench.rounds import Measured
from bench.scenario_requests import METRICS, PATH, WANTED, three_rules
from bench.scenario_transfer import LARGE, SMALL, make_file, per_gigabyte
from bench.scenario_transfer import METRICS as TRANSFER_METRICS
from bench.workshop import Workshop, grpc_server, servers

WANTED_REQUESTS, WANTED_GRPC, WANTED_BULK = 0.7, 0.7, 0.7
"""Of a peer's cost to ours."""

REQUESTS = CONNECTIONS * STREAMS
"""Requests at a time."""

LOAD = f"{CONNECTIONS} connections of h2load, each with {STREAMS} streams at a time"
GRPC = "content-type: application/grpc", "te: trailers"


def check(peer: Peer, path: str, wanted: tuple[str, ...]) -> None:
    """Raise Failure when the answer over HTTP/2 is not one of these."""
    base = f"https://{NAME}" if peer.is_tls else "http://127.0.0.1"
    words = [program("curl"), "-s", "-k", "--http2" if peer.is_tls else "--http2-prior-knowledge"]
    done = subprocess.run(
        [*words, "-w", " %{http_version} %{http_code}", f"{base}:{peer.port}{path}"], capture_output=True, text=True
    )
    if done.stdout not in [f"{text} 2 200" for text in wanted]:
        raise Failure(f"{peer.name} answers {path} with {done.stdout!r}, not with one of {wanted} over HTTP/2")


def write_paths(shop: Workshop) -> Path:
    """A file with the paths of the browsers' requests."""
    found = [request.split(b" ")[1].decode() for request in browsers.make_requests()]
    return shop.write("paths", "\n".join(found) + "\n")


def measure(shop: Workshop, peer: Peer, seconds: int, **options: object) -> Measured:
    """A round of requests."""
    before = counters.spent(peer.running.pid, shop.proxy)
    report = h2load(shop.load, seconds, peer.port, is_tls=peer.is_tls, **options)
    return rounds.per_request(before, counters.spent(peer.running.pid, shop.proxy), report)


def run_q(shop: Workshop) -> Scenario:
    work = (
        f"{LOAD}, ask for 12 bytes; the servers speak HTTP/1. As A besides. *Identical*: always the same request. "
        "*Paths*: those of the requests of X, whose other fields stay the same here. With TLS 1.3, and without TLS by "
        "prior knowledge."
    )
    scenario = Scenario("Q", "Requests over HTTP/2", work, METRICS)
    paths = write_paths(shop)
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    pem = str(certificate.make(shop))
    with servers(shop) as behind:
        for where, file in (("h2c", ""), ("TLS", pem)):
            site = evolve(three_rules(behind), certificate=file, is_http2=True, requests=REQUESTS)
            with contextlib.ExitStack() as stack:
                found = peers.start_all(stack, starts, site)
                for peer in found:
                    check(peer, PATH, WANTED[PATH])
                for label, options in (("identical", {"path": PATH}), ("paths", {"paths": paths})):

                    def one(peer: Peer, options: dict[str, object] = options) -> Measured:
                        return measure(shop, peer, shop.seconds, **options)

                    case = Case(f"{where}, {label}", rounds.alternate(shop, f"Q, {where}, {label}", found, one))
                    scenario.cases.append(case)
                    scenario.goals += case.goals("cpu", {HTTP: WANTED_REQUESTS, NGINX: WANTED_REQUESTS})
    return scenario


def run_r(shop: Workshop) -> Scenario:
    work = (
        f"{LOAD}, make unary calls of gRPC with a message of 100 bytes; the server, an nginx, speaks HTTP/2 and "
        "responds with a few bytes and a trailer. Without TLS."
    )
    scenario = Scenario("R", "gRPC, unary calls", work, METRICS)
    message = shop.folder / "message"
    message.write_bytes(b"\0" + (100).to_bytes(4, "big") + bytes(100))
    starts = peers.everybody(shop, "phttp", peers.haproxy_http)
    with grpc_server(shop) as address, contextlib.ExitStack() as stack:
        site = Site(0, (address,), is_http2=True, has_http2_servers=True, requests=REQUESTS)
        found = peers.start_all(stack, starts, site)

        def one(peer: Peer) -> Measured:
            return measure(shop, peer, shop.seconds, path="/shop.Orders/Get", lines=GRPC, body=message)

        scenario.cases = [Case("", rounds.alternate(shop, "R", found, one))]
    scenario.goals = scenario.cases[0].goals("cpu", {HTTP: WANTED_GRPC})
    return scenario


def run_s(shop: Workshop) -> Scenario:
    work = (
        f"Files of 64 KiB for {LOAD}, and of 100 MiB for four connections with one stream each; the servers speak "
        "HTTP/1. Without TLS."
    )
    scenario = Scenario("S", "Large answers over HTTP/2", work, TRANSFER_METRICS)
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    with servers(shop) as behind, contextlib.ExitStack() as stack:
        make_file(behind, "small", SMALL)
        make_file(behind, "large", LARGE)
        found = peers.start_all(stack, starts, Site(0, behind.addresses[:1], is_http2=True, requests=REQUESTS))
        for label, path, size, clients, streams in (
            ("64 KiB", "/files/small", SMALL, CONNECTIONS, STREAMS),
            ("100 MiB", "/files/large", LARGE, 4, 1),
        ):

            def one(
                peer: Peer, path: str = path, size: int = size, clients: int = clients, streams: int = streams
            ) -> Measured:
                before = counters.spent(peer.running.pid, shop.proxy)
                report = h2load(shop.load, shop.seconds, peer.port, path=path, clients=clients, streams=streams)
                spent = counters.spent(peer.running.pid, shop.proxy).since(before)
                return per_gigabyte(spent, report.requests * size, report.seconds)

            case = Case(label, rounds.alternate(shop, f"S, {label}", found, one))
            scenario.cases.append(case)
            scenario.goals += case.goals("cpu_gb", {HTTP: WANTED_BULK})
    return scenario


def run_t(shop: Workshop) -> Scenario:
    return scenario_memory.run_http2(shop)
