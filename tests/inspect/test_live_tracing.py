"""Live traces: what each shows of requests, how it ends, and that nothing is left of it then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, B, World, answer, get, worlds

from ktcpvs.errors import BadPattern, BadValue, Busy, NoSuchService
from ktcpvs.inspect.live_tracing import READ_TIMEOUT, LiveTracing
from ktcpvs.model.live_trace import MAX_COUNT, MAX_SECONDS, TraceBatch, TraceQuery
from ktcpvs.runtime import live_traces
from ktcpvs.runtime.live_traces import MAX_TRACES, TraceBuffer

LINES = ("scheduler = phttp", f"server = {A}", f"server = {B}", f'rule = pattern ".*" use server {A} server {B}')
Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*LINES) as make:
        yield make


class Watch:
    """A live trace that is read."""

    def __init__(self, world: World, text: str = "", **more: Any) -> None:
        self.world = world
        self.session = LiveTracing(world.director).trace(TraceQuery(text, **more))
        self.last = TraceBatch()

    def read(self) -> list[dict[str, Any]]:
        """Return what has come; the empty list after a second without anything."""
        batches: list[TraceBatch] = []
        self.session.read().addCallback(batches.append)
        if not batches:
            self.world.reactor.advance(READ_TIMEOUT)
        (self.last,) = batches
        return [json.loads(line) for line in self.last.entries.splitlines()]


def request(world: World, data: bytes, *responses: bytes) -> bytes:
    """Let a client send a request on a connection of its own; servers accept and respond. Return its response."""
    client = world.client()
    client.says(data)
    for server in [*world.accepts_all(), *[peer for peer in world.peers if peer.is_open and peer is not client]]:
        if server.heard():
            server.says(responses[0] if responses else answer())
    heard = client.heard()
    client.closes()
    return heard


def test_a_request_and_all_that_is_told_of_it(make: Make) -> None:
    world = make()
    watch = Watch(world)
    client = world.client()
    client.says(get("/a?b=1", "Cookie: secret=1", "Authorization: Basic c2VjcmV0", "User-Agent: me"))
    world.reactor.advance(0.25)
    server = world.accepts(A)
    world.reactor.advance(0.5)
    server.says(answer())
    (entry,) = watch.read()
    assert entry["service"] == "s"
    assert entry["client"] == "192.0.2.1"
    assert (entry["method"], entry["host"], entry["target"]) == ("GET", "h", "/a?b=1")
    assert (entry["server"], entry["status"]) == (A, 200)
    assert entry["reason"].startswith("rule 1 '.*', ")
    assert entry["why"] == "rule=1, balance"
    assert (entry["queue"], entry["connect"], entry["first"], entry["total"]) == (0.0, 0.25, 0.75, 0.75)
    assert entry["bytes_out"] == len(answer())
    assert entry["attempts"] == [{"server": A, "failure": None}]
    assert "secret" not in json.dumps(entry)
    assert (watch.last.matched, watch.last.dropped, watch.last.ended) == (1, 0, "")


def test_a_request_of_the_fast_path(make: Make) -> None:
    """The second one on a kept connection: it stays there, and is told all the same."""
    world = make("scheduler = phttp", f"server = {A}")
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    server.says(answer())
    watch = Watch(world, "path /a")
    client.says(get())
    assert world.connection.exchange.is_plain  # type: ignore[attr-defined]
    server.says(answer())
    (entry,) = watch.read()
    assert (entry["reused"], entry["connect"], entry["status"], entry["target"]) == (True, 0.0, 200, "/a")
    assert entry["attempts"] == [{"server": A, "failure": None}]


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("", ["/a", "/b"]),
        ("path /a", ["/a"]),
        ("not path /a", ["/b"]),
        ('pattern "^/b"', ["/b"]),
        ("host other.example", []),
        ('header X-User "^bob$" path /b', ["/b"]),
        ("from 192.0.2.0/24 method GET", ["/a", "/b"]),
        ("from 10.0.0.0/8", []),
        ("tls", []),
    ],
)
def test_conditions_are_those_of_rules(make: Make, text: str, targets: list[str]) -> None:
    world = make()
    watch = Watch(world, text)
    request(world, get("/a"))
    request(world, get("/b", "X-User: bob"))
    assert [entry["target"] for entry in watch.read()] == targets


def test_attempts_that_have_failed(make: Make) -> None:
    world = make()
    watch = Watch(world)
    client = world.client()
    client.says(get())
    world.refuses(A)
    kept = world.accepts(B)
    kept.says(answer())
    (entry,) = watch.read()
    refused = "Connection was refused by other side"
    assert entry["attempts"] == [{"server": A, "failure": refused}, {"server": B, "failure": None}]
    assert entry["why"] == "rule=1, balance, retry"
    client.says(get())
    world.accepts(A).closes()
    kept.closes()
    world.accepts(B).says(answer())
    (entry,) = watch.read()
    lost = "the server closed the connection before it answered"
    # The kept connection may only have been idle for too long, so its server gets the request again.
    failures = [(one["server"], one["failure"]) for one in entry["attempts"]]
    assert failures == [(A, lost), (B, "no response"), (B, None)]
    assert (entry["status"], entry["retries"]) == (200, 2)


def test_the_time_in_the_queue(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A} maxconn 1", f"rule = path /a use server {A}")
    first = world.client()
    first.says(get())
    server = world.accepts(A)
    watch = Watch(world, "path /a")
    waiting = world.client()
    waiting.says(get("/a"))
    world.reactor.advance(0.75)
    server.says(answer())
    server.says(answer())
    entries = watch.read()
    assert [(entry["queue"], entry["why"]) for entry in entries] == [(0.75, "rule=1, balance, queue")]


def test_refused_requests_and_those_that_are_none(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}", "rule = path /no use respond 403")
    watch = Watch(world, "from 192.0.2.1")
    request(world, get("/no"))
    request(world, get("/nothing"))
    request(world, b"GET x HTTP/1.1\r\nHost: h\r\n\r\n")
    entries = watch.read()
    assert [(entry["status"], entry["why"]) for entry in entries] == [
        (403, "rule=1, respond"), (503, "no_server"), (400, "bad_request"),
    ]  # fmt: skip
    assert entries[2]["method"] is None


@pytest.mark.parametrize("scheduler", ["wlc", "sh", "http"])
def test_whole_connections(make: Make, scheduler: str) -> None:
    world = make(f"scheduler = {scheduler}", f"server = {A}")
    watch = Watch(world, "path /a" if scheduler == "http" else "from 192.0.2.1")
    client = world.client()
    if scheduler == "http":
        client.says(get("/a"))
    server = world.accepts(A)
    server.says(b"12345")
    world.settle()
    client.resets()
    world.settle()
    (entry,) = watch.read()
    assert (entry["server"], entry["bytes_out"], entry["status"]) == (A, 5, None)
    assert entry["target"] == ("/a" if scheduler == "http" else None)


def test_what_no_trace_is_made_of(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A}")
    for query, kind, why in (
        (TraceQuery("path"), BadValue, "missing value after 'path'"),
        (TraceQuery("uri /x"), BadValue, "^unknown condition 'uri'; use 'path /x' for a path"),
        (TraceQuery("/foo"), BadValue, "^unknown condition '/foo'; for a path: path /foo$"),
        (TraceQuery('pattern "("'), BadPattern, "missing )"),
        (TraceQuery("", "nope"), NoSuchService, "nope"),
        (TraceQuery("path /a", "s"), BadValue, "scheduler wlc does not see path: it knows from, port, share"),
    ):
        with pytest.raises(kind, match=why.replace("(", r"\(").replace(")", r"\)")):
            LiveTracing(world.director).trace(query)
    for more in ({"count": 0}, {"count": MAX_COUNT + 1}, {"seconds": 0}, {"seconds": MAX_SECONDS + 1}):
        with pytest.raises(BadValue, match="expected 1 to"):
            TraceQuery("", None, **more)


# The end.


def is_off(world: World) -> bool:
    """Whether requests are noted by nothing, so that they cost what they cost without traces."""
    traffic = world.live.traffic
    return traffic.access_log.writer is None and traffic.http2_access_log.writer is None


def test_it_ends_after_so_many_requests(make: Make) -> None:
    world = make()
    watch = Watch(world, count=2)
    assert not is_off(world)
    for _ in range(3):
        request(world, get())
    assert len(watch.read()) == 2
    assert watch.last.ended == "count"
    world.turns(1)
    assert is_off(world)


def test_it_ends_after_its_time(make: Make) -> None:
    world = make()
    watch = Watch(world, seconds=3)
    world.passes(5)
    assert watch.read() == []
    assert watch.last.ended == "time"
    world.turns(1)
    assert is_off(world)


def test_it_ends_with_its_reader(make: Make) -> None:
    world = make()
    watch = Watch(world)
    watch.session.close()
    watch.session.close()
    world.turns(1)
    assert is_off(world)


def test_only_the_service_that_is_named(make: Make) -> None:
    world = make()
    watch = Watch(world, ident="s")
    assert world.context.live_traces.of("another") == ()
    assert not is_off(world)
    watch.session.close()
    world.turns(1)


def test_an_edit_meanwhile(make: Make) -> None:
    world = make()
    watch = Watch(world)
    world.load(*LINES, "access_log = off", "queue_timeout = 3")
    request(world, get())
    assert len(watch.read()) == 1


def test_so_many_traces_at_once(make: Make) -> None:
    world = make()
    watches = [Watch(world) for _ in range(MAX_TRACES)]
    with pytest.raises(Busy, match=f"{MAX_TRACES} traces run already"):
        Watch(world)
    request(world, get())
    for watch in watches:
        assert len(watch.read()) == 1
        watch.session.close()
    world.turns(1)
    Watch(world)


def test_a_slow_reader_loses_entries_and_holds_nobody_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_traces, "MAX_BUFFERED_BYTES", 2000)
    world = make()
    watch = Watch(world)
    for _ in range(9):
        assert request(world, get()).endswith(b"hello")
    entries = watch.read()
    assert 0 < len(entries) < 9
    assert (watch.last.matched, watch.last.dropped) == (9, 9 - len(entries))
    request(world, get())
    assert len(watch.read()) == 1


def test_an_entry_is_never_longer_than_a_batch(make: Make) -> None:
    world = make(settings="uri_size = 60000 head_size = 65536")
    watch = Watch(world)
    request(world, get("/" + "%" * 50000))
    (entry,) = watch.read()
    assert len(entry["target"]) == 1000
    assert entry["status"] is not None


def test_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_traces, "MAX_BATCH_BYTES", 10)
    buffer = TraceBuffer(5)
    for entry in (b"1234\n", b"5678\n", b"9\n", b"x" * 11, b"0\n", b"more\n"):
        buffer.add(entry)
    assert buffer.take() == TraceBatch(b"1234\n5678\n", 5, 1, "")
    assert buffer.take() == TraceBatch(b"9\n0\n", 5, 1, "count")
