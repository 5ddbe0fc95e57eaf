"""Traces of a running daemon: spans reach a collector from all workers, by HTTP/1 and HTTP/2, over its failures."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from collector import CLIENT, SERVER, Collected, Collector
from http2_client import HTTP2Client
from servers import LOOPBACK, Nginx, SocketServer, free_address, free_port, read_head, wait_for

from .harness import ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together]

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def status() -> int:
    return free_port()


@pytest.fixture(scope="module")
def traced(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory, status: int) -> Iterator[Daemon]:
    """A daemon with two workers."""
    folder = tmp_path_factory.mktemp("traced")
    daemon = Daemon(control_thread, folder, "--status", f"tcp:{status}", workers=2, preloaded=True)
    daemon.start()
    yield daemon
    daemon.finish()


def start(daemon: Daemon, *lines: str) -> int:
    """Start a service with these lines; return its port."""
    port = free_port()
    text = "\n".join((f"listen = {LOOPBACK}:{port}", "scheduler = phttp", *lines))
    daemon.call("load", f"global {{ trace_interval = 1 }}\nVirtual web{port} {{\n{text}\n}}\n")
    daemon.call("start", f"web{port}")
    return port


def to(*addresses: str) -> list[str]:
    used = " ".join(f"server {address}" for address in addresses)
    return [*(f"server = {address}" for address in addresses), f'rule = pattern ".*" use {used}']


def ask(port: int, path: str = "/", count: int = 1, **headers: str) -> list[int]:
    """Request `path` on a connection for each request; return the statuses."""
    statuses = []
    for _ in range(count):
        client = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
        client.request("GET", path, headers=headers)
        response = client.getresponse()
        response.read()
        statuses.append(response.status)
        client.close()
    return statuses


def of_path(path: str) -> Callable[[Collected], bool]:
    return lambda span: span.attributes.get("url.path") == path or str(span.attributes.get("url.full")).endswith(path)


def test_spans_come_from_all_workers(traced: Daemon, collector: Collector, web: list[Nginx], status: int) -> None:
    port = start(traced, *to(web[0].address), "trace = 100%", f"otlp_endpoint = {collector.endpoint}")
    assert ask(port, "/workers", 40) == [200] * 40
    spans = collector.wait(of_path("/workers"), 80)
    wholes = {span.span_id: span for span in spans if span.kind == SERVER}
    attempts = [span for span in spans if span.kind == CLIENT]
    assert {attempt.parent_id for attempt in attempts} == set(wholes)
    assert len({whole.trace_id for whole in wholes.values()}) == 40
    assert {span.resource["process.pid"] for span in spans} == set(traced.workers())
    for attempt in attempts:
        whole = wholes[attempt.parent_id]
        assert whole.trace_id == attempt.trace_id
        assert whole.began <= attempt.began <= attempt.ended <= whole.ended
        assert (whole.attributes["ktcpvs.server"], attempt.attributes["ktcpvs.server"]) == (web[0].address,) * 2
        assert whole.error is attempt.error is None

    def metric(name: str) -> int:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{status}/metrics", timeout=10) as response:
            found = re.search(rf"^{re.escape(name)} (\d+)$", response.read().decode(), re.MULTILINE)
        return int(found[1]) if found else -1

    wait_for(lambda: metric('ktcpvs_trace_spans_total{outcome="sent"}') == 80, "the metric of sent spans")
    assert metric("ktcpvs_trace_queued_spans") == 0


def test_a_retried_request_of_a_trusted_proxy(traced: Daemon, collector: Collector, web: list[Nginx]) -> None:
    dead = free_address()
    lines = ["trace = 0%", "trusted_proxies = 127.0.0.0/8", "balance = wrr", "eject = 0"]
    port = start(traced, *to(dead, web[0].address), *lines, f"otlp_endpoint = {collector.endpoint}")
    sampled = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1"}
    for _ in range(4):
        ask(port, "/retried", **sampled)
        ask(port, "/retried", traceparent=f"00-{TRACE}-{SPAN}-00")
    wholes = collector.wait(lambda span: span.kind == SERVER and of_path("/retried")(span), 4)
    assert {(whole.trace_id, whole.parent_id, whole.state) for whole in wholes} == {(TRACE, SPAN, "a=1")}
    failed = collector.wait(lambda span: span.attributes.get("ktcpvs.server") == dead, 1)
    assert {span.attributes["error.type"] for span in failed} == {"connect_failed"}
    again = collector.wait(lambda span: span.attributes.get("http.request.resend_count") == 1, len(failed))
    assert {span.parent_id for span in again} == {span.parent_id for span in failed}
    assert len([span for span in collector.spans() if span.kind == SERVER and of_path("/retried")(span)]) == 4


def test_streams_of_http2_have_spans_and_servers_get_their_ids(
    traced: Daemon, collector: Collector, serve: Callable[..., SocketServer], tmp_path: Path
) -> None:
    heads: list[bytes] = []

    def respond(sock: Any) -> None:
        while head := read_head(sock):
            heads.append(head)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server, log = serve(respond), tmp_path / "log"
    lines = [f"access_log = {log}", "access_log_format = json", "trace = 100%"]
    port = start(traced, *to(server.address), *lines, f"otlp_endpoint = {collector.endpoint}")

    async def talk() -> list[int]:
        client = await HTTP2Client.connect(port)
        found = [(await client.request("GET", "/two")).status for _ in range(3)]
        found.append((await client.request("POST", "/two", body=b"x" * 10)).status)
        await client.close()
        return found

    assert asyncio.run(talk()) == [200] * 4
    spans = collector.wait(of_path("/two"), 8)
    assert {span.attributes["network.protocol.version"] for span in spans if span.kind == SERVER} == {"2"}
    parents = [re.search(rb"(?i)traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-01\r\n", head) for head in heads]
    assert {(found[1].decode(), found[2].decode()) for found in parents if found} == {
        (span.trace_id, span.span_id) for span in spans if span.kind == CLIENT
    }
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 4, "four lines")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(row["trace_id"], row["span_id"], row["protocol"]) for row in rows} == {
        (span.trace_id, span.span_id, "HTTP/2.0") for span in spans if span.kind == SERVER
    }


def test_a_collector_that_is_down_costs_no_request_and_gets_the_spans_later(traced: Daemon, web: list[Nginx]) -> None:
    port_of_collector = free_port()
    endpoint = f"http://{LOOPBACK}:{port_of_collector}"
    port = start(traced, *to(web[0].address), "trace = 100%", f"otlp_endpoint = {endpoint}")
    traced.forget_log()
    assert ask(port, "/down", 10) == [200] * 10
    traced.wait_for_log(f"traces: {endpoint}: Connection refused")
    assert ask(port, "/down", 10) == [200] * 10
    collector = Collector(port_of_collector)
    try:
        assert len(collector.wait(of_path("/down"), 40)) == 40
    finally:
        collector.stop()


def test_a_daemon_that_ends_sends_what_it_has(
    make_daemon: Callable[..., Daemon], collector: Collector, web: list[Nginx]
) -> None:
    daemon = make_daemon()
    daemon.start()
    port = start(daemon, *to(web[0].address), "trace = 100%", f"otlp_endpoint = {collector.endpoint}")
    daemon.set(trace_interval=3600)
    assert ask(port, "/first", 1) == [200]
    collector.wait(of_path("/first"), 2)
    assert ask(port, "/last", 3) == [200] * 3
    daemon.call("unload")
    assert daemon.wait() == 0
    assert len(collector.wait(of_path("/last"), 6)) == 6
