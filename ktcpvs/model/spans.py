"""Spans of OpenTelemetry: what was done for a request, as plain data."""

from __future__ import annotations

from attrs import define, field

Value = str | int | float | bool
"""The values of attributes."""

SERVER, CLIENT = 2, 3
"""Kinds of spans, as OTLP numbers them: a request that was served, and one that was sent to a server."""

ERROR = 2
"""The status of a span that failed, as OTLP numbers it. Without one the status is unset."""


@define
class SpanEvent:
    """Something that happened at a moment. time: nanoseconds since 1970."""

    name: str
    time: int
    attributes: dict[str, Value] = field(factory=dict)


@define
class Span:
    """A span of OpenTelemetry. name: as people list spans. trace_id, span_id, parent_id: hexadecimal digits; parent_id
    "": it has no parent. state: of the trace; "": none. began, ended: nanoseconds since 1970. error: why it failed, in
    words; None: it did not fail."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    began: int
    ended: int
    attributes: dict[str, Value]
    events: list[SpanEvent] = field(factory=list)
    state: str = ""
    error: str | None = None
