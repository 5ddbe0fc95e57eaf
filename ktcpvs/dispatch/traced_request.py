"""A recorded request: it notes what happens to the request, and makes its spans at the end.

The span of the request is of the kind SERVER. Each attempt at a server is a span below it, of the kind CLIENT, whose
ID the server gets as its parent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attrs import define, frozen

from ktcpvs.dispatch.request_notes import ChainedNotes, RequestNotes
from ktcpvs.model.address import Address
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, ModifiedChoice, OwnResponse
from ktcpvs.model.spans import CLIENT, SERVER, Span, SpanEvent, Value
from ktcpvs.protocols import grpc
from ktcpvs.protocols import http_semantics as semantics
from ktcpvs.system.random_ids import request_ids

NO_CONNECTION, NO_RESPONSE, ABORTED = "connect_failed", "no_response", "aborted"
"""Values of `error.type` where no status says what has failed: an attempt without a connection or without a response,
and a request whose client has not got the whole response."""

ANSWERED = "answered"
"""The ending of a request whose response was sent as a whole."""


class TraceIDs(Protocol):
    """The part of a request's trace that its spans use. L{ktcpvs.dispatch.tracing.RequestTrace} has its meaning."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    state: bytes
    attempt_id: bytes


@frozen
class TracedConnection:
    """The client connection of a recorded request. client: the address of the client, without a port; "": a unix
    socket. peer: the address of the connection, with its port. scheme: http or https."""

    client: str
    peer: str
    scheme: str


@frozen
class TracingClock:
    """The clock of the spans of one request. now: returns monotonic seconds. epoch: the Unix time of their zero. began:
    those when the request began."""

    now: Callable[[], float]
    epoch: float
    began: float


@define
class _Attempt:
    """One attempt at a server. scheme: http or https. began, ended: monotonic seconds; ended None: in progress. status:
    of the response; None: none. failure: why it has failed; None: it has not."""

    server: str
    scheme: str
    began: float
    number: int
    span_id: bytes = b""
    ended: float | None = None
    is_connected: bool = False
    is_reused: bool = False
    status: int | None = None
    failure: str | None = None


class TracedRequest(ChainedNotes):
    """The notes of one recorded request."""

    def __init__(
        self,
        trace: TraceIDs,
        connection: TracedConnection,
        ident: str,
        is_http2: bool,
        clock: TracingClock,
        speaks_tls: Callable[[Address], bool],
        done: Callable[[TracedRequest], object],
    ) -> None:
        """ident: of the service. speaks_tls: returns whether the server at an address is reached over TLS.
        done: called at the end."""
        super().__init__(None)
        self._trace = trace
        self._connection = connection
        self._is_http2 = is_http2
        self._began = clock.began
        self._epoch = clock.epoch
        self._now = clock.now
        self._speaks_tls = speaks_tls
        self._done = done
        self._method, self._target, self._minor, self._lines = b"", b"", 1, b""
        self._attributes: dict[str, Value] = {"ktcpvs.service": ident}
        self._attempts: list[_Attempt] = []
        self._events: list[SpanEvent] = []
        self._queued_since: float | None = None
        self._status: int | None = None
        self._grpc_status: int | None = None
        self._ending = ""

    def also(self, entry: RequestNotes | None) -> TracedRequest:
        """Tell an access log entry everything too; None: there is none."""
        self._entry = entry
        return self

    # What is noted.

    def head_complete(self, method: bytes, target: bytes, minor: int, lines: bytes) -> None:
        self._method, self._target, self._lines = method, target, lines
        self._minor = 2 if self._is_http2 else minor
        super().head_complete(method, target, minor, lines)

    def queued(self) -> None:
        if self._queued_since is None:
            self._queued_since = self._now()
        super().queued()

    def server_chosen(self, choice: Choice) -> None:
        self._end_queue()
        self._end_attempt()
        if isinstance(choice, ModifiedChoice) and choice.rule:
            self._attributes["ktcpvs.rule"] = choice.rule
        self._attributes["ktcpvs.server"] = str(choice.destination.address)
        self._attributes["ktcpvs.reason"] = choice.reason
        scheme = "https" if self._speaks_tls(choice.destination.address) else "http"
        self._begin_attempt(str(choice.destination.address), scheme)
        super().server_chosen(choice)

    def response_chosen(self, response: OwnResponse) -> None:
        self._end_queue()
        if response.rule:
            self._attributes["ktcpvs.rule"] = response.rule
        self._attributes["ktcpvs.reason"] = response.reason
        super().response_chosen(response)

    def connected(self, is_reused: bool) -> None:
        if self._attempts:
            if self._attempts[-1].ended is not None:  # the same server again, on a new connection
                self._begin_attempt(self._attempts[-1].server, self._attempts[-1].scheme)
            self._attempts[-1].is_connected, self._attempts[-1].is_reused = True, is_reused
        super().connected(is_reused)

    def retried(self) -> None:
        self._end_attempt(NO_RESPONSE)
        super().retried()

    def server_failed(self, destination: Destination, reason: str) -> None:
        if self._attempts:
            self._attempts[-1].failure = reason
        super().server_failed(destination, reason)

    def response_begun(self, status: int, head_size: int) -> None:
        self._status = status
        if self._attempts:
            self._attempts[-1].status = status
        super().response_begun(status, head_size)

    def response_ended(self, head: bytes, trailers: bytes) -> None:
        self._note_grpc(head, trailers)
        super().response_ended(head, trailers)

    def refused(self, status: int, response: bytes) -> None:
        self._status = status
        self._note_grpc(response, b"")
        super().refused(status, response)

    def end(self, moved: tuple[int, int], ending: str) -> None:
        self._ending = ending
        self._end_queue()
        self._end_attempt()
        self._done(self)
        super().end(moved, ending)

    # Attempts and events.

    def _begin_attempt(self, server: str, scheme: str) -> None:
        self._attempts.append(_Attempt(server, scheme, self._now(), len(self._attempts)))

    def _end_attempt(self, failure: str | None = None) -> None:
        """End the attempt that is in progress. failure: why it has failed."""
        if self._attempts and self._attempts[-1].ended is None:
            attempt = self._attempts[-1]
            attempt.ended, attempt.failure = self._now(), attempt.failure or failure
            attempt.span_id, self._trace.attempt_id = self._trace.attempt_id or request_ids.make()[:16], b""

    def _end_queue(self) -> None:
        if self._queued_since is not None:
            waited, at = self._now() - self._queued_since, self._nanoseconds(self._queued_since)
            self._events.append(SpanEvent("ktcpvs.queued", at, {"ktcpvs.queue.duration": waited}))
            self._queued_since = None

    def _note_grpc(self, head: bytes, trailers: bytes) -> None:
        if grpc.is_grpc(self._lines):
            status = grpc.read_status(trailers)
            self._grpc_status = grpc.read_status(head) if status is None else status

    def _nanoseconds(self, seconds: float) -> int:
        return int((self._epoch + seconds) * 1_000_000_000)

    # The spans.

    def spans(self) -> list[Span]:
        """Return the span of the request, and behind it those of its attempts."""
        trace, connection = self._trace, self._connection
        attributes = semantics.of_request(self._method, self._target, self._minor, self._lines, connection.scheme)
        attributes |= semantics.of_peer(connection.peer)
        if connection.client:
            attributes["client.address"] = connection.client
        attributes |= self._attributes
        error = self._error()
        if self._status is not None:
            attributes["http.response.status_code"] = self._status
        if self._grpc_status is not None:
            attributes |= {"rpc.system": "grpc", "rpc.grpc.status_code": self._grpc_status}
        if error is not None:
            attributes["error.type"] = str(self._status) if (self._status or 0) >= 500 else ABORTED
        trace_id, span_id = trace.trace_id.decode("ascii"), trace.span_id.decode("ascii")
        state = trace.state.decode("ascii")
        parent = trace.parent_id.decode("ascii")
        name = semantics.span_name(self._method)
        began, ended = self._nanoseconds(self._began), self._nanoseconds(self._now())
        whole = Span(name, SERVER, trace_id, span_id, parent, began, ended, attributes, self._events, state, error)
        return [whole, *(self._span_of(attempt, name, trace_id, span_id, state) for attempt in self._attempts)]

    def _error(self) -> str | None:
        """Return why the request has failed, in words; None: it has not."""
        if self._ending != ANSWERED and self._status is None:
            return self._ending or ABORTED
        if (self._status or 0) >= 500:
            return "" if self._ending == ANSWERED else self._ending
        is_own = self._ending.startswith(f"{self._status}:")  # a response of the switch itself, which is whole
        return None if self._ending == ANSWERED or is_own else self._ending or None

    def _span_of(self, attempt: _Attempt, name: str, trace_id: str, parent: str, state: str) -> Span:
        began, ended = self._nanoseconds(attempt.began), self._nanoseconds(attempt.ended or attempt.began)
        host, port = semantics.split_authority(attempt.server)
        attributes: dict[str, Value] = {
            **semantics.of_method(self._method),
            "url.full": semantics.url_of(attempt.server, attempt.scheme, self._target),
            "server.address": host,
            "ktcpvs.server": attempt.server,
            "ktcpvs.connection.reused": attempt.is_reused,
        }
        if port is not None:
            attributes["server.port"] = port
        if attempt.is_connected:
            attributes |= semantics.of_peer(attempt.server)
        if attempt.number:
            attributes["http.request.resend_count"] = attempt.number
        error = attempt.failure
        if attempt.status is not None:
            attributes["http.response.status_code"] = attempt.status
            error = "" if error is None and attempt.status >= 400 else error
        if error is not None:
            without_status = NO_RESPONSE if attempt.is_connected else NO_CONNECTION
            attributes["error.type"] = str(attempt.status) if attempt.status is not None else without_status
        span_id = attempt.span_id.decode("ascii")
        return Span(name, CLIENT, trace_id, span_id, parent, began, ended, attributes, [], state, error)
