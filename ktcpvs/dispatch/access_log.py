"""Access log entries: they collect facts about a request while it is served, and write its line at the end."""

from __future__ import annotations

from typing import Any, Protocol

from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, OwnResponse, Request
from ktcpvs.protocols import grpc
from ktcpvs.protocols.access_log import FORMATS, HTTP_2, LineFormat, Record, TLSNames
from ktcpvs.protocols.http1.plain import PlainRequest
from ktcpvs.runtime.context import Context
from ktcpvs.system.access_log_files import AccessLog

MAX_SERVERS = 1024
"""The most servers with a reason whose texts are cached for a log."""


class EntryLog(Protocol):
    """The log of an entry. is_http2: its requests are of clients of HTTP/2."""

    is_http2: bool

    def now(self) -> float:
        """Seconds by the reactor's monotonic clock."""

    def write(self, record: Record) -> None:
        """Write the line of `record`."""


def tls_of(request: Request) -> TLSNames | None:
    """Return the TLS of a client's connection; None without."""
    tls: Any = request.connection.tls if request.connection is not None else None
    found: TLSNames | None = tls
    return found


def plain_record(
    log: EntryLog,
    plain: PlainRequest,
    request: Request,
    started: tuple[float, float],
    status: int,
    choice: Choice,
    moved: tuple[int, int, int],
    trace: tuple[bytes, bytes] | None,
) -> Record:
    """Return the record of a plain request that ends now, with the values that its line has.

    log: of its lines. request: has the client. trace: the IDs of its trace and of its span; None: it has none. The
    other arguments are those of `AccessLogWriter.write_plain`.
    """
    total = log.now() - started[1]
    return Record(
        request.client,
        started[0],
        plain.method,
        plain.target,
        HTTP_2 if log.is_http2 else plain.minor,
        plain.lines,
        status,
        str(choice.destination.address),
        choice.reason,
        choice.why,
        0.0,
        total,
        total,
        *moved,
        reused=True,
        ending="answered",
        tls=tls_of(request),
        trace=trace,
    )


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
        self._servers: dict[tuple[Destination, str, str], tuple[str, str, str]] = {}

    def start(self) -> tuple[float, float]:
        """Return the time of a request that begins: Unix time, and `now`."""
        return self._context.wall(), self._context.reactor.seconds()

    def begin(
        self, request: Request, moved: tuple[int, int], started: tuple[float, float] | None = None
    ) -> AccessLogEntry:
        """Return a new entry.

        request: has the client. moved: bytes from and to the client before the request. started: what `start` returned
        then; None: it begins now.
        """
        began, since = started or self.start()
        return AccessLogEntry(self, Record(request.client, began, tls=tls_of(request)), since, moved)

    def now(self) -> float:
        """Seconds by the reactor's monotonic clock."""
        return float(self._context.reactor.seconds())

    def write(self, record: Record) -> None:
        """Write the line of `record`."""
        self._write(self._form.line(record))

    def write_plain(
        self,
        plain: PlainRequest,
        client: tuple[str, TLSNames | None],
        started: tuple[float, float],
        status: int,
        choice: Choice,
        moved: tuple[int, int, int],
    ) -> None:
        """Write the line of a plain request that ends now.

        client: its host, and the TLS of its connection; None without. started: what `start` returned when it began.
        moved: bytes to the server, to the client, and of the body.
        """
        destination = choice.destination
        key = destination, choice.reason, choice.why
        server = self._servers.get(key)
        if server is None:
            if len(self._servers) >= MAX_SERVERS:
                self._servers.clear()
            server = self._servers[key] = str(destination.address), choice.reason, choice.why
        began, since = started
        total = self._context.reactor.seconds() - since
        self._write(self._form.plain_line(plain, client, began, total, status, server, moved))

    def write_ended(self, request: Request, record: Record) -> None:
        """Write the line of a request that has ended, and of which `record` has everything."""
        self.write(record)


class AccessLogEntry:
    """The notes about one request, or about one connection that is relayed as a whole."""

    __slots__ = ("_head_out", "_log", "_moved", "_since", "record")

    def __init__(self, log: EntryLog, record: Record, since: float, moved: tuple[int, int]) -> None:
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
        record = self.record
        record.server, record.reason, record.why = str(choice.destination.address), choice.reason, choice.why

    def client_found(self, client: str) -> None:
        """Note the address of the client, if it is not that of the connection."""
        self.record.client = client

    def response_chosen(self, response: OwnResponse) -> None:
        """Note that a rule responds in place of a server."""
        self.record.server, self.record.reason, self.record.why = None, response.reason, response.why

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

    def decided(self, why: str) -> None:
        """Note why the request is refused or answered by the switch itself, in words of `model/why.py`."""
        self.record.why = why

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
