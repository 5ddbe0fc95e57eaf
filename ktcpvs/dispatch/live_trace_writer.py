"""Notes requests for live traces: as the access log does, with each attempt at a server and the time in the queue.

It takes the place of the access log's writer while there is a trace, and passes everything on to it. So a service
without a trace has nothing to ask.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve

from ktcpvs.dispatch.access_log import AccessLogEntry, AccessLogWriter, tls_of
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request
from ktcpvs.protocols.access_log import JSONFormat, Record
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.live_traces import LiveTrace

MAX_ENTRY_BYTES = 16384
"""The longest entry; a longer one has only the beginning of its target, and no header fields."""

MAX_TARGET_BYTES = 1000
"""The part of a target that such an entry has."""

MAX_ATTEMPTS = 32
"""The most attempts at servers that an entry has."""

NO_RESPONSE = "no response"
"""The reason why an attempt has failed of which nothing more is known."""

Attempt = dict[str, Any]
"""server, and failure: why it has failed; None: it has not."""


class LiveTraceWriter:
    """Notes the requests of one service for its live traces, and for its access log. Has the methods of
    AccessLogWriter."""

    __slots__ = ("_context", "_form", "_own", "_traces", "is_http2")

    def __init__(
        self,
        context: Context,
        own: AccessLogWriter | None,
        traces: tuple[LiveTrace, ...],
        service: str,
        scheduler: str,
        is_http2: bool = False,
    ) -> None:
        """own: of the access log; None: the service has none. service, scheduler: names for the entries."""
        self._context = context
        self._own = own
        self._traces = traces
        self._form = JSONFormat(service, scheduler, is_http2)
        self.is_http2 = is_http2

    def start(self) -> tuple[float, float]:
        """Return the time of a request that begins: Unix time, and `now`."""
        return self._context.wall(), self.now()

    def now(self) -> float:
        """Seconds by the reactor's monotonic clock."""
        return float(self._context.reactor.seconds())

    def begin(
        self, request: Request, moved: tuple[int, int], started: tuple[float, float] | None = None
    ) -> LiveTraceEntry:
        """Return a new entry; arguments as those of AccessLogWriter."""
        began, since = started or self.start()
        return LiveTraceEntry(self, request, Record(request.client, began, tls=tls_of(request)), since, moved)

    def write(self, record: Record) -> None:
        """Write the line of a request to the access log, where there is one."""
        if self._own is not None:
            self._own.write(record)

    def matching(self, request: Request) -> tuple[LiveTrace, ...]:
        """Return the traces whose conditions a request meets."""
        return tuple([trace for trace in self._traces if not trace.buffer.ended and trace.matches(request)])

    def show(self, record: Record, traces: tuple[LiveTrace, ...], queue: float, attempts: list[Attempt]) -> None:
        """Give these traces the entry of a request that has ended. queue: the seconds that it has waited."""
        if not traces:
            return
        entry = self._entry(record, queue, attempts)
        if len(entry) > MAX_ENTRY_BYTES:
            target = None if record.target is None else record.target[:MAX_TARGET_BYTES]
            entry = self._entry(evolve(record, target=target, lines=b""), queue, attempts)
        for trace in traces:
            trace.buffer.add(entry)

    def _entry(self, record: Record, queue: float, attempts: list[Attempt]) -> bytes:
        tried = json.dumps(attempts).encode("ascii")
        return b'%b, "queue": %.6f, "attempts": %b}\n' % (self._form.line(record)[:-2], queue, tried)

    def write_ended(self, request: Request, record: Record) -> None:
        """Note a plain request that has ended; arguments as those of AccessLogWriter."""
        self.write(record)
        self.show(record, self.matching(request), 0.0, [{"server": record.server, "failure": None}])


RequestLog = AccessLogWriter | LiveTraceWriter
"""Notes the requests of a service: AccessLogWriter describes the methods."""


class LiveTraceEntry(AccessLogEntry):
    """The notes about one request, for live traces and for the access log."""

    __slots__ = ("_attempts", "_matching", "_queue", "_queued_since", "_request", "_writer")

    def __init__(
        self, writer: LiveTraceWriter, request: Request, record: Record, since: float, moved: tuple[int, int]
    ) -> None:
        super().__init__(writer, record, since, moved)
        self._writer = writer
        self._request = request
        self._matching: tuple[LiveTrace, ...] | None = None  # None: no request is known yet
        self._attempts: list[Attempt] = []
        self._queue = 0.0
        self._queued_since: float | None = None

    def head_complete(self, method: bytes, target: bytes, minor: int, lines: bytes) -> None:
        super().head_complete(method, target, minor, lines)
        self._matching = self._writer.matching(self._request)

    def queued(self) -> None:
        if self._queued_since is None:
            self._queued_since = self._writer.now()

    def _end_queue(self) -> None:
        if self._queued_since is not None:
            self._queue += self._writer.now() - self._queued_since
            self._queued_since = None

    def _begin_attempt(self, server: str) -> None:
        if len(self._attempts) < MAX_ATTEMPTS:
            self._attempts.append({"server": server, "failure": None})

    def server_chosen(self, choice: Choice) -> None:
        super().server_chosen(choice)
        self._end_queue()
        self._begin_attempt(str(choice.destination.address))

    def connected(self, is_reused: bool) -> None:
        super().connected(is_reused)
        if self._attempts and self._attempts[-1]["failure"] is not None:  # the same server, on a new connection
            self._begin_attempt(self._attempts[-1]["server"])

    def retried(self) -> None:
        super().retried()
        if self._attempts and self._attempts[-1]["failure"] is None:
            self._attempts[-1]["failure"] = NO_RESPONSE

    def server_failed(self, destination: Destination, reason: str) -> None:
        super().server_failed(destination, reason)
        if self._attempts:
            self._attempts[-1]["failure"] = reason

    def end(self, moved: tuple[int, int], ending: str) -> None:
        super().end(moved, ending)
        self._end_queue()
        matching = self._matching
        if matching is None:
            known = self._request
            bare = Request(known.client, server_name=known.server_name, connection=known.connection)
            matching = self._writer.matching(bare)
        self._writer.show(self.record, matching, self._queue, self._attempts)
