"""Traces of requests on client connections: the fields that servers get, and the spans of recorded requests."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, B, Peer, World, answer, get, worlds

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.errors import Refusal
from ktcpvs.model.edits import EditService
from ktcpvs.model.language.parser import parse
from ktcpvs.model.spans import CLIENT, SERVER, Span

Make = Callable[..., World]

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"traceparent: 00-{TRACE}-{SPAN}-01", f"traceparent: 00-{TRACE}-{SPAN}-00"
EVERY = f'rule = name all pattern ".*" use server {A}'
BASE = ("scheduler = phttp", f"server = {A}", EVERY)
TRUSTED = "trusted_proxies = 192.0.2.0/24"


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*BASE) as make:
        yield make


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[Span]]:
    """The spans of each recorded request."""
    requests: list[list[Span]] = []
    monkeypatch.setattr(
        "ktcpvs.runtime.tracer.Tracer.record", lambda tracer, endpoint, spans: requests.append(list(spans))
    )
    return requests


def served(world: World, *requests: bytes, response: bytes | None = None) -> list[bytes]:
    """Send requests on one connection; return what the server has got of each."""
    client, server, got = world.client(), None, []
    for request in requests:
        client.says(request)
        if world.called():
            server = world.connects()
        assert server is not None
        got.append(server.heard())
        server.says(response or answer())
        assert client.heard()
    return got


def fields(head: bytes) -> list[str]:
    """Return the fields of the trace in a head, as they stand there."""
    return [line for line in head.decode().split("\r\n") if line.lower().startswith(("traceparent", "tracestate"))]


def parent_of(head: bytes) -> tuple[str, str, str]:
    (line,) = fields(head)
    found = re.fullmatch(r"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])", line)
    assert found, line
    return found[1], found[2], found[3]


def test_without_traces_the_fields_go_on_as_they_came(make: Make, recorded: list[list[Span]]) -> None:
    odd = get("/", "traceparent: odd", "tracestate: A")
    assert served(make(), get(), odd, odd) == [get(), odd, odd]
    assert not recorded


def test_pass_keeps_a_valid_trace_and_begins_one_where_there_is_none(make: Make, recorded: list[list[Span]]) -> None:
    world = make(*BASE, "trace = pass")
    good = get("/", SAMPLED, "tracestate: a=1")
    got = served(world, good, good, get(), get(), get("/", "traceparent: odd", "tracestate: a=1"))
    assert got[:2] == [good, good]
    begun = [parent_of(head) for head in got[2:]]
    assert len({trace for trace, _, _ in begun}) == 3
    assert {flags for _, _, flags in begun} == {"00"}
    assert not recorded


def test_pass_drops_a_malformed_state_alone(make: Make) -> None:
    world = make(*BASE, "trace = pass")
    bad = get("/", SAMPLED, "tracestate: A", "X-Other: 1")
    for head in served(world, bad, bad):
        assert fields(head) == [SAMPLED]
        assert b"X-Other: 1\r\n" in head


@pytest.mark.parametrize("request_", [get(), get(method="POST", body=b""), get("/", "Content-Length: 2", method="POST")
                                      + b"ab"], ids=["plain", "post", "body"])  # fmt: skip
def test_a_recorded_request_has_a_span_and_one_for_its_attempt(
    make: Make, recorded: list[list[Span]], request_: bytes
) -> None:
    world = make(*BASE, "trace = 100%")
    got = served(world, request_, request_)
    assert len(recorded) == 2
    for head, (whole, attempt) in zip(got, recorded, strict=True):
        assert parent_of(head) == (whole.trace_id, attempt.span_id, "01")
        assert (whole.kind, attempt.kind) == (SERVER, CLIENT)
        assert (whole.parent_id, attempt.parent_id) == ("", whole.span_id)
        assert attempt.trace_id == whole.trace_id
        assert whole.began <= attempt.began <= attempt.ended <= whole.ended
        assert whole.error is attempt.error is None
        assert whole.attributes | {"ktcpvs.reason": ""} == {
            "http.request.method": request_.split(b" ")[0].decode(),
            "url.scheme": "http",
            "url.path": request_.split(b" ")[1].decode(),
            "network.protocol.version": "1.1",
            "server.address": "h",
            "network.peer.address": "192.0.2.1",
            "network.peer.port": 4711,
            "client.address": "192.0.2.1",
            "ktcpvs.service": "s",
            "ktcpvs.server": A,
            "ktcpvs.reason": "",
            "http.response.status_code": 200,
        }
        assert attempt.attributes["server.address"] == "10.0.0.1"
        assert attempt.attributes["server.port"] == 80
        assert attempt.attributes["url.full"] == f"http://{A}{whole.attributes['url.path']}"
        assert attempt.attributes["http.response.status_code"] == 200
    assert [spans[1].attributes["ktcpvs.connection.reused"] for spans in recorded] == [False, True]


def test_only_trusted_proxies_decide_by_their_flag(make: Make, recorded: list[list[Span]]) -> None:
    state = "tracestate: a=1,b@c=2"
    (head,) = served(make(*BASE, "trace = 0%"), get("/", SAMPLED, state))
    assert fields(head)[0].startswith(f"traceparent: 00-{TRACE}-")
    assert fields(head)[0].endswith("-00")
    assert fields(head)[1:] == [state]
    assert not recorded
    heads = served(make(*BASE, "trace = 100%", TRUSTED), get("/", UNSAMPLED), get("/", UNSAMPLED))
    assert {parent_of(head)[::2] for head in heads} == {(TRACE, "00")}
    assert not recorded
    heads = served(make(*BASE, "trace = 0%", TRUSTED), get("/", SAMPLED, state), get("/", SAMPLED, state))
    for head, (whole, attempt) in zip(heads, recorded, strict=True):
        assert fields(head) == [f"traceparent: 00-{TRACE}-{attempt.span_id}-01", state]
        assert (whole.trace_id, whole.parent_id, whole.state) == (TRACE, SPAN, "a=1,b@c=2")


def test_no_more_requests_are_recorded_in_a_second_than_trace_limit_says(
    make: Make, recorded: list[list[Span]]
) -> None:
    world = make(*BASE, "trace = 100%", settings="trace_limit = 2")
    flags = [parent_of(head)[2] for head in served(world, *[get()] * 5)]
    assert flags == ["01", "01", "00", "00", "00"]
    assert len(recorded) == 2
    assert world.context.tracer.counts.limited == 3
    world.passes(1)
    assert world.context.tracer.may_record()


def test_beyond_the_limit_the_flag_of_a_trusted_proxy_goes_on(make: Make, recorded: list[list[Span]]) -> None:
    world = make(*BASE, "trace = 1%", TRUSTED, settings="trace_limit = 1")
    assert [parent_of(head)[2] for head in served(world, *[get("/", SAMPLED)] * 3)] == ["01"] * 3
    assert len(recorded) == 1


def test_each_attempt_is_a_span(make: Make, recorded: list[list[Span]]) -> None:
    world = make(
        "scheduler = phttp",
        f"server = {A}",
        f"server = {B}",
        f'rule = pattern ".*" use server {A} server {B}',
        "trace = 100%",
    )
    client = world.client()
    client.says(get())
    (first,) = world.called()
    world.refuse(world.reactor.tcpClients[-1][2])
    (second,) = world.called()
    server = world.connects()
    assert {first, second} == {A, B}
    head = server.heard()
    server.says(answer(status="503 Service Unavailable"))
    assert client.heard()
    ((whole, refused, answered),) = recorded
    assert parent_of(head)[:2] == (whole.trace_id, answered.span_id)
    assert refused.attributes["ktcpvs.server"] == first
    assert (refused.attributes["error.type"], refused.error) == (
        "connect_failed",
        "Connection was refused by other side",
    )
    assert "http.request.resend_count" not in refused.attributes
    assert answered.attributes["http.request.resend_count"] == 1
    assert answered.attributes["error.type"] == whole.attributes["error.type"] == "503"
    assert whole.attributes["ktcpvs.server"] == second
    assert refused.span_id != answered.span_id


def test_a_kept_connection_that_dies_is_an_attempt_that_failed(make: Make, recorded: list[list[Span]]) -> None:
    world = make(*BASE, "trace = 100%")
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    server.says(answer())
    client.heard()
    client.says(get())
    before = parent_of(server.heard().partition(b"\r\n\r\n")[2])
    server.resets()
    server = world.accepts(A)
    after = parent_of(server.heard())
    server.says(answer())
    assert client.heard()
    whole, died, again = recorded[1]
    assert (died.span_id, again.span_id) == (before[1], after[1])
    assert died.attributes["error.type"] == "no_response"
    assert again.attributes["http.request.resend_count"] == 1
    assert (died.attributes["ktcpvs.connection.reused"], again.attributes["ktcpvs.connection.reused"]) == (True, False)
    assert whole.error is None


def test_the_time_in_the_queue_is_an_event(make: Make, recorded: list[list[Span]]) -> None:
    world = make("scheduler = phttp", f"server = {A} 1 maxconn 1", EVERY, "trace = 100%")
    first, second = world.client(), world.client()
    first.says(get())
    server = world.accepts(A)
    second.says(get("/waits"))
    world.passes(3)
    server.says(answer())
    assert first.heard()
    server.says(answer())
    assert second.heard()
    (event,) = recorded[1][0].events
    assert event.name == "ktcpvs.queued"
    assert event.attributes == {"ktcpvs.queue.duration": 3.0}
    assert not recorded[0][0].events


def test_a_response_of_the_switch_itself_is_a_span(make: Make, recorded: list[list[Span]]) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", "trace = 100%", "rule = name no path /no use respond 403",
        f"rule = name strip path /a/ strip_prefix /a use server {A}",
    )  # fmt: skip
    client = world.client()
    client.says(get("/no?sig=secret&x=1"))
    assert client.heard().startswith(b"HTTP/1.1 403 ")
    client.says(get("/nowhere", method="BREW"))
    assert client.heard().startswith(b"HTTP/1.1 503 ")
    ((forbidden,), (refused,)) = recorded
    assert forbidden.error is None
    assert forbidden.attributes["ktcpvs.rule"] == "no"
    assert forbidden.attributes["http.response.status_code"] == 403
    assert forbidden.attributes["url.query"] == "sig=REDACTED&x=1"
    assert refused.error is not None
    assert refused.error.startswith("503: ")
    assert refused.attributes["error.type"] == "503"
    assert (refused.name, refused.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert refused.attributes["http.request.method_original"] == "BREW"


def test_a_client_that_leaves_ends_its_span(make: Make, recorded: list[list[Span]]) -> None:
    world = make(*BASE, "trace = 100%")
    client = world.client()
    client.says(get())
    world.accepts(A)
    client.resets()
    world.settle()
    ((whole, attempt),) = recorded
    assert whole.attributes["error.type"] == "aborted"
    assert whole.error == "client gone"
    assert attempt.ended >= attempt.began


class Lines:
    """An access log in memory."""

    def __init__(self, world: World) -> None:
        self.rows: list[dict[str, Any]] = []
        log: Any = self
        world.live.traffic.access_log.writer = AccessLogWriter(world.context, log, "json", "s", "phttp")
        world.live.apply_settings()

    def write(self, line: bytes) -> None:
        self.rows.append(json.loads(line))


def test_ids_stand_in_templates_and_in_lines_of_json(make: Make, recorded: list[list[Span]]) -> None:
    options = 'request_header = X-Trace "{trace_id}/{span_id}"', 'response_header = X-Trace "{trace_id}"'
    world = make(*BASE, *options, "trace = 100%", settings="trace_limit = 3")
    lines = Lines(world)
    client = world.client()
    ids: list[tuple[str, str]] = []
    server: Peer | None = None
    for request in (get(), get(), get(method="DELETE"), get()):
        client.says(request)
        server = server or world.accepts(A)
        head = server.heard()
        server.says(answer())
        found = re.search(rb"X-Trace: ([0-9a-f]{32})/([0-9a-f]{16})\r\n", head)
        assert found
        assert b"X-Trace: %b\r\n" % found[1] in client.heard()
        ids.append((found[1].decode(), found[2].decode()))
    assert [(row["trace_id"], row["span_id"]) for row in lines.rows] == ids
    assert [(spans[0].trace_id, spans[0].span_id) for spans in recorded] == ids[:3]
    assert [row["status"] for row in lines.rows] == [200] * 4
    assert [row["body_out"] for row in lines.rows] == [5] * 4


def test_without_a_trace_its_variables_are_empty_and_lines_have_no_ids(make: Make) -> None:
    world = make(*BASE, 'request_header = +X-Trace "<{trace_id}>"')
    lines = Lines(world)
    heads = served(world, get("/", SAMPLED), get("/", SAMPLED))
    assert all(b"X-Trace: <>\r\n" in head for head in heads)
    assert [row.keys() & {"trace_id", "span_id"} for row in lines.rows] == [set(), set()]


def test_an_edit_turns_traces_on_and_off(make: Make, recorded: list[list[Span]]) -> None:
    world = make()
    assert served(world, get()) == [get()]
    world.load(*BASE, "trace = 100%")
    client = world.client()
    client.says(get())
    server = next(peer for peer in world.peers if isinstance(peer, Peer) and peer.line.value())
    assert parent_of(server.heard())[2] == "01"
    world.load(*BASE)
    server.says(answer())
    assert client.heard()
    assert len(recorded) == 1
    client.says(get())
    assert server.heard() == get()
    server.says(answer())


def refusal(line: str) -> str:
    with pytest.raises(Refusal) as raised:
        parse(f"Virtual s {{\n{line}\n}}")
    return str(raised.value)


def test_bad_values_are_refused_in_one_line() -> None:
    wanted = "expected off, pass, or the share of requests to record, 0% to 100% (example: 1%)"
    for bad in ("on", "1", "101%", "-1%", "1.23456%", "%"):
        assert refusal(f"trace = {bad}") == f"<text>:2:9: trace = {bad}: {wanted}"
    wanted = "expected the URL of an OpenTelemetry collector (example: http://127.0.0.1:4318)"
    for bad in ("127.0.0.1:4318", "ftp://h", "http://", "http://h:99999", "http://h:0", "http://u@h", "http://h/?a"):
        assert refusal(f"otlp_endpoint = {bad}") == f"<text>:2:17: otlp_endpoint = {bad}: {wanted}"
    for good in ("http://h", "https://h:4318/x/y", "http://[::1]:4318"):
        assert parse(f"Virtual s {{ otlp_endpoint = {good} }}").services["s"].otlp_endpoint == good
    for good in ("off", "pass", "0%", "0.0001%", "12.5%", "100%"):
        assert parse(f"Virtual s {{ trace = {good} }}").services["s"].trace == good


def test_without_opentelemetry_a_share_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    world = make(*BASE, "trace = pass")
    wanted = "service s: trace = 1%: OpenTelemetry's messages are not installed: pip install 'ktcpvs[otel]'"
    assert world.refusal(EditService("s", {"trace": "1%"})) == wanted


def test_without_the_packages_for_tls_https_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    world = make(*BASE, "trace = 1%")
    wanted = "service s: trace = 1%: https needs the packages for TLS: pip install 'ktcpvs[otel,tls]'"
    assert world.refusal(EditService("s", {"otlp_endpoint": "https://h"})) == wanted
