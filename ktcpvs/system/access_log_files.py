"""Where the lines of access logs go: files and syslog, written by one thread of the process.

The reactor's thread appends a line to a list and never waits. What the list has goes to the thread in one piece, when
it is enough or when a second has passed. What cannot be written waits, up to a limit, and is tried again each second.
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

LIMIT = 4 << 20
"""Bytes that may wait unwritten for one log; what comes beyond them is thrown away and counted."""

BATCH = 64 << 10
"""Bytes after which the thread is woken before the second is over."""

LINE_MAX = 8 << 10
"""Bytes of the longest line for syslog, its head included: syslogds cut or refuse longer ones (rsyslog: at 8 KiB)."""

SYSLOG_SOCKET = "/dev/log"

PRIORITY = 16 * 8 + 6
"""local0 and informational (RFC 3164, 4.1.1). Not local7, which some distributions write to their boot log."""

CLOSE_TIME = 2.0
"""Seconds that `close` waits at most."""

_QUIET = 60
"""Ticks between two warnings of one kind."""

_AGAIN = 0.05
"""Seconds until what is full is tried again, and that a full syslogd is waited for."""

_TURN = 0.5
"""Seconds after which a slow log lets the others have their turn."""

_GONE = (errno.EPIPE, errno.ESTALE, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN)
"""What is open leads nowhere any more: it has to be opened anew."""


class _Sink(ABC):
    """The thread's side of one log. Numbers that the reactor's thread looks at are changed by this side only.

    done: bytes that wait no longer, written or lost. lost: lines thrown away here. trouble: why nothing can be written
    now, None when it can. full: it takes no more at this moment, which is no trouble. asked: an order is on its way.
    ended: nothing more will come.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.done = self.lost = 0
        self.trouble: str | None = None
        self.full = self.asked = self.ended = False
        self._waiting: deque[bytes] = deque()

    @abstractmethod
    def open(self) -> None:
        """Open it unless it is open. Raises OSError."""

    @abstractmethod
    def take(self, lines: list[bytes]) -> None:
        """These wait now, too."""

    @abstractmethod
    def _write(self) -> None:
        """Write some of what waits, or set `full`. Raises OSError."""

    @abstractmethod
    def _shut(self) -> None:
        """Close it if it is open."""

    def flush(self, turn: float = _TURN) -> None:
        """Write what waits, as far as it goes now. turn: seconds after which it is enough, as if it were full."""
        self.full = False
        enough = time.monotonic() + turn
        try:
            self.open()
            while self._waiting and not self.full:
                self._write()
                self.full = self.full or time.monotonic() > enough
        except OSError as error:
            self.trouble = error.strerror or str(error)
            if error.errno in _GONE:
                self._shut()
        else:
            self.trouble = None

    def reopen(self) -> None:
        """What waits goes to the old one, as far as it takes it; then open anew."""
        self.flush(math.inf)
        self._shut()
        self.flush()

    def end(self, deadline: float) -> None:
        """Write what can be written until then (by time.monotonic()), and close. The rest is lost."""
        self.flush()
        while self.full and self._waiting and time.monotonic() < deadline:
            time.sleep(_AGAIN)
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
    """What came together is written together. Opened without waiting, so that a FIFO cannot hold up the thread."""

    _descriptor: int | None = None
    _torn = False
    """What waits begins with the rest of a line whose beginning is written."""

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
        if self._torn:  # half a line cannot go on elsewhere
            self._torn = False
            rest, end, others = self._waiting.popleft().partition(b"\n")
            self._lose(rest + end)
            if others:
                self._waiting.appendleft(others)


class _Syslog(_Sink):
    """A line a datagram, as local programs send them: "<134>ktcpvs[pid]: line"; syslogd adds time and host."""

    _socket: socket.socket | None = None
    _head = b""

    def open(self) -> None:
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                sock.settimeout(_AGAIN)
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
            self._socket.send((self._head + line[:-1])[:LINE_MAX])
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
"""Lines for a sink, and what is to be done after they are taken: flush, reopen or end."""


def _serve(orders: SimpleQueue[_Order | float]) -> None:
    """The thread. A number is the last order: end all until then."""
    sinks: set[_Sink] = set()
    while True:
        full = [sink for sink in sinks if sink.full]
        try:
            order = orders.get(timeout=_AGAIN if full else None)
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
            _carry_out(sink, partial(sink.end, time.monotonic() + CLOSE_TIME))
            sink.ended = True
    for sink in sinks:
        _carry_out(sink, partial(sink.end, order))


def _carry_out(sink: _Sink, call: Callable[[], object]) -> None:
    """An order for one sink. A bug in it must not end the thread, which serves all of them."""
    try:
        call()
    except Exception as error:
        sink.full = False
        sink.trouble = f"internal error: {error!r}"


class AccessLog:
    """One place where lines are written. To be used in the reactor's thread only."""

    def __init__(self, place: str, logs: AccessLogs, limit: int) -> None:
        """limit: bytes that may wait."""
        self.place = place
        self.users = 1
        self.sink = _sink(place)
        self._logs = logs
        self._limit = limit
        self._lines: list[bytes] = []
        self._taken = 0  # bytes, ever
        self._handed = 0  # of them, to the thread
        self._lost = 0  # lines
        self._lost_told = 0
        self._quiet_lost = self._quiet_trouble = 0  # ticks until the next warning may come

    def write(self, line: bytes) -> None:
        """Write the line, which has its line end, sooner or later; or throw it away when too much waits already."""
        taken = self._taken + len(line)
        if taken - self.sink.done > self._limit:
            self._lost += 1
            return
        self._taken = taken
        self._lines.append(line)
        if taken - self._handed >= BATCH:
            self.hand_over()

    def release(self) -> None:
        """One user less; the last one closes the place when all is written."""
        self.users -= 1
        if not self.users:
            self._logs.leave(self)

    def stop(self) -> None:
        """What is written from now on is lost."""
        self._limit = -1

    @property
    def lost(self) -> int:
        """Lines thrown away, ever."""
        return self._lost + self.sink.lost

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self._taken - self.sink.done

    def hand_over(self, what: str = "flush") -> None:
        """Give the thread what has come, and an order."""
        lines, self._lines = self._lines, []
        self._handed = self._taken
        self.sink.asked = True
        self._logs.put((self.sink, lines, what))

    def tick(self) -> None:
        """Hand over what has come; try again what could not be written; warn of what is wrong."""
        if self._lines or ((self.waiting or self.sink.trouble) and not self.sink.asked):
            self.hand_over()
        self._quiet_lost = max(self._quiet_lost - 1, 0)
        self._quiet_trouble = max(self._quiet_trouble - 1, 0)
        self.warn(self._quiet_lost == 0, self._quiet_trouble == 0)

    def warn(self, of_lost: bool = True, of_trouble: bool = True) -> None:
        """Say in the event log what is wrong, if something is."""
        trouble, lost = self.sink.trouble, self.lost
        if trouble is not None and of_trouble:
            self._quiet_trouble = _QUIET
            self._logs.log.warn("the access log {place} cannot be written: {why}", place=self.place, why=trouble)
        if lost > self._lost_told and of_lost:
            self._quiet_lost = _QUIET
            count, self._lost_told = lost - self._lost_told, lost
            self._logs.log.warn("the access log {place} has lost {count} lines", place=self.place, count=count)


class AccessLogs:
    """All access logs of the process. The thread is there from the first line until `close`."""

    def __init__(self, log: EventLog, limit: int = LIMIT) -> None:
        """limit: bytes that may wait for one log."""
        self.log = log
        self._limit = limit
        self._open: dict[str, AccessLog] = {}
        self._leaving: list[AccessLog] = []
        self._orders: SimpleQueue[_Order | float] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def check(self, place: str) -> None:
        """Raises BadValue, with the reason, when `place` cannot be opened now. A file that is missing is made."""
        sink = _sink(place)
        try:
            sink.open()
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.ENXIO and _is_fifo(sink.place):
                why = "nobody reads this FIFO"
            if isinstance(sink, _Syslog):
                why = f"no syslogd at {sink.place}: {why}"
            raise BadValue(f"access_log = {shorten(place)}: {why}") from None
        sink.end(0.0)

    def open(self, place: str) -> AccessLog:
        """The log of that place, one and the same for all who ask. Opens nothing yet, and never fails."""
        known = self._open.get(place)
        if known is not None:
            known.users += 1
            return known
        opened = self._open[place] = AccessLog(place, self, self._limit)
        return opened

    def reopen(self) -> None:
        """After a rotation: what has come goes to the old files, then each is opened anew by its path."""
        for log in self._open.values():
            log.hand_over("reopen")

    def tick(self) -> None:
        """To be called once a second."""
        for log in self._open.values():
            log.tick()
        ended = [log for log in self._leaving if log.sink.ended]
        for log in ended:
            log.warn()
            self._leaving.remove(log)

    def close(self) -> None:
        """Write out what waits, for at most two seconds, and end the thread. What is written afterwards is lost."""
        if self._closed:
            return
        logs = (*self._open.values(), *self._leaving)
        for log in self._open.values():
            log.hand_over()
            log.stop()
        self._closed = True
        if self._thread is not None:
            self._orders.put(time.monotonic() + 0.75 * CLOSE_TIME)
            self._thread.join(CLOSE_TIME)
            self._thread = None
        for log in logs:
            log.warn()
            if log.waiting:
                self.log.warn(
                    "the access log {place} has lost its last {size} bytes", place=log.place, size=log.waiting
                )

    def leave(self, log: AccessLog) -> None:
        """Its last user has gone."""
        if not self._closed:
            del self._open[log.place]
            log.stop()
            log.hand_over("end")
            self._leaving.append(log)

    def put(self, order: _Order) -> None:
        """Give the thread an order; it is started for the first. After `close` there is nobody who takes them."""
        if self._closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=_serve, args=(self._orders,), name="access logs", daemon=True)
            self._thread.start()
            weakref.finalize(self, self._orders.put, 0.0)  # who forgets `close` leaves no thread behind
        self._orders.put(order)


def _is_fifo(path: str) -> bool:
    return stat.S_ISFIFO(os.stat(path).st_mode)
