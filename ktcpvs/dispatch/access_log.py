"""One service's access log: what is noted of each request while it goes on, and the line that comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.model.scheduling import Choice
from ktcpvs.protocols.access_log import FORMATS, Record
from ktcpvs.runtime.context import Context
from ktcpvs.system.access_log_files import AccessLog

if TYPE_CHECKING:
    from ktcpvs.dispatch.client_connection import ClientConnection


class AccessLogJournal:
    """log: where lines go. form: "combined" or "json"."""

    __slots__ = ("_context", "_form", "_log", "_scheduler", "_service")

    def __init__(self, context: Context, log: AccessLog, form: str, service: str, scheduler: str) -> None:
        self._context = context
        self._log = log
        self._form = FORMATS[form]
        self._service = service
        self._scheduler = scheduler

    def begin(self, served: ClientConnection) -> AccessLogEntry:
        """Something begins that will be one line."""
        record = Record(self._service, self._scheduler, served.request.client, self._context.wall())
        return AccessLogEntry(self, record, self.now(), served.moved())

    def now(self) -> float:
        """Seconds by a clock that nobody sets."""
        return float(self._context.reactor.seconds())

    def write(self, record: Record) -> None:
        """The line of `record`."""
        self._log.write(self._form(record))


class AccessLogEntry:
    """What is noted of one request, or of one connection that is served as a whole."""

    __slots__ = ("_head_out", "_journal", "_moved", "_since", "record")

    def __init__(self, journal: AccessLogJournal, record: Record, since: float, moved: tuple[int, int]) -> None:
        self.record = record
        self._journal = journal
        self._since = since
        self._moved = moved
        self._head_out = 0

    def asked(self, method: bytes, target: bytes, minor: int, lines: bytes) -> None:
        """The request's head is complete."""
        record = self.record
        record.method, record.target, record.minor, record.lines = method, target, minor, lines

    def chosen(self, choice: Choice) -> None:
        """That is who shall serve, and why."""
        self.record.server, self.record.reason = str(choice.destination.address), choice.reason

    def connected(self, reused: bool) -> None:
        """There is a connection to a server."""
        self.record.connect = self._journal.now() - self._since
        self.record.reused = reused

    def retried(self) -> None:
        """A server was called in vain, or has to be called again."""
        self.record.retries += 1

    def answered(self, status: int, head: int) -> None:
        """The answer begins with a head of `head` bytes."""
        self.record.first = self._journal.now() - self._since
        self.record.status = status
        self._head_out = head

    def refused(self, status: int, answer: bytes) -> None:
        """The switch answers itself; what it says is in no other count."""
        self.record.status = status
        self.record.bytes_out = len(answer)
        self._head_out = answer.find(b"\r\n\r\n") + 4

    def end(self, served: ClientConnection, ending: str) -> None:
        """It is over: the line is written. ending: why."""
        record = self.record
        record.total = self._journal.now() - self._since
        moved = served.moved()
        record.bytes_in += moved[0] - self._moved[0]
        record.bytes_out += moved[1] - self._moved[1]
        record.body_out = max(record.bytes_out - self._head_out, 0)
        record.ending = ending
        self._journal.write(record)
