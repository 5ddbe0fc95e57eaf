"""The status server, in memory: requests share rendered bodies, read them in chunks, and use known host names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue
from ktcpvs.inspect.views import Views
from ktcpvs.model.address import parse_address
from ktcpvs.model.edits import AddServer, AddService, Edit
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.status.readiness import Readiness
from ktcpvs.status.server import CHUNK_SIZE, MAX_CONNECTIONS, MAX_HELD_BYTES, BodyReaders, StatusFactory
from ktcpvs.system.log import EventLog

ODD, ODDER = "back\\slash<wéb>", 'unix:/tmp/"quoted"'


class Line(StringTransport):
    """A client's connection. limit: the bytes after which it pauses the producer."""

    limit = 1 << 30
    aborted = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.value()) >= self.limit and self.producer is not None:
            self.producer.pauseProducing()

    def abortConnection(self) -> None:
        self.aborted = True


class StatusWorld(MemoryReactorClock):
    """A switch with a status server, and a reactor whose calls from threads the test runs."""

    def __init__(self, *edits: Edit, hosts: Sequence[str] = ()) -> None:
        super().__init__()
        self.from_threads: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self.reads = 0
        self.readiness = Readiness()
        self.nodes: dict[str, Any] | None = None
        self.late: list[Deferred[Any]] | None = None  # pending views, which the test answers
        self._director = Director(Context(self, EventLog(), Descriptors(1000)))
        for edit in edits:
            self._director.submit(edit)
        self.factory = StatusFactory(self, hosts, EventLog(), self, self.readiness)

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.from_threads.put(lambda: function(*arguments))

    def run_next(self) -> None:
        self.from_threads.get(timeout=20)()

    # The switch.

    def view(self, name: str, ident: str | None) -> Any:
        if name == "certificates":
            return []
        if name == "nodes":
            if self.nodes is None:
                raise BadValue("this daemon is in no cluster")
            return self.nodes
        self.reads += 1
        if self.late is None:
            return self.stats()
        self.late.append(Deferred())
        return self.late[-1]

    def stats(self) -> Any:
        return Views(self._director).view("stats", None)

    def processes(self) -> dict[str, int]:
        return {}

    def worker_counts(self) -> None:
        return None

    # Clients.

    def get(
        self, path: str = "/metrics", limit: int = 1 << 30, host: str = "Host: 127.0.0.1\r\n", method: str = "GET"
    ) -> Line:
        line = Line()
        line.limit = limit
        channel = self.factory.buildProtocol(None)
        channel.makeConnection(line)
        line.protocol = channel
        channel.dataReceived(f"{method} {path} HTTP/1.1\r\n{host}\r\n".encode("latin-1"))
        return line

    def disconnect(self, line: Line) -> None:
        line.protocol.connectionLost(Failure(ConnectionLost()))


def status_of(line: Line) -> int:
    return int(line.value().split()[1])


@pytest.fixture
def logged() -> Any:
    """Events that are logged with a traceback during the test."""
    events: list[Any] = []

    def note(event: Any) -> None:
        if "log_failure" in event:
            events.append(event)

    globalLogPublisher.addObserver(note)
    yield events
    globalLogPublisher.removeObserver(note)


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/status"])
def test_concurrent_requests_share_one_view_and_one_body(path: str, logged: list[Any]) -> None:
    world = StatusWorld(AddService("s"))
    clients = [world.get(path) for _ in range(MAX_CONNECTIONS)]
    world.run_next()
    assert {status_of(line) for line in clients} == {200}
    assert len({line.value().partition(b"\r\n\r\n")[2] for line in clients}) == 1  # the heads contain the time
    assert world.reads == 1
    assert world.from_threads.empty(), "it was rendered once"
    assert world.get("/metrics").aborted, "one more than the limit"
    assert logged == []


def test_a_client_that_disconnects_does_not_affect_others(logged: list[Any]) -> None:
    world = StatusWorld()
    world.late = []
    first, second, third = (world.get() for _ in range(3))
    world.disconnect(first)
    world.late[0].callback(world.stats())
    world.disconnect(second)
    world.run_next()
    assert (first.value(), second.value(), status_of(third)) == (b"", b"", 200)
    assert logged == []
    for line in (first, second, third):
        world.disconnect(line)
    world.factory.close_all()
    assert world.getDelayedCalls() == []


def test_prometheus_reads_the_metrics() -> None:
    world = StatusWorld(AddService(ODD), AddServer(ODD, parse_address(ODDER), 7))
    text = read_body(world, world.get("/metrics"))
    found = {family.name: family for family in text_string_to_metric_families(text.decode())}
    labels = {"service": ODD, "server": ODDER, "role": "server"}
    assert [(one.labels, one.value) for one in found["ktcpvs_server_weight"].samples] == [(labels, 7)]
    names = [one.name for one in found["ktcpvs_server_request_duration_seconds"].samples]
    assert names == ["ktcpvs_server_request_duration_seconds_bucket"] * 17 + [
        "ktcpvs_server_request_duration_seconds_count",
        "ktcpvs_server_request_duration_seconds_sum",
    ]
    assert all(family.documentation and family.type != "untyped" for family in found.values())
    data = json.loads(read_body(world, world.get("/api/v1/status")))
    assert [(service["ident"], service["servers"][0]["weight"]) for service in data["services"]] == [(ODD, 7)]


def read_body(world: StatusWorld, line: Line) -> bytes:
    """Return the response's body, after rendering."""
    if not line.value():
        world.run_next()
    return line.value().partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", ["/", "/page.js", "/metrics", "/api/v1/status", "/ready", "/live", "/nowhere"])
@pytest.mark.parametrize("host", ["Host: 127.0.0.1\r\n", "Host: rebound.example\r\n", ""], ids=["known", "other", "no"])
def test_head_gets_the_head_of_get_alone(path: str, host: str) -> None:
    world = StatusWorld(AddService("s"))
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        got, head = (world.get(path, host=host, method=method) for method in ("GET", "HEAD"))
        if not got.value():
            world.run_next()
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert events == []
    (whole, _, body), (alone, _, nothing) = (line.value().partition(b"\r\n\r\n") for line in (got, head))
    assert body
    assert nothing == b""
    assert f"content-length: {len(body)}".encode() in alone.lower()
    heads = [{line for line in one.split(b"\r\n") if not line.startswith(b"Date: ")} for one in (whole, alone)]
    assert heads[0] == heads[1]


def test_head_gets_the_head_of_an_internal_error() -> None:
    world = StatusWorld()
    world.late = []
    lines = [world.get(method=method) for method in ("GET", "HEAD")]
    world.late[0].errback(ValueError("no view"))
    (whole, _, body), (alone, _, nothing) = (line.value().partition(b"\r\n\r\n") for line in lines)
    assert whole.startswith(b"HTTP/1.1 500 ")
    assert alone.startswith(b"HTTP/1.1 500 ")
    assert (body != b"", nothing) == (True, b"")
    assert f"content-length: {len(body)}".encode() in alone.lower()


NODES = {
    "node": "a",
    "etcd": "http://10.0.0.9:2379",
    "connected": True,
    "problem": "",
    "revision": 9,
    "applied": 8,
    "requests": {"total": 30, "errors": 2, "seconds": 0.5},
    "nodes": [
        {"node": "a", "state": "behind", "drain": "", "revision": 8, "errors": [], "connections": 4, "since": 1},
        {"node": 'b"', "state": "gone", "errors": []},
    ],
}


def test_the_metrics_of_a_node_of_a_cluster() -> None:
    world = StatusWorld()
    world.nodes = NODES
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(read_body(world, world.get()).decode())
        for sample in family.samples
        if sample.name.startswith("ktcpvs_cluster_") and sample.value
    }
    assert found == {
        ("ktcpvs_cluster_connected",): 1,
        ("ktcpvs_cluster_revision",): 9,
        ("ktcpvs_cluster_applied_revision",): 8,
        ("ktcpvs_cluster_etcd_requests_total",): 30,
        ("ktcpvs_cluster_etcd_errors_total",): 2,
        ("ktcpvs_cluster_etcd_request_seconds_total",): 0.5,
        ("ktcpvs_cluster_node_state", "a", "behind"): 1,
        ("ktcpvs_cluster_node_state", 'b"', "gone"): 1,
    }


def test_the_data_of_the_nodes_does_not_name_etcd() -> None:
    world = StatusWorld()
    world.nodes = NODES
    cluster = json.loads(read_body(world, world.get("/api/v1/status")))["cluster"]
    assert cluster.keys() == {"node", "connected", "problem", "revision", "applied", "requests", "nodes"}
    assert [node["state"] for node in cluster["nodes"]] == ["behind", "gone"]
    world = StatusWorld()
    assert json.loads(read_body(world, world.get("/api/v1/status")))["cluster"] is None


def test_ready_says_why_it_is_not() -> None:
    world = StatusWorld()
    reasons = [""]
    world.readiness.require(lambda: reasons[0])
    assert world.get("/ready").value().endswith(b"\r\n\r\nstarting\n")
    world.readiness.begin()
    assert status_of(world.get("/ready")) == 200
    reasons[0] = "draining"
    line = world.get("/ready")
    assert (status_of(line), line.value().rpartition(b"\r\n")[2]) == (503, b"draining\n")


def test_a_client_that_does_not_read_holds_one_chunk() -> None:
    world = StatusWorld(*many_servers())
    whole = read_body(world, world.get())
    assert len(whole) > 4 * CHUNK_SIZE
    slow = world.get(limit=1)
    assert len(slow.value()) < CHUNK_SIZE + 1000
    slow.limit = 1 << 30
    slow.producer.resumeProducing()
    assert slow.value().partition(b"\r\n\r\n")[2] == whole
    assert slow.disconnecting


def test_a_client_that_disconnects_in_the_middle_is_forgotten(logged: list[Any]) -> None:
    world = StatusWorld(*many_servers())
    slow = world.get(limit=1)
    world.run_next()
    world.disconnect(slow)
    assert world.factory.channels == set()
    assert logged == []


def many_servers() -> list[Edit]:
    servers = [AddServer("s", parse_address(f"10.0.0.{number}:80")) for number in range(1, 200)]
    return [AddService("s"), *servers]


def test_readers_of_the_oldest_bodies_are_aborted_when_bodies_hold_too_much() -> None:
    held, lines = BodyReaders(), [Line() for _ in range(4)]
    texts = [bytes(MAX_HELD_BYTES // 2) for _ in range(3)]
    for text, line in zip(texts, lines, strict=False):
        held.add(text, line)
    assert not any(line.aborted for line in lines)  # the newest does not count
    held.add(texts[0], lines[3])
    assert not any(line.aborted for line in lines)
    held.add(bytes(1), Line())
    assert [line.aborted for line in lines] == [True, False, False, True]
    held.remove(texts[0], lines[0])
    held.remove(texts[0], lines[3])
    held.remove(texts[1], lines[1])
    held.add(bytes(2), Line())
    assert not lines[2].aborted


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:9109",
        "[::1]:9109",
        "10.1.2.3",
        "localhost",
        "LOCALHOST:1",
        "a.localhost",
        "lb1.example",
        "LB1.Example.:9109",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/v1/status"])
def test_addresses_localhost_and_configured_names_are_served(host: str, path: str) -> None:
    world = StatusWorld(hosts=("lb1.example",))
    line = world.get(path, host=f"Host: {host}\r\n")
    read_body(world, line)
    assert status_of(line) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9109", "lb1.example.evil", "localhost.evil", "1.2.3.4.5", "127.1", "evil.example."],
)
@pytest.mark.parametrize("path", ["/", "/metrics", "/nothing"])
def test_other_names_are_refused_with_a_hint(host: str, path: str) -> None:
    world = StatusWorld(hosts=("lb1.example",))
    line = world.get(path, host=f"Host: {host}\r\n")
    name = host.partition(":")[0].removesuffix(".")
    assert line.value().startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    assert f"start ktcpvs with --status-host {name}." in line.value().decode()
    assert world.reads == 0


@pytest.mark.parametrize("host", ["[::1", "a b", "<script>", "\xff", ":80", ""])
def test_invalid_hosts_are_refused_in_one_line(host: str) -> None:
    line = StatusWorld().get(host=f"Host: {host}\r\n")
    assert status_of(line) == 421
    body = line.value().partition(b"\r\n\r\n")[2]
    assert body.count(b"\n") == 1
    assert b"--status-host" not in body


@pytest.mark.parametrize("host", ["", "Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n"])
def test_exactly_one_host_is_required(host: str) -> None:
    assert status_of(StatusWorld().get(host=host)) == 400
