"""The access log of one service, and the live traces that see its requests."""

from __future__ import annotations

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.dispatch.live_trace_writer import LiveTraceWriter, RequestLog
from ktcpvs.dispatch.request_notes import RequestNotes
from ktcpvs.model.scheduling import Request
from ktcpvs.model.service import NO_LOG, VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.system.access_log_files import AccessLog


class ServiceAccessLog:
    """The access log of one service. writer: notes its requests, for the log and for live traces; None: neither wants
    them."""

    __slots__ = ("_config", "_context", "_is_http2", "_log", "_own", "writer")

    def __init__(self, context: Context, is_http2: bool = False) -> None:
        """is_http2: for clients of HTTP/2."""
        self._context = context
        self._is_http2 = is_http2
        self._config: VirtualService | None = None
        self._log: AccessLog | None = None
        self._own: AccessLogWriter | None = None
        self.writer: RequestLog | None = None

    def configure(self, config: VirtualService) -> None:
        """Write to the log that `config` names from now on. Raises what opening the log raises; then nothing is
        logged."""
        before, self._log, self._own, self.writer = self._log, None, None, None
        self._config = config
        if config.access_log != NO_LOG:
            log = self._log = self._context.access_logs.open(config.access_log)
            form, names = config.access_log_format, (config.ident, config.scheduler_name)
            self._own = AccessLogWriter(self._context, log, form, *names, self._is_http2)
        self.follow_traces()
        if before is not None:
            before.release()

    def follow_traces(self) -> None:
        """Let the live traces of this process see the requests that begin from now on, where they are for them."""
        config = self._config
        if config is None:
            return
        traces, own = self._context.live_traces.of(config.ident), self._own
        self.writer = own
        if traces:
            names = config.ident, config.scheduler_name
            self.writer = LiveTraceWriter(self._context, own, traces, *names, self._is_http2)

    def begin(self, request: Request, moved: tuple[int, int]) -> RequestNotes | None:
        """Return a new entry, as RequestLog makes it; None without a log."""
        return self.writer.begin(request, moved) if self.writer is not None else None

    def release(self) -> None:
        """Release the log after the last connection of a deleted service has ended. Safe to call twice."""
        log, self._log = self._log, None
        if log is not None:
            log.release()
