"""A worker: a switch like any other, but its administrator is the supervisor, and its sockets are handed down to it.

Started by the supervisor, as `python -m ktcpvs.workers REACTOR`, which talks to it over descriptor LINK; when that
link breaks it drains and ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ServerFactory
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols import amp
from twisted.python.failure import Failure

from ktcpvs.control.server import Administrator
from ktcpvs.errors import CannotListen
from ktcpvs.inspect.explain import Explainer
from ktcpvs.inspect.views import Views
from ktcpvs.model.address import Address
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.resources import Sockets
from ktcpvs.services.director import Director
from ktcpvs.system.limits import calm_collector, raise_descriptor_limit
from ktcpvs.system.log import EventLog
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.process import end_after_parent
from ktcpvs.system.shared import SharedTable
from ktcpvs.workers import commands
from ktcpvs.workers.shared_counters import Key, SharedCounters

DRAIN_LOOK = 0.05
"""Seconds between two looks whether all connections have drained."""

LAST_MOMENTS = 5.0
"""Seconds that a worker whose supervisor has died may take to end, besides the drain timeout."""

LINK = 3
"""The descriptor of the supervisor's link in a worker."""


class InheritedWorkerSockets(Sockets):
    """Listening sockets that the supervisor has opened."""

    def __init__(self) -> None:
        self._waiting: dict[str, socket.socket] = {}

    def put(self, address: str, sock: socket.socket) -> None:
        """The next service that listens on `address` gets this one."""
        before = self._waiting.pop(address, None)
        if before is not None:
            before.close()
        self._waiting[address] = sock

    def open(self, address: Address, backlog: int, beside: Iterable[socket.socket]) -> socket.socket:
        sock = self._waiting.pop(str(address), None)
        if sock is None:
            raise CannotListen(f"the supervisor has handed down no socket for {address}")
        sock.setblocking(False)
        return sock


class Link(Administrator):
    """The worker's end of the link to its supervisor."""

    def __init__(self, worker: Worker, log: EventLog) -> None:
        super().__init__(worker, log)
        self._worker = worker

    def fileDescriptorReceived(self, descriptor: int) -> None:
        amp.AMP.fileDescriptorReceived(self, descriptor)  # the supervisor has

    @commands.Begin.responder
    def begin(self, key: bytes, columns: int, column: int, descriptor: int, holds: bool) -> dict[str, Any]:
        self._worker.context.holds = holds
        self._worker.begin(key, SharedTable(columns, descriptor), column)
        return {}

    @commands.Ping.responder
    def ping(self) -> dict[str, Any]:
        return {}

    @commands.Serve.responder
    def serve(self) -> dict[str, Any]:
        self._worker.director.serve()
        return {}

    @commands.HandOver.responder
    def hand_over(self, late: list[str]) -> dict[str, Any]:
        self._worker.director.hand_over(dict.fromkeys(late, 0))
        return {}

    @commands.Rows.responder
    def rows(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        self._worker.rows.update({(one["ident"], one["address"]): one["row"] for one in rows})
        return {}

    @commands.Marks.responder
    def marks(self, marks: list[dict[str, Any]]) -> dict[str, Any]:
        for mark in marks:
            self._worker.director.mark(**mark)
        return {}

    @commands.Name.responder
    def name(self, host: str, addresses: list[str]) -> Deferred[dict[str, Any]]:
        return self._worker.director.resolved({host: tuple(addresses)}).addCallback(lambda _: {})

    @commands.Reopen.responder
    def reopen(self) -> dict[str, Any]:
        self._worker.director.reopen_logs()
        return {}

    @commands.Listen.responder
    def listen(self, address: str, descriptor: int) -> dict[str, Any]:
        self._worker.sockets.put(address, socket.socket(fileno=descriptor))
        return {}

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        self._worker.part()


class LinkFactory(ServerFactory):
    """Makes the one link."""

    noisy = False

    def __init__(self, worker: Worker, log: EventLog) -> None:
        self._worker = worker
        self._log = log
        self.connections: set[Link] = set()

    def buildProtocol(self, addr: Any) -> Link:
        link = Link(self._worker, self._log)
        link.factory = self
        self.connections.add(link)
        return link


class Worker:
    """The switch of one worker, as its link wants it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.log = EventLog()
        self.context = Context(reactor, self.log)
        self.rows: dict[Key, int] = {}
        self.sockets = InheritedWorkerSockets()
        self.context.sockets = self.sockets
        self.director = Director(self.context, unload=self.part)
        self.director.is_strict = False  # the supervisor has
        self.director.checks = None  # these too
        self.director.resolver = None
        self.submit = self.director.submit
        self.view = Views(self.director).view
        self.explain = Explainer(self.director).explain
        self._parting = False
        self._deadline = 0.0  # when connections have to have drained

    def begin(self, key: bytes, table: SharedTable, column: int) -> None:
        """The supervisor's first word."""
        self.context.key = key
        self.context.counters = SharedCounters(table, column, self.rows)

    def start(self) -> None:
        """Take the link up, and begin."""
        self._reactor.adoptStreamConnection(LINK, socket.AF_UNIX, LinkFactory(self, self.log))
        os.close(LINK)
        self.director.start()

    def part(self) -> None:
        """Listen no more, drain, end."""
        if not self._parting:
            self._parting = True
            self._deadline = self._reactor.seconds() + self.context.settings.drain_timeout
            failed = partial(self.log.failure, "whether all has drained is not known")
            PeriodicJob(self._reactor, self._look, failed, DRAIN_LOOK).start()
            self.context.steps.run("end: listeners", self.director.end)

    def _look(self) -> float | None:
        if self._reactor.seconds() < self._deadline and self.director.connections():
            return DRAIN_LOOK
        run = self.context.steps.run
        run("end: connections", self.director.end_all)
        run("end: director", self.director.stop)
        with contextlib.suppress(Exception):
            self._reactor.stop()
        return None


def run() -> None:
    """A worker's whole life. The command line says which reactor."""
    # The supervisor says over the link what a signal says to it; a terminal, or killall, would say it to everybody.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    raise_descriptor_limit()
    if sys.argv[1] == "uvloop":
        from ktcpvs.reactor import install

        install()
    from twisted.internet import reactor as installed

    reactor: Any = installed
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr, timeFormat=None)], redirectStandardIO=False)
    worker = Worker(reactor)
    with contextlib.suppress(OSError):  # the end of the link tells too, unless this process is stopped then
        end_after_parent(lambda: worker.context.settings.drain_timeout + LAST_MOMENTS)
    reactor.callWhenRunning(worker.start)
    reactor.callWhenRunning(calm_collector)
    reactor.run(installSignalHandlers=False)
