"""A collector of spans for tests: it accepts OTLP over HTTP, and decodes it with OpenTelemetry's own messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from servers import LOOPBACK, wait_for

SERVER, CLIENT = 2, 3
"""Kinds of spans."""


class Collected:
    """A span as it came. resource, attributes: name -> value."""

    def __init__(self, resource: dict[str, Any], span: Any) -> None:
        self.resource = resource
        self.name: str = span.name
        self.kind: int = span.kind
        self.trace_id: str = span.trace_id.hex()
        self.span_id: str = span.span_id.hex()
        self.parent_id: str = span.parent_span_id.hex()
        self.state: str = span.trace_state
        self.error: str | None = span.status.message if span.status.code == 2 else None
        self.attributes = values(span.attributes)
        self.began: int = span.start_time_unix_nano
        self.ended: int = span.end_time_unix_nano

    def __repr__(self) -> str:
        return f"<{self.kind} {self.trace_id} {self.span_id} {self.attributes}>"


def values(pairs: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in pairs}


class Collector:
    """A collector on loopback, from the moment it is made until `stop`. status: of its responses. port: None: a free
    one."""

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self._spans: list[Collected] = []
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_right = (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
                status = collector.status if is_right else 400
                if status == 200:
                    collector.add(ExportTraceServiceRequest.FromString(body))
                response = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)

            def log_message(self, format: str, *values: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.endpoint = f"http://{LOOPBACK}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def add(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            for of in request.resource_spans:
                resource = values(of.resource.attributes)
                self._spans += [Collected(resource, span) for scope in of.scope_spans for span in scope.spans]

    def spans(self) -> list[Collected]:
        """All spans that have come."""
        with self._lock:
            return list(self._spans)

    def wait(self, wanted: Callable[[Collected], bool], count: int) -> list[Collected]:
        """Wait until so many spans have come that are wanted, and return them."""
        found = wait_for(
            lambda: (spans := [span for span in self.spans() if wanted(span)])[count - 1 :] and spans,
            lambda: f"{count} spans among {self.spans()}",
            timeout=20,
        )
        return list(found)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
