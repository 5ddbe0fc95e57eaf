"""A worker: a switch that is administered by the supervisor and gets its listening sockets from it.

The supervisor starts it as `python -m ktcpvs.workers REACTOR`, and sends it commands over the descriptor
LINK_DESCRIPTOR. When that link breaks, the worker drains and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectError
from twisted.internet.protocol import ServerFactory
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols import amp
from twisted.python.failure import Failure

from ktcpvs.control.server import Administrator
from ktcpvs.control.trace_session import TraceSession
from ktcpvs.director.director import Director
from ktcpvs.director.resolver import NoResolver
from ktcpvs.errors import Busy, CannotListen
from ktcpvs.health.active_checks import NoChecks
from ktcpvs.inspect.explain import Explainer
from ktcpvs.inspect.live_tracing import LiveTracing
from ktcpvs.inspect.views import Views
from ktcpvs.model.address import Address, parse_address
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.challenges import Challenge
from ktcpvs.model.edits import Edit
from ktcpvs.model.live_trace import TraceQuery
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.settings import DEFAULT_SETTINGS
from ktcpvs.model.tls_files import TLSFile
from ktcpvs.runtime.challenges import PendingChallenges
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.listening_sockets import ListeningSockets
from ktcpvs.services.listener_stages import ListenerStages
from ktcpvs.services.tls_file_store import PassedFiles
from ktcpvs.services.tls_profiles import TLSProfiles
from ktcpvs.system.limits import calm_collector, raise_descriptor_limit
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.network_errors import network_reason
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.process import end_after_parent
from ktcpvs.system.shared import SharedTable
from ktcpvs.system.steady_clock import use_steady_clock
from ktcpvs.system.tls_files import decode
from ktcpvs.version import __version__
from ktcpvs.workers import commands
from ktcpvs.workers.adopt_commands import read_adopt, read_withdrawal
from ktcpvs.workers.commands import LINK_DESCRIPTOR
from ktcpvs.workers.shared_counters import CounterKey, SharedCounters

DRAIN_POLL_INTERVAL = 0.05
"""Seconds between two checks whether all connections have drained."""

MAX_END_TIME = 5.0
"""The most seconds, beyond the drain timeout, until a worker ends whose supervisor has died."""


class HandedDownSockets(ListeningSockets):
    """Listening sockets that the supervisor has opened."""

    def __init__(self) -> None:
        self._unused: dict[str, socket.socket] = {}

    def add(self, address: str, sock: socket.socket) -> None:
        """Keep `sock` for the next service that listens on `address`."""
        before = self._unused.pop(address, None)
        if before is not None:
            before.close()
        self._unused[address] = sock

    def open(self, address: Address, backlog: int, beside: Iterable[socket.socket]) -> socket.socket:
        sock = self._unused.pop(str(address), None)
        if sock is None:
            raise CannotListen(f"the supervisor has handed down no socket for {address}")
        sock.setblocking(False)
        return sock


class SupervisorLink(Administrator):
    """The worker's end of the link: the commands of any administrator, and those of the supervisor."""

    expects_answers = True

    def __init__(self, worker: Worker, log: EventLog) -> None:
        super().__init__(worker, log)
        self._worker = worker
        self._file = bytearray()  # the pages of the one that is being passed
        self._live_nodes: list[NodeIdentity] = []  # the pages of those that are being told
        self._challenges: list[Challenge] = []  # likewise
        self._units: dict[str, str] = {}  # likewise, of schedulers

    def fileDescriptorReceived(self, descriptor: int) -> None:
        amp.AMP.fileDescriptorReceived(self, descriptor)  # an Administrator accepts none

    def _after_edits(self, begin: Callable[[], Deferred[None]]) -> Deferred[dict[str, Any]]:
        """Call `begin` after the edits of earlier commands. Fires with an empty response when it is done."""

        async def begun() -> Deferred[None]:
            return begin()

        async def work() -> dict[str, Any]:
            await (await self.in_order(begun))
            return {}

        return Deferred.fromCoroutine(work())

    @commands.Begin.responder
    def begin(
        self, key: bytes, processes: int, index: int, descriptor: int, is_accepting: bool, node: str, labels: list[str]
    ) -> dict[str, Any]:
        identity = NodeIdentity(node, frozenset(labels))
        self._worker.begin(key, SharedTable(processes, descriptor), index, is_accepting, identity)
        self._worker.director.context.starter = _SupervisorStarts(self)
        return {}

    @commands.Ping.responder
    def ping(self) -> dict[str, Any]:
        return {}

    @commands.Adopt.responder
    def adopt(self) -> Deferred[dict[str, Any]]:
        upload = bytes(self.take_upload() or b"")
        return self.submit(lambda: read_adopt(upload).reusing(self._worker.director.table), len(upload))

    @commands.ShareAmong.responder
    def share_among(self, nodes: list[dict[str, Any]], is_first: bool, is_last: bool) -> Deferred[dict[str, Any]]:
        found = [NodeIdentity(node["name"], frozenset(node["labels"])) for node in nodes]
        self._live_nodes = [*([] if is_first else self._live_nodes), *found]
        if not is_last:
            return succeed({})
        return self._worker.director.shared_limits.divide_among(frozenset(self._live_nodes)).addCallback(lambda _: {})

    @commands.Withdraw.responder
    def withdraw(self) -> Deferred[dict[str, Any]]:
        withdrawal = read_withdrawal(bytes(self.take_upload() or b""))
        return self._worker.director.withdrawals.follow(withdrawal).addCallback(lambda _: {})

    @commands.StartAccepting.responder
    def start_accepting(self) -> dict[str, Any]:
        self._worker.start_accepting()
        return {}

    @commands.HandOver.responder
    def hand_over(self, left_over: list[str]) -> dict[str, Any]:
        self._worker.hand_over(left_over)
        return {}

    @commands.AssignSlots.responder
    def assign_slots(self, slots: list[dict[str, Any]]) -> dict[str, Any]:
        self._worker.slots.update({(given["ident"], given["address"]): given["slot"] for given in slots})
        return {}

    @commands.StandIn.responder
    def stand_in(self, schedulers: list[dict[str, Any]]) -> dict[str, Any]:
        self._units.update({given["name"]: given["unit"] for given in schedulers})
        self._worker.director.stand_in(self._units)
        return {}

    @commands.UpdateHealth.responder
    def update_health(self, servers: list[dict[str, Any]]) -> Deferred[dict[str, Any]]:
        async def update() -> None:
            for server in servers:
                self._worker.director.checked_servers.set_health(**server)

        return self._after_edits(lambda: self._worker.director.between_edits(update))

    @commands.SetAddresses.responder
    def set_addresses(self, host: str, addresses: list[str]) -> Deferred[dict[str, Any]]:
        return self._after_edits(lambda: self._worker.director.names.resolved({host: tuple(addresses)}))

    @commands.PassFile.responder
    def pass_file(self, use: str, path: str, page: bytes, is_first: bool, is_last: bool) -> dict[str, Any]:
        if is_first:
            self._file.clear()
        self._file += page
        if is_last:
            data, self._file = json.loads(self._file), bytearray()
            self._worker.files.add(TLSFile(use, path), decode(data))
        return {}

    @commands.DropFile.responder
    def drop_file(self, use: str, path: str) -> dict[str, Any]:
        self._worker.files.drop(TLSFile(use, path))
        return {}

    @commands.UseTickets.responder
    def use_tickets(self, current: bytes, previous: bytes) -> dict[str, Any]:
        self._worker.profiles.use_tickets(current, previous or None)
        return {}

    @commands.UseCookieSecret.responder
    def use_cookie_secret(self, secret: bytes) -> Deferred[dict[str, Any]]:
        director = self._worker.director
        return director.between_edits(lambda: director.cookie_secret.use(secret)).addCallback(lambda _: {})

    @commands.UseChallenges.responder
    def use_challenges(
        self, challenges: list[dict[str, Any]], is_first: bool, is_last: bool
    ) -> Deferred[dict[str, Any]]:
        self._challenges = [*([] if is_first else self._challenges), *(Challenge(**one) for one in challenges)]
        if not is_last:
            return succeed({})
        pending = PendingChallenges.of(self._challenges)
        return self._worker.director.challenges.use(pending).addCallback(lambda _: {})

    @commands.ReopenLogs.responder
    def reopen_logs(self) -> dict[str, Any]:
        self._worker.reopen_logs()
        return {}

    @commands.PassListener.responder
    def add_listener(self, address: str, descriptor: int) -> dict[str, Any]:
        self._worker.sockets.add(address, socket.socket(fileno=descriptor))
        return {}

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        self._worker.drain()


class _SupervisorStarts:
    """Has the supervisor start servers on demand. Provides Starter."""

    def __init__(self, link: SupervisorLink) -> None:
        self._link = link

    def want(self, address: Address) -> Deferred[None]:
        asked: Deferred[Any] = maybeDeferred(self._link.callRemote, commands.WantServer, address=str(address))
        return asked.addCallbacks(self._answered, self._lost)

    def _answered(self, answer: dict[str, Any]) -> None:
        if answer["why"]:
            raise ConnectError(string=answer["why"])

    def _lost(self, failure: Failure) -> None:
        raise ConnectError(string=f"the supervisor does not answer: {network_reason(failure)}")

    def state(self, address: Address) -> str | None:
        return None  # the supervisor knows


class _LinkFactory(ServerFactory):
    """Makes the one link."""

    noisy = False

    def __init__(self, worker: Worker, log: EventLog) -> None:
        self._worker = worker
        self._log = log
        self.connections: set[SupervisorLink] = set()

    def buildProtocol(self, addr: Any) -> SupervisorLink:
        link = SupervisorLink(self._worker, self._log)
        link.factory = self
        self.connections.add(link)
        return link


class Worker:
    """One worker process. It gets its director by the supervisor's command Begin.

    slots: what the shared table counts in which slot. sockets: those handed down. files: of TLS, which the supervisor
    reads. profiles: of its listeners with TLS.
    """

    def __init__(self, reactor: Any, log: EventLog) -> None:
        self.slots: dict[CounterKey, int] = {}
        self.sockets = HandedDownSockets()
        self.files = PassedFiles()
        self.profiles = TLSProfiles(self.files)
        self._reactor = reactor
        self._log = log
        self._director: Director | None = None
        self._is_accepting = False  # StartAccepting came before Begin
        self._is_handed_over = False  # HandOver came before Begin
        self._is_draining = False
        self._deadline = 0.0  # when draining ends at the latest

    def start(self) -> None:
        """Open the link to the supervisor."""
        self._reactor.adoptStreamConnection(LINK_DESCRIPTOR, socket.AF_UNIX, _LinkFactory(self, self._log))
        os.close(LINK_DESCRIPTOR)

    def begin(
        self, key: bytes, table: SharedTable, index: int, is_accepting: bool, node: NodeIdentity | None = None
    ) -> None:
        """Build the switch; arguments as for the command Begin."""
        counters = SharedCounters(table, index, self.slots)
        context = Context(
            self._reactor, self._log, key=key, counters=counters, sockets=self.sockets,
            is_accepting=is_accepting or self._is_accepting, node=node,
        )  # fmt: skip
        # The supervisor has checked that everything is supported. It also checks the servers and looks names up.
        self._director = Director(
            context,
            unload=self.drain,
            checks=NoChecks,
            resolver=NoResolver,
            is_strict=False,
            stages_of=ListenerStages(context, self.profiles),
            files=self.files,
        )
        self._director.start()
        context.watch_stalls()
        if self._is_handed_over:
            self._director.hand_over({})

    # Commands to all workers, which may reach one that has just started before its Begin.

    def start_accepting(self) -> None:
        """Accept clients from now on."""
        self._is_accepting = True
        if self._director is not None:
            self._director.start_accepting()

    def hand_over(self, left_over: Sequence[str]) -> None:
        """Another daemon accepts from now on. left_over: addresses whose socket it has not taken."""
        self._is_handed_over = True
        if self._director is not None:
            self._director.hand_over(dict.fromkeys(map(parse_address, left_over), 0))

    def reopen_logs(self) -> None:
        """Reopen the files of access logs."""
        if self._director is not None:
            self._director.reopen_logs()

    @property
    def director(self) -> Director:
        """Raises Busy before Begin."""
        if self._director is None:
            raise Busy("the worker has not begun")
        return self._director

    # Requests of an administrator.

    def submit(self, edit: Edit) -> Deferred[Sequence[str]]:
        return self.director.submit(edit)

    def view(self, name: str, ident: str | None) -> Any:
        return Views(self.director).view(name, ident)

    def close_connection(self, wanted: str) -> Any:
        return Views(self.director).close_connection(wanted)

    def rebalance(self, ident: str, percent: int, resets: bool, all_nodes: bool) -> Any:
        return Views(self.director).rebalance(ident, percent, resets)

    def explain(self, ident: str, request: AssumedRequest) -> Awaitable[Any]:
        return Explainer(self.director).explain(ident, request)

    def trace(self, query: TraceQuery) -> TraceSession:
        return LiveTracing(self.director).trace(query)

    # The end.

    @property
    def drain_timeout(self) -> int:
        """Seconds."""
        return DEFAULT_SETTINGS.drain_timeout if self._director is None else self._director.table.drain_timeout

    def drain(self) -> None:
        """Close the listeners, let connections drain, and end the process."""
        if self._is_draining:
            return
        self._is_draining = True
        self._deadline = self._reactor.seconds() + self.drain_timeout
        failed = partial(self._log.failure, "internal error: whether connections still drain is not known")
        PeriodicJob(self._reactor, self._end_if_drained, failed, DRAIN_POLL_INTERVAL).start()
        if self._director is not None:
            self._director.context.steps.run("end: listeners", self._director.end)

    def _end_if_drained(self) -> float | Deferred[None] | None:
        director = self._director
        if director is not None:
            if self._reactor.seconds() >= self._deadline:
                director.context.steps.run("end: count connections", self._tell_left, director)
            elif director.count_draining():
                return DRAIN_POLL_INTERVAL
            director.context.steps.run("end: connections", director.end_all)
            return director.context.tracer.flush().addCallback(lambda _: self._stop())
        self._stop()
        return None

    def _tell_left(self, director: Director) -> None:
        left = director.count_draining()
        if left:
            self._log.event(ANNOUNCE, "{n} connections have not drained and are closed", n=left)

    def _stop(self) -> None:
        director = self._director
        if director is not None:
            director.context.steps.run("end: director", director.stop)
        with contextlib.suppress(Exception):
            self._reactor.stop()


def run() -> None:
    """Run a worker until it ends. The command line names the reactor and the version of the supervisor."""
    # The supervisor forwards signals as commands. A terminal, or killall, would send them to every process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    raise_descriptor_limit()
    if sys.argv[1] == "uvloop":
        from ktcpvs.reactor import install

        install()
    from twisted.internet import reactor as installed

    reactor: Any = installed
    use_steady_clock(reactor)
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr, timeFormat=None)], redirectStandardIO=False)
    log = EventLog()
    if sys.argv[2:] != [__version__]:  # the package has been replaced since the supervisor started
        old = " ".join(sys.argv[2:]) or "another version"
        form = "this worker is of ktcpvs {new}, and its daemon of {old}: upgrade in place, by kill -USR2 {pid}"
        log.warn(form, new=__version__, old=old, pid=os.getppid())
    worker = Worker(reactor, log)
    with contextlib.suppress(OSError):  # a supervisor that dies also breaks the link, unless this process is stopped
        end_after_parent(lambda: worker.drain_timeout + MAX_END_TIME)
    reactor.callWhenRunning(worker.start)
    reactor.callWhenRunning(calm_collector)
    reactor.run(installSignalHandlers=False)
