"""The traces of one service's requests: which trace a request belongs to, and whether the switch records it.

Only a trusted proxy decides by its sampled flag that a request is recorded; of all other requests the share decides
that the service names. `trace_limit` bounds both.
"""

from __future__ import annotations

from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.dispatch.traced_request import TracedConnection, TracedRequest, TracingClock
from ktcpvs.model.address import Address
from ktcpvs.model.options import OFF
from ktcpvs.model.service import VirtualService
from ktcpvs.model.tracing import has_spans, sampled_share
from ktcpvs.protocols.trace_context import TraceContext, has_parent, read_trace_context, traceparent
from ktcpvs.system.random_ids import request_ids

SPAN_ID_DIGITS = 16


def new_span_id() -> bytes:
    """Return a random ID of a span."""
    return request_ids.make()[:SPAN_ID_DIGITS]


class RequestTrace:
    """The trace of one request.

    trace_id, span_id: of this request; without a span of the switch, span_id is that of the caller. parent_id: the
    caller's span; b"": the trace begins here. is_recorded: the request gets spans. is_sampled: servers are told that it
    is recorded. state: of the trace. attempt_id: the ID of the span of the attempt at a server that is in progress.
    goes_on: the request's own fields go on to servers as they came.
    """

    __slots__ = ("attempt_id", "goes_on", "is_recorded", "is_sampled", "parent_id", "span_id", "state", "trace_id")

    def __init__(self, found: TraceContext | None) -> None:
        """found: the valid context that the request came with; None: there is none."""
        if found is None:
            self.trace_id, self.parent_id, self.state = request_ids.make(), b"", b""
            self.is_sampled = False
        else:
            self.trace_id, self.parent_id, self.state = found.trace_id, found.span_id, found.state
            self.is_sampled = found.is_sampled
        self.span_id = self.parent_id or new_span_id()
        self.is_recorded = self.goes_on = False
        self.attempt_id = b""

    def lines(self) -> bytes:
        """Return the header lines for a server; a recorded request begins one more attempt with them."""
        span_id = self.span_id
        if self.is_recorded:
            span_id = self.attempt_id = new_span_id()
        parent = traceparent(self.trace_id, span_id, self.is_sampled)
        state = b"tracestate: %b\r\n" % self.state if self.state else b""
        return b"traceparent: %b\r\n%b" % (parent, state)


class ServiceTracing:
    """The traces of the requests of one service, of one version of HTTP. is_on: they have traces."""

    __slots__ = ("_endpoint", "_has_spans", "_ident", "_service", "_threshold", "is_http2", "is_on")

    def __init__(self, service: ServiceContext, is_http2: bool = False) -> None:
        """is_http2: for clients of HTTP/2, whose requests come here as HTTP/1.1."""
        self._service = service
        self._endpoint = self._ident = ""
        self._has_spans = False
        self._threshold = 0
        self.is_http2 = is_http2
        self.is_on = False

    def configure(self, config: VirtualService) -> None:
        """Apply a configuration."""
        self.is_on, self._has_spans = config.trace != OFF, has_spans(config.trace)
        self._ident, self._endpoint = config.ident, config.otlp_endpoint
        self._threshold = int(sampled_share(config.trace) * 16**SPAN_ID_DIGITS)

    def begin(self, lines: bytes, is_trusted: bool) -> RequestTrace:
        """Return the trace of a request. lines: its header lines. is_trusted: they come from a trusted proxy."""
        found = read_trace_context(lines) if has_parent(lines) else None
        trace = RequestTrace(found)
        if not self._has_spans:
            trace.goes_on = found is not None and found.is_state_valid
            return trace
        trace.span_id = new_span_id()
        if found is None or not is_trusted:
            # By an ID of ours: a client chooses that of its trace, and could choose one that is always recorded.
            trace.is_sampled = int(trace.span_id, 16) < self._threshold
            trace.is_recorded = trace.is_sampled = trace.is_sampled and self._service.context.tracer.may_record()
        elif trace.is_sampled:
            # The flag goes on to servers in any case: they record what the proxy does.
            trace.is_recorded = self._service.context.tracer.may_record()
        return trace

    def observe(self, trace: RequestTrace, connection: TracedConnection, age: float) -> TracedRequest:
        """Return what makes the spans of a recorded request. age: the seconds since its head was complete."""
        context = self._service.context
        now, wall = context.reactor.seconds(), context.wall()
        clock = TracingClock(context.reactor.seconds, wall - now, now - age)
        return TracedRequest(trace, connection, self._ident, self.is_http2, clock, self._speaks_tls, self._record)

    def _speaks_tls(self, server: Address) -> bool:
        options = self._service.connection_options.get(server)
        return options is not None and options.tls is not None

    def _record(self, traced: TracedRequest) -> None:
        self._service.context.tracer.record(self._endpoint, traced.spans())
