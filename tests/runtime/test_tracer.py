"""The spans of a process on their way to a collector: batches, retries, limits of the queue, the end."""

from __future__ import annotations

from typing import Any

import pytest
from memory import log_into
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ktcpvs import __version__
from ktcpvs.model.settings import Settings
from ktcpvs.model.spans import CLIENT, SERVER, Span, SpanEvent
from ktcpvs.runtime.tracer import FLUSH_TIMEOUT, MAX_BATCH_SPANS, UNUSED_TIMEOUT, Tracer
from ktcpvs.system.otlp_exporter import SendResult

URL = "http://127.0.0.1:4318"
SENT = SendResult(True)
DOWN = SendResult(False, is_retryable=True, reason="Connection refused")


class Exporter:
    """A collector that responds when a test says so. batches: what it has got."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.batches: list[ExportTraceServiceRequest] = []
        self.waiting: list[Deferred[SendResult]] = []
        self.is_closed = False

    def send(self, batch: bytes) -> Deferred[SendResult]:
        self.batches.append(ExportTraceServiceRequest.FromString(batch))
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def responds(self, result: SendResult = SENT) -> None:
        self.waiting.pop(0).callback(result)

    def names(self) -> list[list[str]]:
        """The names of the spans of each batch."""
        return [
            [span.name for of in batch.resource_spans for scope in of.scope_spans for span in scope.spans]
            for batch in self.batches
        ]

    def close(self) -> None:
        self.is_closed = True


def span(name: str = "GET", **others: Any) -> Span:
    values: dict[str, Any] = {
        "kind": SERVER,
        "parent_id": "",
        "attributes": {"text": "a", "number": 7, "is": True, "part": 0.5},
        "events": [SpanEvent("queued", 15, {"seconds": 1.5})],
    }
    return Span(name=name, trace_id="ab" * 16, span_id="cd" * 8, began=10, ended=20, **{**values, **others})


class Traces:
    """A tracer with a clock, and its collector. lines: of the log."""

    def __init__(self, **settings: int) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        self.exporter = Exporter(URL)
        make: Any = lambda endpoint: self.exporter  # noqa: E731
        self.tracer = Tracer(self.clock, log_into(self.lines), lambda: "node-a", make)
        self.tracer.configure(Settings(**settings))

    def record(self, *names: str) -> None:
        self.tracer.record(URL, [span(name) for name in names])

    def passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.tracer.tick()


def test_spans_are_sent_in_the_form_of_otlp() -> None:
    traces = Traces(trace_interval=1)
    traces.tracer.record(URL, [span(), span("GET", kind=CLIENT, parent_id="ef" * 8, state="a=1", error="refused")])
    traces.passes(1)
    (batch,) = traces.exporter.batches
    (of,) = batch.resource_spans
    resource = {one.key: one.value.string_value for one in of.resource.attributes}
    assert resource["service.name"] == "ktcpvs"
    assert resource["service.version"] == __version__
    assert resource["service.instance.id"].startswith("node-a:")
    (scope,) = of.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("ktcpvs", __version__)
    whole, attempt = scope.spans
    assert (whole.trace_id.hex(), whole.span_id.hex(), whole.parent_span_id) == ("ab" * 16, "cd" * 8, b"")
    assert (whole.kind, whole.start_time_unix_nano, whole.end_time_unix_nano) == (2, 10, 20)
    assert (attempt.kind, attempt.parent_span_id.hex(), attempt.trace_state) == (3, "ef" * 8, "a=1")
    assert (whole.status.code, attempt.status.code, attempt.status.message) == (0, 2, "refused")
    values = {one.key: one.value for one in whole.attributes}
    assert (values["text"].string_value, values["number"].int_value) == ("a", 7)
    assert (values["is"].bool_value, values["part"].double_value) == (True, 0.5)
    (event,) = whole.events
    assert (event.name, event.time_unix_nano) == ("queued", 15)


def test_batches_follow_each_other_in_their_interval() -> None:
    traces = Traces(trace_interval=3)
    traces.passes(10)
    traces.record("a")
    traces.passes(1)
    traces.record("b")
    traces.passes(5)
    assert traces.exporter.names() == [["a"]]  # b waits for the response
    traces.exporter.responds()
    traces.passes(1)
    assert traces.exporter.names() == [["a"], ["b"]]
    traces.exporter.responds()
    assert traces.tracer.describe() == {
        "sent": 2, "rejected": 0, "queue_full": 0, "lost": 0, "limited": 0, "failures": 0, "queued": 0,
    }  # fmt: skip


def test_many_spans_do_not_wait_for_the_interval() -> None:
    traces = Traces(trace_interval=60)
    traces.passes(70)
    traces.record("first")
    traces.passes(1)
    traces.exporter.responds()
    traces.record(*["x"] * (MAX_BATCH_SPANS + 1))
    traces.passes(1)
    assert [len(names) for names in traces.exporter.names()] == [1, MAX_BATCH_SPANS]


def test_a_collector_that_is_down_gets_the_batch_later_and_the_queue_ends() -> None:
    traces = Traces(trace_interval=1, trace_queue=64)
    traces.record("a")
    for _ in range(20):
        traces.passes(70)  # longer than each delay
        traces.exporter.responds(DOWN)
    assert traces.exporter.names() == [["a"]] * 20
    traces.record(*["b"] * 64)
    assert traces.tracer.counts.queue_full == 1
    assert traces.tracer.queued == 64
    traces.passes(70)
    traces.exporter.responds()
    assert traces.tracer.queued == 0
    assert (traces.tracer.counts.sent, traces.tracer.counts.failures) == (64, 20)
    assert traces.lines == [f"traces: {URL}: Connection refused"]


def test_the_memory_of_all_queues_is_bounded() -> None:
    traces = Traces(trace_interval=1, trace_memory=64)
    long = span("x" * 10_000)
    traces.tracer.record(URL, [long] * 4)
    traces.tracer.record("http://127.0.0.2:4318", [long] * 4)
    assert (traces.tracer.queued, traces.tracer.counts.queue_full) == (6, 2)
    traces.record("short")
    assert traces.tracer.queued == 7, "what fits is queued"
    traces.passes(1)
    traces.exporter.responds()
    traces.exporter.responds()
    assert traces.tracer.queued == 0
    traces.tracer.record(URL, [long] * 7)
    assert traces.tracer.queued == 6, "what was sent takes no memory"


@pytest.mark.parametrize("result", [SENT, DOWN], ids=["sent", "down"])
def test_a_collector_that_no_service_names_any_more_is_given_up(result: SendResult) -> None:
    traces = Traces(trace_interval=1)
    traces.record("a")
    for _ in range(int(UNUSED_TIMEOUT) + 120):
        traces.passes(1)
        if traces.exporter.waiting:
            traces.exporter.responds(result)
    assert traces.exporter.is_closed
    assert traces.tracer.queued == 0
    assert traces.tracer.counts.lost == (result is DOWN)


@pytest.mark.parametrize("after", [0, 30])
def test_the_delay_between_two_attempts_grows(after: int) -> None:
    traces = Traces(trace_interval=1)
    traces.record("a")
    waits = []
    for _ in range(9):
        waited = 0
        while not traces.exporter.waiting:
            traces.passes(1)
            waited += 1
        waits.append(waited)
        traces.exporter.responds(SendResult(False, is_retryable=True, reason="status 503", retry_after=after))
    assert waits[1] == max(after, 1)
    assert all(max(after, 30) <= wait <= 61 for wait in waits[-2:])


def test_a_collector_that_responds_late_is_not_asked_again_at_once() -> None:
    traces = Traces(trace_interval=1)
    traces.record("a")
    traces.passes(1)
    traces.passes(9)
    traces.exporter.responds(SendResult(False, is_retryable=True, reason="status 503", retry_after=5))
    traces.passes(4)
    assert len(traces.exporter.batches) == 1
    traces.passes(1)
    assert len(traces.exporter.batches) == 2


def test_a_batch_that_the_collector_refuses_is_gone() -> None:
    traces = Traces(trace_interval=1)
    traces.record("a", "b")
    traces.passes(1)
    traces.exporter.responds(SendResult(False, reason="status 400"))
    traces.record("c", "d", "e")
    traces.passes(1)
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 2
    traces.exporter.responds(SendResult(True, body=response.SerializeToString()))
    assert traces.exporter.names() == [["a", "b"], ["c", "d", "e"]]
    assert (traces.tracer.counts.sent, traces.tracer.counts.rejected) == (1, 4)


def test_at_the_end_all_is_sent() -> None:
    traces = Traces(trace_interval=60)
    traces.record("a")
    traces.passes(60)
    traces.record(*["x"] * 600)
    ended: list[None] = []
    traces.tracer.flush().addCallback(ended.append)
    for _ in range(3):
        assert not ended
        traces.exporter.responds()
    assert ended == [None]
    assert [len(names) for names in traces.exporter.names()] == [1, MAX_BATCH_SPANS, 600 - MAX_BATCH_SPANS]
    assert not traces.clock.getDelayedCalls()
    traces.tracer.close()
    assert traces.exporter.is_closed


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "down"])
def test_the_end_does_not_wait_for_a_collector_for_long(is_silent: bool) -> None:
    traces = Traces()
    traces.record("a", "b")
    ended: list[None] = []
    traces.tracer.flush().addCallback(ended.append)
    if is_silent:
        traces.clock.advance(FLUSH_TIMEOUT)
    else:
        traces.exporter.responds(DOWN)
    assert ended == [None]
    assert traces.tracer.counts.lost == 2
    assert traces.lines[-1] == "traces: 2 spans are lost, which no collector has accepted"
