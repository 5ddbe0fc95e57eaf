"""Collectors of traces that never read, ask for patience, or break off: requests are unharmed, what waits is bounded,
and spans arrive once the collector is well."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from servers import LOOPBACK, Nginx, SocketServer, free_port, length_of, read_exactly, read_head, wait_for

from ktcpvs.system import otlp_exporter
from ktcpvs.system.otlp_exporter import OTLPExporter, SendResult

from .harness import ControlThread, Daemon
from .one_service import visitor

pytestmark = [pytest.mark.e2e, pytest.mark.together]

QUEUE = 64
"""The trace_queue of the daemon."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def read_request(sock: Any) -> bytes:
    """Return the body of the next request; raises EOFError at the end."""
    head = read_head(sock)
    if not head:
        raise EOFError
    return bytes(read_exactly(sock, length_of(head)))


class FaultyCollector:
    """A collector that sends `fault` for each request and closes, until `is_well`. fault: None: it does not even read.
    paths: of the spans that it has accepted. asked: the requests that it has read."""

    def __init__(self, fault: bytes | None) -> None:
        self.is_well = threading.Event()
        self.asked = 0
        self.paths: list[str] = []
        self._fault = fault
        self.server = SocketServer(self._serve)
        self.endpoint = f"http://{self.server.address}"

    def _serve(self, sock: Any) -> None:
        if self._fault is None and not self.is_well.is_set():
            self.is_well.wait(60)
            return
        while True:
            body = read_request(sock)
            self.asked += 1
            if self.is_well.is_set():
                for of in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for span in of.scope_spans[0].spans:
                        found = {one.key: one.value.string_value for one in span.attributes}
                        self.paths.append(found.get("url.path") or found["url.full"])
                sock.sendall(OK)
                continue
            assert self._fault is not None
            sock.sendall(self._fault)
            return

    def stop(self) -> None:
        self.is_well.set()
        self.server.stop()


FAULTS: dict[str, tuple[bytes | None, str]] = {
    "429": (b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", "status 429"),
    "503": (
        b"HTTP/1.1 503 Unavailable\r\nRetry-After: Fri, 01 Jan 2021 00:00:00 GMT\r\nContent-Length: 9\r\n\r\nlat",
        "status 503",
    ),
    "cut": (b"HTTP/1.1 200 OK\r\nContent-Le", "Connection was closed cleanly"),
    "garbage": (b"220 mail.example ESMTP\r\n\r\n", ""),
    "never-reads": (None, f"no response within {otlp_exporter.REQUEST_TIMEOUT:g} seconds"),
}
"""By name: what the collector sends, and the words of the log; "": any."""


@pytest.fixture(scope="module")
def collectors() -> Iterator[dict[str, FaultyCollector]]:
    made = {name: FaultyCollector(fault) for name, (fault, _) in FAULTS.items()}
    yield made
    for one in made.values():
        one.stop()


@pytest.fixture(scope="module")
def traced(
    control_thread: ControlThread,
    tmp_path_factory: pytest.TempPathFactory,
    web: list[Nginx],
    collectors: dict[str, FaultyCollector],
) -> Iterator[tuple[Daemon, dict[str, int]]]:
    """A daemon with a service for each collector, after more requests than its queues hold; and their ports."""
    daemon = Daemon(control_thread, tmp_path_factory.mktemp("faults"), preloaded=True)
    daemon.start()
    ports = {name: free_port() for name in collectors}
    text = [f"global {{\ntrace_interval = 1\ntrace_queue = {QUEUE}\n}}\n"]
    for name, port in ports.items():
        lines = (
            f"listen = {LOOPBACK}:{port}\nscheduler = phttp\ntrace = 100%\n"
            f"otlp_endpoint = {collectors[name].endpoint}\n"
            f'server = {web[0].address}\nrule = pattern ".*" use server {web[0].address}\n'
        )
        text.append(f"Virtual {name} {{\n{lines}}}\n")
    daemon.call("load", "".join(text))
    for name, port in ports.items():
        daemon.call("start", name)
        visit(port, f"/{name}", QUEUE)
    yield daemon, ports
    daemon.finish()


def visit(port: int, path: str, count: int) -> None:
    with visitor(port) as client:
        for _ in range(count):
            client.request("GET", path)
            response = client.getresponse()
            response.read()
            assert response.status == 200


@pytest.mark.parametrize("name", FAULTS)
def test_requests_go_on_and_spans_arrive_later(
    traced: tuple[Daemon, dict[str, int]], collectors: dict[str, FaultyCollector], name: str
) -> None:
    daemon, ports = traced
    collector = collectors[name]
    line = f"traces: {collector.endpoint}: {FAULTS[name][1]}"
    daemon.wait_for_log(line)
    if FAULTS[name][0] is not None:
        wait_for(lambda: collector.asked > 1, "a second attempt")
    visit(ports[name], f"/{name}", QUEUE)
    assert daemon.log().count(line) == 1
    collector.is_well.set()
    wait_for(lambda: len(collector.paths) >= QUEUE, lambda: f"{QUEUE} spans: {collector.paths}", timeout=30)
    assert len(collector.paths) == QUEUE
    assert all(path.endswith(f"/{name}") for path in collector.paths)
    visit(ports[name], f"/{name}/later", 1)
    wait_for(lambda: len(collector.paths) == QUEUE + 2, "the spans of a later request")


LATE = "Thu, 01 Jan 1970 00:20:00 GMT"


@pytest.mark.parametrize(
    ("response", "result"),
    [
        (OK, SendResult(True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", SendResult(True)),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, SendResult(True)),
        (
            b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
            SendResult(False, True, "status 429", 7),
        ),
        (
            b"HTTP/1.1 503 No\r\nRetry-After: " + LATE.encode() + b"\r\nContent-Length: 9\r\n\r\ncut",
            SendResult(False, True, "status 503", 200),
        ),
        (
            b"HTTP/1.1 503 No\r\nRetry-After: 9999999\r\nContent-Length: 0\r\n\r\n",
            SendResult(False, True, "status 503", otlp_exporter.MAX_RETRY_AFTER),
        ),
        (
            b"HTTP/1.1 503 No\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n",
            SendResult(False, True, "status 503"),
        ),
        (b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n", SendResult(False, False, "status 400")),
    ],
    ids=["whole", "cut-body", "long-body", "seconds", "date", "too-long", "neither", "refused"],
)
def test_what_becomes_of_a_batch(
    control_thread: ControlThread,
    serve: Callable[..., SocketServer],
    response: bytes,
    result: SendResult,
) -> None:
    def respond(sock: Any) -> None:
        read_request(sock)
        sock.sendall(response)

    found = send(control_thread, serve(respond))
    assert SendResult(found.is_sent, found.is_retryable, found.reason, found.retry_after) == result
    assert len(found.body) <= otlp_exporter.MAX_RESPONSE


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does-not-read"])
def test_a_response_without_an_end(
    control_thread: ControlThread,
    serve: Callable[..., SocketServer],
    monkeypatch: pytest.MonkeyPatch,
    reads: bool,
) -> None:
    """The status decides, and the connection is closed, also if not all of the request could be sent."""
    monkeypatch.setattr(otlp_exporter, "REQUEST_TIMEOUT", 0.2)
    closed = threading.Event()

    def respond(sock: Any) -> None:
        if reads:
            read_request(sock)
        sock.sendall(b"HTTP/1.1 503 No\r\nRetry-After: 3\r\nContent-Length: 9\r\n\r\ncut")
        try:
            while sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            closed.set()

    server = serve(respond)
    assert send(control_thread, server) == SendResult(False, True, "status 503", 3)
    assert closed.wait(10)


def send(thread: ControlThread, server: SocketServer) -> SendResult:
    """Send a batch to a server, 1,000 seconds after the beginning of 1970."""

    async def sending() -> SendResult:
        exporter = OTLPExporter(thread.reactor, f"http://{server.address}", "1", now=lambda: 1000.0)
        result = await exporter.send(b"x" * (1 << 20))
        exporter.close()
        return result

    found: SendResult = thread.run(sending)
    return found
