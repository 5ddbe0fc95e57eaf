"""Spans in the form of OTLP, by the messages that OpenTelemetry publishes (the extra `ktcpvs[otel]`).

Each span is encoded when its request ends. A batch joins encoded spans, which is quick: repeated fields of protobuf
messages that follow each other are one field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from ktcpvs.model.spans import ERROR, Span, Value

TRACES_PATH = "/v1/traces"
"""The path at which a collector accepts spans (OTLP specification, "OTLP/HTTP request")."""

CONTENT_TYPE = b"application/x-protobuf"

SCOPE = "ktcpvs"
"""The name of the instrumentation scope."""


class OTLPEncoder:
    """Encodes spans."""

    def __init__(self, resource: Mapping[str, Value], version: str) -> None:
        """resource: attributes of this process. version: of the program."""
        self._version = version
        self._common = import_module("opentelemetry.proto.common.v1.common_pb2")
        self._trace = import_module("opentelemetry.proto.trace.v1.trace_pb2")
        self._service = import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        resources = import_module("opentelemetry.proto.resource.v1.resource_pb2")
        self._resource: Any = resources.Resource(attributes=self._pairs(resource))

    def _pairs(self, attributes: Mapping[str, Value]) -> list[Any]:
        key_value, any_value = self._common.KeyValue, self._common.AnyValue
        made = []
        for name, value in attributes.items():
            if isinstance(value, str):
                found = any_value(string_value=value)
            elif isinstance(value, bool):
                found = any_value(bool_value=value)
            elif isinstance(value, int):
                found = any_value(int_value=value)
            else:
                found = any_value(double_value=value)
            made.append(key_value(key=name, value=found))
        return made

    def span(self, span: Span) -> bytes:
        """Return a span, for `batch`."""
        trace = self._trace
        message = trace.Span(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.span_id),
            parent_span_id=bytes.fromhex(span.parent_id),
            trace_state=span.state,
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=span.began,
            end_time_unix_nano=max(span.ended, span.began),
            attributes=self._pairs(span.attributes),
            events=[
                trace.Span.Event(name=one.name, time_unix_nano=one.time, attributes=self._pairs(one.attributes))
                for one in span.events
            ],
            status=None if span.error is None else trace.Status(code=ERROR, message=span.error),
        )
        encoded: bytes = trace.ScopeSpans(spans=[message]).SerializeToString()
        return encoded

    def batch(self, spans: Iterable[bytes]) -> bytes:
        """Return the request that exports spans, each as `span` returned it."""
        scope = self._trace.ScopeSpans(scope=self._common.InstrumentationScope(name=SCOPE, version=self._version))
        scope.MergeFromString(b"".join(spans))
        resource = self._trace.ResourceSpans(resource=self._resource, scope_spans=[scope])
        encoded: bytes = self._service.ExportTraceServiceRequest(resource_spans=[resource]).SerializeToString()
        return encoded

    def rejected(self, body: bytes) -> int:
        """Return how many spans a collector has rejected. body: of its response."""
        try:
            response = self._service.ExportTraceServiceResponse.FromString(body)
        except Exception:  # DecodeError, of which each implementation of protobuf has its own
            return 0
        return int(response.partial_success.rejected_spans)


@cache
def encoder(resource: tuple[tuple[str, Value], ...], version: str) -> OTLPEncoder:
    """Return the encoder of this process, which is made once. Arguments as for OTLPEncoder."""
    return OTLPEncoder(dict(resource), version)
