"""Access log entries: they collect facts about a request while it is served, and write its line at the end."""

from __future__ import annotations

from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, OwnResponse
from ktcpvs.model.service import NO_LOG, VirtualService
from ktcpvs.protocols import grpc
from ktcpvs.protocols.access_log import FORMATS, HTTP_2, LineFormat, Record, TLSNames
from ktcpvs.protocols.http1.plain import PlainRequest
from ktcpvs.runtime.context import Context
from ktcpvs.system.access_log_files import AccessLog

MAX_SERVERS = 1024
"""The most pairs of a server and a reason whose texts are cached for a log."""


class AccessLogWriter:
    """Writes lines in one form to one log. An entry keeps its writer, so that a line goes where its request began."""

    __slots__ = ("_context", "_form", "_servers", "_write", "is_http2")

    def __init__(
        self, context: Context, log: AccessLog, form: str, service: str, scheduler: str, is_http2: bool = False
    ) -> None:
        """form: a name in FORMATS. service, scheduler: names for the lines. is_http2: they are of clients of HTTP/2,
        whose requests come here as HTTP/1.1."""
        self._context = context
        self._write = log.write
        self._form: LineFormat = FORMATS[form](service, scheduler, is_http2)
        self.is_http2 = is_http2
        self._servers: dict[tuple[Destination, str], tuple[str, str]] = {}

    def start(self) -> tuple[float, float]:
        """Return the time of a request that begins: Unix time, and `now`."""
        return self._context.wall(), self._context.reactor.seconds()

    def begin(
        self,
        client: str,
        tls: TLSNames | None,
        moved: tuple[int, int],
        started: tuple[float, float] | None = None,
    ) -> AccessLogEntry:
        """Return a new entry.

        client: its address. tls: of its connection; None without. moved: bytes from and to the client before the
        request. started: what `start` returned then; None: it begins now.
        """
        began, since = started or self.start()
        return AccessLogEntry(self, Record(client, began, tls=tls), since, moved)

    def now(self) -> float:
        """Seconds by the reactor's monotonic clock."""
        return float(self._context.reactor.seconds())

    def write(self, record: Record) -> None:
        """Write the line of `record`."""
        self._write(self._form.line(record))

    def write_plain(
        self,
        request: PlainRequest,
        client: tuple[str, TLSNames | None],
        started: tuple[float, float],
        status: int,
        choice: Choice,
        moved: tuple[int, int, int],
        trace: tuple[bytes, bytes] | None = None,
    ) -> None:
        """Write the line of a plain request that ends now.

        client: its address, and the TLS of its connection. started: what `start` returned when it began. moved: bytes
        to the server, to the client, and of the body. trace: the IDs of its trace and of its span; None: it has none.
        """
        destination = choice.destination
        key = destination, choice.reason
        server = self._servers.get(key)
        if server is None:
            if len(self._servers) >= MAX_SERVERS:
                self._servers.clear()
            server = self._servers[key] = str(destination.address), choice.reason
        began, since = started
        total = self._context.reactor.seconds() - since
        line = self._form.plain_line(request, client, began, total, status, server, moved)
        self._write(line if trace is None else self._form.traced(line, *trace))


class ServiceAccessLog:
    """The access log of one service. writer: None without one."""

    __slots__ = ("_context", "_is_http2", "_log", "writer")

    def __init__(self, context: Context, is_http2: bool = False) -> None:
        """is_http2: for clients of HTTP/2."""
        self._context = context
        self._is_http2 = is_http2
        self._log: AccessLog | None = None
        self.writer: AccessLogWriter | None = None

    def configure(self, config: VirtualService) -> None:
        """Write to the log that `config` names from now on. Raises what opening the log raises; then nothing is
        logged."""
        before, self._log, self.writer = self._log, None, None
        if config.access_log != NO_LOG:
            log = self._log = self._context.access_logs.open(config.access_log)
            form, names = config.access_log_format, (config.ident, config.scheduler_name)
            self.writer = AccessLogWriter(self._context, log, form, *names, self._is_http2)
        if before is not None:
            before.release()

    def begin(self, client: str, tls: TLSNames | None, moved: tuple[int, int]) -> AccessLogEntry | None:
        """Return a new entry, as AccessLogWriter makes it; None without a log."""
        return self.writer.begin(client, tls, moved) if self.writer is not None else None

    def release(self) -> None:
        """Release the log after the last connection of a deleted service has ended. Safe to call twice."""
        log, self._log = self._log, None
        if log is not None:
            log.release()


class AccessLogEntry:
    """The notes about one request, or about one connection that is relayed as a whole."""

    __slots__ = ("_head_out", "_log", "_moved", "_since", "record")

    def __init__(self, log: AccessLogWriter, record: Record, since: float, moved: tuple[int, int]) -> None:
        self.record = record
        self._log = log
        self._since = since
        self._moved = moved
        self._head_out = 0

    def head_complete(self, method: bytes, target: bytes, minor: int, lines: bytes) -> None:
        """Note the request. minor: 1 for HTTP/1.1, 0 for HTTP/1.0. lines: its header lines."""
        record = self.record
        record.method, record.target, record.lines = method, target, lines
        record.minor = HTTP_2 if self._log.is_http2 else minor

    def trace_begun(self, trace_id: bytes, span_id: bytes) -> None:
        """Note the IDs of the request's trace and of its span."""
        self.record.trace = trace_id, span_id

    def queued(self) -> None:
        """Note nothing: lines do not tell how long a request has waited for a server."""

    def server_chosen(self, choice: Choice) -> None:
        self.record.server, self.record.reason = str(choice.destination.address), choice.reason

    def client_found(self, client: str) -> None:
        """Note the address of the client, if it is not that of the connection."""
        self.record.client = client

    def response_chosen(self, response: OwnResponse) -> None:
        """Note that a rule responds in place of a server."""
        self.record.server, self.record.reason = None, response.reason

    def connected(self, is_reused: bool) -> None:
        """Note when a server connection was available, and whether it was a kept one."""
        self.record.connect = 0.0 if is_reused else self._log.now() - self._since
        self.record.reused = is_reused

    def retried(self) -> None:
        """Note that a server failed and the request is sent again."""
        self.record.retries += 1

    def server_failed(self, destination: Destination, reason: str) -> None:
        """Note why a server has failed the request. reason: in words."""
        self.record.error = f"{destination.address}: {reason}"

    def response_begun(self, status: int, head_size: int) -> None:
        """Note the response's first byte. head_size: bytes."""
        self.record.first = self._log.now() - self._since
        self.record.status = status
        self._head_out = head_size

    def response_ended(self, head: bytes, trailers: bytes) -> None:
        """Note the status of gRPC, where the response to a request of gRPC has one. head, trailers: of the response."""
        if grpc.is_grpc(self.record.lines):
            status = grpc.read_status(trailers)
            self.record.grpc_status = grpc.read_status(head) if status is None else status

    def refused(self, status: int, response: bytes) -> None:
        """Note a response of the switch itself, whose bytes are in no other count."""
        self.record.status = status
        self.response_ended(response, b"")
        self.record.bytes_out = len(response)
        self._head_out = response.find(b"\r\n\r\n") + 4

    def end(self, moved: tuple[int, int], ending: str) -> None:
        """Write the line. moved: bytes from and to the client until now. ending: the reason of the end."""
        record = self.record
        record.total = self._log.now() - self._since
        record.bytes_in += moved[0] - self._moved[0]
        record.bytes_out += moved[1] - self._moved[1]
        record.body_out = max(record.bytes_out - self._head_out, 0)
        record.ending = ending
        self._log.write(record)
