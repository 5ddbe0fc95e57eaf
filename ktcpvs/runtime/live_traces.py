"""The live traces of one process: what each has to see, and the entries that its reader has not read yet.

A slow reader never slows the switch: beyond a limit, entries are dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ktcpvs.errors import Busy
from ktcpvs.model.conditions import text_of
from ktcpvs.model.live_trace import COUNT_REACHED, TraceBatch, TraceQuery
from ktcpvs.model.scheduling import CLIENT_HELLO, EACH_REQUEST, BoundRule, Request
from ktcpvs.schedulers.rule_table import RuleTable, compile_table

MAX_TRACES = 8
"""The most live traces at once."""

MAX_BUFFERED_BYTES = 1 << 20
"""The most bytes of entries that wait for the reader of one trace."""

MAX_BATCH_BYTES = 60_000
"""The most bytes of entries in one batch: with its other values, it fits into a box of AMP."""

IPV6_BITS = 64
"""The leading bits of an IPv6 address by which the condition `share` knows a client, as by default in services."""


class TraceBuffer:
    """The entries of a trace until they are read. count: of requests, after which it ends. matched, dropped, ended: as
    of TraceBatch. changed: called after each change."""

    def __init__(self, count: int) -> None:
        self.matched = self.dropped = 0
        self.ended = ""
        self.changed: Callable[[], object] = lambda: None
        self._count = count
        self._entries: deque[bytes] = deque()
        self._size = 0

    def add(self, entry: bytes | None) -> None:
        """A request has met the conditions. entry: None: it was dropped already."""
        if self.ended:
            return
        self.matched += 1
        if entry is None or self._size + len(entry) > MAX_BUFFERED_BYTES or len(entry) > MAX_BATCH_BYTES:
            self.dropped += 1
        else:
            self._entries.append(entry)
            self._size += len(entry)
        if self.matched >= self._count:
            self.end(COUNT_REACHED)
        else:
            self.changed()

    def end(self, why: str) -> None:
        """The trace has ended. Safe to call twice."""
        if not self.ended:
            self.ended = why
            self.changed()

    @property
    def has_news(self) -> bool:
        """Whether there is something to read."""
        return bool(self._entries or self.ended)

    def take(self) -> TraceBatch:
        """Return the next batch."""
        entries: list[bytes] = []
        size = 0
        while self._entries and size + len(self._entries[0]) <= MAX_BATCH_BYTES:
            entries.append(self._entries.popleft())
            size += len(entries[-1])
        self._size -= size
        return TraceBatch(b"".join(entries), self.matched, self.dropped, "" if self._entries else self.ended)


class LiveTrace:
    """One live trace in one process. query: what it has to see. buffer: what it has seen."""

    def __init__(self, query: TraceQuery) -> None:
        """Raises a Refusal for a text that is no conditions."""
        self.query = query
        self.buffer = TraceBuffer(query.count)
        text = text_of(query.conditions)
        self._tables = {unit: _table(text, unit) for unit in (CLIENT_HELLO, EACH_REQUEST) if text}

    def matches(self, request: Request) -> bool:
        """Return whether a request meets the conditions, or a connection of which no request is known."""
        table = self._tables.get(CLIENT_HELLO if request.method is None else EACH_REQUEST)
        return table is None or table.place(request) is not None


def _table(text: str, unit: str) -> RuleTable:
    steps = compile_table((BoundRule(1, text, False, None, ()),), unit, IPV6_BITS)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            table: RuleTable = end.value
            return table


def check_room(running: int) -> None:
    """Raise Busy where no further trace may begin. running: their number."""
    if running >= MAX_TRACES:
        raise Busy(f"{MAX_TRACES} traces run already: wait until one of them ends")


class LiveTraces:
    """All live traces of one process."""

    def __init__(self) -> None:
        self._running: tuple[LiveTrace, ...] = ()

    def add(self, trace: LiveTrace) -> None:
        """Let a trace run. Raises Busy."""
        check_room(len(self._running))
        self._running += (trace,)

    def remove(self, trace: LiveTrace) -> None:
        """A trace has ended. Safe to call twice."""
        self._running = tuple([one for one in self._running if one is not trace])

    def of(self, ident: str) -> tuple[LiveTrace, ...]:
        """Return those that see the requests of a service."""
        return tuple([trace for trace in self._running if trace.query.ident in (None, ident)])
