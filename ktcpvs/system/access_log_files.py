"""The outputs of access logs: files and syslog, which one thread of the process writes.

The reactor's thread appends lines to a list and never blocks. It hands the list over to the writer thread when the list
is large enough or a second has passed. Lines that cannot be written wait, up to a limit, and are tried again each
second.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import stat
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

from ktcpvs.errors import BadValue, shorten
from ktcpvs.system.log import EventLog

MAX_PENDING_BYTES = 4 << 20
"""The most unwritten bytes of one log; lines beyond that are dropped and counted."""

BATCH_BYTES = 64 << 10
"""The bytes that are handed over before the second has passed."""

MAX_SYSLOG_BYTES = 8 << 10
"""The longest syslog message: syslogds cut or refuse longer ones (rsyslog: at 8 KiB)."""

SYSLOG_SOCKET = "/dev/log"

PRIORITY = 16 * 8 + 6
"""local0 and informational (RFC 3164, section 4.1.1). Some distributions write local7 to their boot log."""

MAX_CLOSE_SECONDS = 2.0
"""The most seconds that `close` waits."""

_WARNING_INTERVAL = 60
"""Ticks between two warnings of the same kind."""

_RETRY_DELAY = 0.05
"""Seconds until a full output is tried again, and the time that one write to syslogd may block."""

_MAX_TURN_SECONDS = 0.5
"""The most seconds for a slow log until the other logs get their turn."""

_STALE_ERRORS = (errno.EPIPE, errno.ESTALE, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN)
"""Errors after which the output must be opened again."""


class _Sink(ABC):
    """The writer thread's side of one log. Only this side changes the numbers that the reactor's thread reads.

    done: bytes that are written or lost. lost: lines dropped by this side. trouble: why nothing can be written now, or
    None. full: the output accepts no more at the moment, which is no trouble. asked: an order is in the queue. ended:
    no more lines will come.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.done = self.lost = 0
        self.trouble: str | None = None
        self.full = self.asked = self.ended = False
        self._waiting: deque[bytes] = deque()

    @abstractmethod
    def open(self) -> None:
        """Open the output unless it is open. Raises OSError."""

    @abstractmethod
    def take(self, lines: list[bytes]) -> None:
        """Append lines to those that wait."""

    @abstractmethod
    def _write(self) -> None:
        """Write some of the waiting lines, or set `full`. Raises OSError."""

    @abstractmethod
    def _shut(self) -> None:
        """Close the output if it is open."""

    def flush(self, turn: float = _MAX_TURN_SECONDS) -> None:
        """Write waiting lines until the output is full. turn: seconds after which it counts as full."""
        self.full = False
        enough = time.monotonic() + turn
        try:
            self.open()
            while self._waiting and not self.full:
                self._write()
                self.full = self.full or time.monotonic() > enough
        except OSError as error:
            self.trouble = error.strerror or str(error)
            if error.errno in _STALE_ERRORS:
                self._shut()
        else:
            self.trouble = None

    def reopen(self) -> None:
        """Write waiting lines to the old output, as far as it accepts them; then open it again."""
        self.flush(math.inf)
        self._shut()
        self.flush()

    def end(self, deadline: float) -> None:
        """Write until `deadline` (time.monotonic()), and close. The remaining lines are lost."""
        self.flush()
        while self.full and self._waiting and time.monotonic() < deadline:
            time.sleep(_RETRY_DELAY)
            self.flush()
        self._shut()
        while self._waiting:
            self._lose(self._waiting.popleft())
        self.full = False
        self.ended = True

    def _lose(self, lines: bytes) -> None:
        self.done += len(lines)
        self.lost += lines.count(b"\n")


class _File(_Sink):
    """A file. It is opened without blocking, so that a FIFO cannot stop the thread."""

    _descriptor: int | None = None
    _torn = False
    """The waiting bytes begin with the rest of a line whose beginning is written."""

    def open(self) -> None:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            self._descriptor = os.open(self.place, flags, 0o640)

    def take(self, lines: list[bytes]) -> None:
        if lines:
            self._waiting.append(b"".join(lines))

    def _write(self) -> None:
        assert self._descriptor is not None
        several = self._waiting[0]
        try:
            written = os.write(self._descriptor, several)
        except BlockingIOError:
            self.full = True
            return
        self.done += written
        if written == len(several):
            self._waiting.popleft()
            self._torn = False
        elif written:
            self._waiting[0] = several[written:]
            self._torn = several[written - 1] != 0x0A

    def _shut(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
        if self._torn:  # the rest of a line must not go to another file
            self._torn = False
            rest, end, others = self._waiting.popleft().partition(b"\n")
            self._lose(rest + end)
            if others:
                self._waiting.appendleft(others)


class _Syslog(_Sink):
    """Syslog, one datagram for each line: "<134>ktcpvs[pid]: line". The syslogd adds time and host."""

    _socket: socket.socket | None = None
    _head = b""

    def open(self) -> None:
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                sock.settimeout(_RETRY_DELAY)
                sock.connect(self.place)
            except BaseException:
                sock.close()
                raise
            self._socket = sock
            self._head = b"<%d>ktcpvs[%d]: " % (PRIORITY, os.getpid())

    def take(self, lines: list[bytes]) -> None:
        self._waiting.extend(lines)

    def _write(self) -> None:
        assert self._socket is not None
        line = self._waiting[0]
        try:
            self._socket.send((self._head + line[:-1])[:MAX_SYSLOG_BYTES])
        except (TimeoutError, BlockingIOError):
            self.full = True
            return
        self._waiting.popleft()
        self.done += len(line)

    def _shut(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _sink(place: str) -> _Sink:
    if place == "syslog":
        return _Syslog(SYSLOG_SOCKET)
    if place.startswith("syslog:"):
        return _Syslog(place.removeprefix("syslog:"))
    return _File(place)


_Order = tuple[_Sink, list[bytes], str]
"""Lines for a sink, and the action that follows: flush, reopen or end."""


def _serve(orders: SimpleQueue[_Order | float]) -> None:
    """Run the writer thread. A number is the last order: the deadline by which all sinks must end."""
    sinks: set[_Sink] = set()
    while True:
        full = [sink for sink in sinks if sink.full]
        try:
            order = orders.get(timeout=_RETRY_DELAY if full else None)
        except Empty:
            for sink in full:
                _carry_out(sink, sink.flush)
            continue
        if isinstance(order, float):
            break
        sink, lines, what = order
        sinks.add(sink)
        sink.asked = False
        _carry_out(sink, partial(sink.take, lines))
        if what == "flush":
            _carry_out(sink, sink.flush)
        elif what == "reopen":
            _carry_out(sink, sink.reopen)
        else:
            sinks.discard(sink)
            _carry_out(sink, partial(sink.end, time.monotonic() + MAX_CLOSE_SECONDS))
            sink.ended = True
    for sink in sinks:
        _carry_out(sink, partial(sink.end, order))


def _carry_out(sink: _Sink, call: Callable[[], object]) -> None:
    """Carry out an order for one sink. A bug in it must not end the thread, which serves all sinks."""
    try:
        call()
    except Exception as error:
        sink.full = False
        sink.trouble = f"internal error: {error!r}"


class AccessLog:
    """One access log. Only the reactor's thread may use it."""

    def __init__(self, place: str, logs: AccessLogs, limit: int) -> None:
        """limit: the most unwritten bytes."""
        self.place = place
        self.users = 1
        self.sink = _sink(place)
        self._logs = logs
        self._limit = limit
        self._lines: list[bytes] = []
        self._taken = 0  # bytes in all
        self._handed = 0  # bytes handed over to the thread
        self._lost = 0  # lines
        self._lost_told = 0
        self._quiet_lost = self._quiet_trouble = 0  # ticks until the next warning is allowed

    def write(self, line: bytes) -> None:
        """Write a line, which has its line end, later; drop it if too many bytes wait already."""
        taken = self._taken + len(line)
        if taken - self.sink.done > self._limit:
            self._lost += 1
            return
        self._taken = taken
        self._lines.append(line)
        if taken - self._handed >= BATCH_BYTES:
            self.hand_over()

    def release(self) -> None:
        """Drop one user. After the last one, the log is closed when all lines are written."""
        self.users -= 1
        if not self.users:
            self._logs.leave(self)

    def stop(self) -> None:
        """Drop all lines from now on."""
        self._limit = -1

    @property
    def lost(self) -> int:
        """The number of dropped lines."""
        return self._lost + self.sink.lost

    @property
    def waiting(self) -> int:
        """The number of unwritten bytes."""
        return self._taken - self.sink.done

    def hand_over(self, what: str = "flush") -> None:
        """Give the thread the new lines and an order."""
        lines, self._lines = self._lines, []
        self._handed = self._taken
        self.sink.asked = True
        self._logs.put((self.sink, lines, what))

    def tick(self) -> None:
        """Hand over new lines, retry failed writes, and log warnings."""
        if self._lines or ((self.waiting or self.sink.trouble) and not self.sink.asked):
            self.hand_over()
        self._quiet_lost = max(self._quiet_lost - 1, 0)
        self._quiet_trouble = max(self._quiet_trouble - 1, 0)
        self.warn(self._quiet_lost == 0, self._quiet_trouble == 0)

    def warn(self, of_lost: bool = True, of_trouble: bool = True) -> None:
        """Write warnings to the event log, if there is trouble."""
        trouble, lost = self.sink.trouble, self.lost
        if trouble is not None and of_trouble:
            self._quiet_trouble = _WARNING_INTERVAL
            self._logs.log.warn("cannot write to access log {place}: {why}", place=self.place, why=trouble)
        if lost > self._lost_told and of_lost:
            self._quiet_lost = _WARNING_INTERVAL
            count, self._lost_told = lost - self._lost_told, lost
            self._logs.log.warn("access log {place} dropped {count} lines", place=self.place, count=count)


class AccessLogs:
    """All access logs of the process. The thread runs from the first order until `close`."""

    def __init__(self, log: EventLog, limit: int = MAX_PENDING_BYTES) -> None:
        """limit: the most unwritten bytes of one log."""
        self.log = log
        self._limit = limit
        self._open: dict[str, AccessLog] = {}
        self._leaving: list[AccessLog] = []
        self._orders: SimpleQueue[_Order | float] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def check(self, place: str, service: str) -> None:
        """Check that `place` can be opened now; create a missing file. Raises BadValue with the reason, which names the
        service that has this log."""
        sink = _sink(place)
        try:
            sink.open()
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.ENXIO and _is_fifo(sink.place):
                why = "no process reads this FIFO"
            if isinstance(sink, _Syslog):
                why = f"no syslogd at {sink.place}: {why}"
            raise BadValue(f"service {service}: access_log = {shorten(place)}: {why}") from None
        sink.end(0.0)

    def open(self, place: str) -> AccessLog:
        """Return the log of that place, the same object for all its users. This opens nothing and never fails."""
        known = self._open.get(place)
        if known is not None:
            known.users += 1
            return known
        opened = self._open[place] = AccessLog(place, self, self._limit)
        return opened

    def reopen(self) -> None:
        """Write all lines to the old files, and open each file again by its path: after a rotation."""
        for log in self._open.values():
            log.hand_over("reopen")

    def tick(self) -> None:
        """Do the work of each second; the caller calls this once a second."""
        for log in self._open.values():
            log.tick()
        ended = [log for log in self._leaving if log.sink.ended]
        for log in ended:
            log.warn()
            self._leaving.remove(log)

    def close(self) -> None:
        """Write waiting lines for at most two seconds, and end the thread. Later lines are lost."""
        if self._closed:
            return
        logs = (*self._open.values(), *self._leaving)
        for log in self._open.values():
            log.hand_over()
            log.stop()
        self._closed = True
        if self._thread is not None:
            self._orders.put(time.monotonic() + 0.75 * MAX_CLOSE_SECONDS)
            self._thread.join(MAX_CLOSE_SECONDS)
            self._thread = None
        for log in logs:
            log.warn()
            if log.waiting:
                self.log.warn("access log {place} lost its last {size} bytes", place=log.place, size=log.waiting)

    def leave(self, log: AccessLog) -> None:
        """Close a log whose last user has gone."""
        if not self._closed:
            del self._open[log.place]
            log.stop()
            log.hand_over("end")
            self._leaving.append(log)

    def put(self, order: _Order) -> None:
        """Give the thread an order; the first order starts it. After `close`, orders are ignored."""
        if self._closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=_serve, args=(self._orders,), name="access logs", daemon=True)
            self._thread.start()
            weakref.finalize(self, self._orders.put, 0.0)  # ends the thread even if `close` is never called
        self._orders.put(order)


def _is_fifo(path: str) -> bool:
    return stat.S_ISFIFO(os.stat(path).st_mode)
