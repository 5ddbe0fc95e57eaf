"""The composition root: the only place that knows transport and control. One daemon from start to end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from ktcpvs import __version__
from ktcpvs.control.control_listeners import ControlListeners
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.permissions import Permissions
from ktcpvs.control.server import ControlFactory, limit_warnings
from ktcpvs.errors import CannotListen, Refusal
from ktcpvs.inspect.explain import Explainer
from ktcpvs.inspect.views import Views
from ktcpvs.manager import Manager
from ktcpvs.model import edits
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.services.director import Director
from ktcpvs.state import StateFile, read_configuration
from ktcpvs.status.address import StatusAddress
from ktcpvs.status.status_listener import StatusListener
from ktcpvs.system.activation import handed_in
from ktcpvs.system.limits import calm_collector, raise_descriptor_limit
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.names import service_port
from ktcpvs.system.notify import Notifier
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.privileges import Identity, become
from ktcpvs.system.processes import is_proc_mounted
from ktcpvs.takeover.handover_source import HandoverConnection, HandoverSource
from ktcpvs.takeover.handover_target import HandoverTarget
from ktcpvs.takeover.inventory import CONTROL, Inventory
from ktcpvs.takeover.new_daemon import NewDaemon
from ktcpvs.takeover.pid_file import PidFile
from ktcpvs.takeover.upgrade_launcher import UpgradeLauncher
from ktcpvs.workers.supervisor import Supervisor

DRAIN_LOOK = 0.1
"""Seconds between two looks whether all connections have drained."""

LAST_CLOSE = 2.0
"""Seconds that connections have to close after the drain timeout."""


NO_PROC = (
    "/proc is not mounted: sockets that a service manager hands in are not seen, the usage of processes is not known, "
    "and workers start slowly; mount it with 'mount -t proc proc /proc'"
)

MAX_NAMES = 10
"""How many services one line of the log names."""


@frozen
class DaemonOptions:
    """control: where control connections are, one unix socket at most; none: the default place. config, state: absolute
    paths; None: none. workers: how many processes serve; 0: this one. takeover: where the daemon is to be found that
    this one takes over from; None: this one begins anew. pid_file: twistd's. status: where it is told over HTTP; None:
    nowhere. status_hosts: names that it is served under, besides IP addresses and localhost. user: who the daemon is to
    be; None: as it is. control_group: the group that may administer besides; None: none. nameservers: who is asked for
    host names, (IP address, port); none: whom the system asks."""

    control: tuple[ControlAddress, ...] = ()
    config: str | None = None
    state: str | None = None
    workers: int = 0
    takeover: ControlAddress | None = None
    pid_file: PidFile = PidFile(None)
    status: StatusAddress | None = None
    status_hosts: tuple[str, ...] = ()
    user: Identity | None = None
    control_group: int | None = None
    nameservers: tuple[tuple[str, int], ...] = ()


class NotStarted(SystemExit, Exception):
    """The start is refused: Python prints the reason and exits with 1.

    An Exception too, since twistd in the background waits for one to tell its parent and to take its pid file away.
    """


class _Administered:
    """The director and its views, as the control service wants them. giver: hands over to another daemon."""

    def __init__(self, director: Director) -> None:
        self._director = director
        self.submit = director.submit
        self.view: Any = director.view if isinstance(director, Supervisor) else Views(director).view
        self.explain: Any = Explainer(director).explain
        self.giver: HandoverSource | None = None

    def hand_on(self, successor: NewDaemon) -> None:
        """From now on another daemon is asked."""
        self.submit, self.view, self.explain = successor.submit, successor.view, successor.explain

    def processes(self) -> dict[str, int]:
        """Name -> process id of each process of the switch."""
        if not isinstance(self._director, Supervisor):
            return {"switch": os.getpid()}
        workers = {f"worker {one.number}": one.pid for one in self._director.crew.running() if one.pid is not None}
        return {"supervisor": os.getpid(), **workers}


class SwitchService(Service):
    """The switch as a Twisted service."""

    def __init__(self, options: DaemonOptions, reactor: Any) -> None:
        self._options = options
        self._reactor = reactor
        self._taking: HandoverTarget | None = None
        self._successor: NewDaemon | None = None
        self._stopping: Deferred[None] | None = None
        self._deadline = 0.0

    def startService(self) -> None:
        """Load, listen, be administered. On a refusal: one line on standard error, and exit with 1."""
        try:
            self._start()
        except Refusal as refusal:
            raise NotStarted(f"ktcpvs: {refusal}") from None
        super().startService()  # type: ignore[no-untyped-call]

    def _start(self) -> None:
        raise_descriptor_limit()
        self.log = EventLog()
        self.context = Context(self._reactor, self.log)
        if not is_proc_mounted():
            self.log.warn(NO_PROC)
        state = StateFile(self._options.state, self._reactor, self.context.key) if self._options.state else None
        self.context.nameservers = self._options.nameservers
        self.context.sockets = self._sockets = InheritedSockets()
        unload, size = self._reactor.stop, self._options.workers
        self.director = Supervisor(self.context, size, unload=unload) if size else Director(self.context, unload=unload)
        self._administered = _Administered(self.director)
        group = self._options.control_group
        self._control_factory = ControlFactory(self._administered, self.log, HandoverConnection, Permissions(group))
        taken, places = self._options.takeover, self._options.control
        if taken is not None and taken not in places:
            places = (taken, *places)
        self._control_listeners = ControlListeners(
            self._reactor, self._control_factory, places, group, self._sockets.lasts,
            lambda: self.context.settings, self.log,
        )  # fmt: skip
        if self._options.user is not None:
            self._control_listeners.create_folder_for(self._options.user)
            become(self._options.user, *([] if group is None else [group]))
            self._control_listeners.warn_unreadable_files(self._options.user.name)
        self._status = StatusListener(
            self._options.status, self._options.status_hosts, self._administered, self.log, self._reactor
        )
        notifier = Notifier.of_environment(os.environ)
        self._heirs = UpgradeLauncher(self._reactor, self.log, self._control_listeners.unix_address, notifier)
        self._manager = Manager(notifier, self.director)
        try:
            self._sort(handed_in())
            if self._options.takeover is not None:
                inventory = self._take(self._options.takeover, state)
                notifier.watchdog = notifier.watchdog or inventory.watchdog
            else:
                self._control_listeners.open()
                self._status.open()
                self._load(state)
                self._log_warnings(self.director.warnings(edits.StartService(), self.director.table))
        except BaseException:
            self._control_listeners.close()
            self._status.close()
            self.director.end()
            if self._taking is not None:
                self._taking.abandon()
            raise
        local = self._control_listeners.unix_listener
        if local is not None and local.socket is not None:
            self._administered.giver = HandoverSource(
                self.director, self._sockets, local.socket, notifier.watchdog, self._given
            )
        self._reactor.callWhenRunning(self.director.start)
        self._reactor.callWhenRunning(calm_collector)
        self._reactor.callWhenRunning(self._handle_signals)
        begun = partial(self.log.failure, "the daemon cannot tell that it has begun")
        self._reactor.callWhenRunning(lambda: Deferred.fromCoroutine(self._begin()).addErrback(begun))

    def _sort(self, handed: list[tuple[str, socket.socket]]) -> None:
        """What a service manager has handed in is for the control connection, or for services, now or later."""
        for name, sock in handed:
            at, where = sock.getsockname(), self._control_listeners
            if where.unix_address is not None and at == where.unix_address.path:
                where.adopt(sock)
            elif name == CONTROL and not where.has_socket_at(at):
                raise CannotListen(f"the socket that was handed in as '{name}' listens at {at}; --control is {where}")
            else:
                self._sockets.keep(sock)

    async def _begin(self) -> None:
        """The reactor runs: what serves begins to."""
        if self._taking is not None and not await self._take_over(self._taking):
            return
        where = self._control_listeners
        self.log.event(ANNOUNCE, "ktcpvs {version}, control at {where}", version=__version__, where=where)
        await self._manager.begin()

    def _load(self, state: StateFile | None) -> None:
        """The table that was saved; where none was, the configuration file, all its services started."""
        saved = state.load() if state is not None else None
        if state is not None:
            self.context.key = state.key
        config = self._options.config
        if saved is not None:
            self._run_again(saved)
        elif config is not None:
            self._now(evolve(read_configuration(config, service_port, may_wait=True), start=edits.START_ALL))
            if not self.director.table.services:
                self.log.warn("{config} configures no services", config=config)
        self._log_source(is_saved=saved is not None)
        if state is not None:
            self.director.save = state.save  # not before all runs: a start that fails leaves no half of it behind
            if saved is None:
                self._finished(state.save(self.director.table))

    def _log_source(self, is_saved: bool) -> None:
        """Say which of the state file and the configuration file became the table, and how to choose the other."""
        config, state = self._options.config, self._options.state
        if is_saved and config is not None:
            form = (
                "the table comes from the state file {state}, and {config} was not loaded: to see the difference, run "
                "'tcpvsadm --diff {config}'; to load it, send SIGHUP"
            )
        elif is_saved:
            form = "the table comes from the state file {state}"
        elif config is not None and state is not None:
            form = (
                "the table comes from {config}, since there was no state file {state}: from now on the state file "
                "keeps all changes, and the next start takes it; to take {config} at each start, leave out --state"
            )
        else:
            return
        self.log.event(ANNOUNCE, form, config=config, state=state)

    def _log_warnings(self, warnings: Sequence[str]) -> None:
        for line in limit_warnings(warnings):
            self.log.warn("warning: {line}", line=line)

    def _run_again(self, table: Table) -> None:
        """A table that ran before runs again; the log tells what is wrong with it."""
        self.director.is_strict = False
        self._now(edits.Load(table.services, table.settings))
        for ident in table.services:
            if ident in table.running:
                self._now(edits.StartService(ident))
        self.director.is_strict = True

    # Upgrade in place.

    def _take(self, where: ControlAddress, state: StateFile | None) -> Inventory:
        """All that the daemon at `where` has, and whatever of it can fail; it still serves."""
        self._taking = HandoverTarget(where, self._sockets)
        inventory = self._taking.inventory
        self._control_listeners.adopt(self._taking.control)
        self.context.key = inventory.key
        self.context.holds = True
        self.director.resolution = inventory.resolution
        self._run_again(inventory.table)
        for ident, address, why in inventory.down:
            self.director.mark(ident, address, False, why)
        if state is not None:
            state.key = inventory.key
            self.director.save = state.save
            self._finished(state.save(self.director.table))
        return inventory

    async def _take_over(self, taking: HandoverTarget) -> bool:
        """All is ready: from now on this daemon serves, and the one before drains. False: nothing came of it."""
        try:
            await self.director.ready()
            await taking.commit(self._reactor, self._options.workers or 1, self._options.pid_file.path)
        except Exception as error:
            if not isinstance(error, Refusal):
                self.log.failure("internal error in a takeover")
            self.log.warn("nothing is taken over: {why}", why=error)
            if self._stopping is None:
                self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)  # twistd knows no exit codes
                self._reactor.stop()
            return False
        # The old daemon has let go: from here on this one serves, whatever fails.
        run = self.context.steps.run
        run("serve", self.director.serve)
        if self._sockets.were_left and self._administered.giver is not None:
            run("takeover: wait before the next", self._administered.giver.not_before_late)
        run("takeover: files of sockets", taking.own)
        run("takeover: control", self._control_listeners.open_after_takeover)
        run("takeover: status", self._status.open_when_free)
        try:
            self._options.pid_file.take()
        except OSError as error:
            self.log.warn("the pid file is not written: {why}", why=error)
        self.log.event(ANNOUNCE, "taken over from ktcpvs {version}", version=taking.version)
        return True

    def _given(self, pid_file: str, pid: int) -> None:
        """Another daemon serves: this one drains and ends."""
        assert self._control_listeners.unix_address is not None  # else nothing is given
        self._reactor.callLater(0, self._reactor.stop)
        successor = self._successor = NewDaemon(self._reactor, self._control_listeners.unix_address)
        self.director.successor = successor.carry_out
        self._administered.hand_on(successor)
        run = self.context.steps.run
        run("hand over: control", self._control_listeners.release)
        run("hand over: status", self._status.close)
        run("hand over: service manager", self._manager.handed_over, pid)
        if pid_file == self._options.pid_file.path:
            self._options.pid_file.leave_alone()
        self.log.event(
            ANNOUNCE, "taken over: {n} {what} drain", n=self.director.connections(), what=self.director.drains
        )

    def _now(self, edit: edits.Edit) -> None:
        """Carry out an edit while the reactor does not run yet. Raises its Refusal."""
        self._finished(self.director.submit(edit))

    def _finished(self, work: Any) -> None:
        failures: list[Any] = []
        maybeDeferred(lambda: work).addErrback(failures.append)
        for failure in failures:
            failure.raiseException()

    # Signals.

    def _handle_signals(self) -> None:
        """SIGTERM, SIGINT: drain and end; a second one: end now. SIGHUP: load the configuration file and certificates
        again. SIGUSR1: open log files anew. SIGUSR2: start the program anew, which takes over."""
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))
        signal.signal(signal.SIGUSR2, lambda *_: self._reactor.callFromThread(self._heirs.start))
        self._rotate = signal.getsignal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, self._reopen)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._terminate))

    def _reopen(self, number: int, frame: Any) -> None:
        """The logs are opened anew; twistd's own too, if it keeps one."""
        if callable(self._rotate):
            self._rotate(number, frame)
        self._reactor.callFromThread(self.director.reopen_logs)

    def _terminate(self) -> None:
        if self._stopping is None:
            self.log.event(
                ANNOUNCE, "ending: {n} {what} drain", n=self.director.connections(), what=self.director.drains
            )
            self._reactor.stop()
        else:
            self._deadline = 0.0

    def _reload(self) -> None:
        config = self._options.config
        if self.context.holds:
            self.log.warn("SIGHUP: nothing is changed: this daemon has not taken over yet")
            return
        self._control_listeners.reload_certificates()
        if config is None:
            if self._control_listeners.has_tls():
                self._manager.reloading()
                self._manager.reloaded("certificates are read again")
            else:
                self.log.warn("SIGHUP: there is no --config to load again")
            return
        Deferred.fromCoroutine(self._load_again(config))

    async def _load_again(self, config: str) -> None:
        self._manager.reloading()
        try:
            edit, ran = read_configuration(config, service_port, allow_empty=False), self.director.table.running
            start = edits.START_NEW if self._options.state is not None else edits.START_ALL
            warnings = await self.director.submit(evolve(edit, start=start))
        except Exception as error:
            what = f"nothing is changed: {error}"
            self.log.warn("SIGHUP: {what}", what=what)
        else:
            what = f"{config} is loaded{_started(self.director.table, ran)}"
            self.log.event(ANNOUNCE, "SIGHUP: {what}", what=what)
            self._log_warnings(warnings)
        self._manager.reloaded(what)

    # The end.

    def stopService(self) -> Deferred[None]:
        """Stop accepting, drain at most the drain timeout, end what is left. Control goes last."""
        super().stopService()  # type: ignore[no-untyped-call]
        run = self.context.steps.run
        run("end: listeners", self.director.end)
        if self._taking is not None and self.context.holds:
            run("end: takeover", self._taking.abandon)
        most = self.context.settings.drain_timeout + self.director.grace
        self._deadline = self._reactor.seconds() + most
        run("end: service manager", self._manager.stopping, most + 2 * LAST_CLOSE)
        self._last: float | None = None
        self._stopping = self._until(self._drained).addCallback(lambda _: self._part())
        return self._stopping

    def _until(self, done: Callable[[], bool]) -> Deferred[None]:
        """Look again and again; fires when `done` says so."""
        over: Deferred[None] = Deferred()

        def look() -> float | None:
            if not done():
                return DRAIN_LOOK
            over.callback(None)
            return None

        def failed(why: Failure) -> None:
            self.log.failure("whether all has drained is not known", why)
            if self._reactor.seconds() >= self._deadline + LAST_CLOSE and not over.called:
                job.stop()
                over.callback(None)

        job = PeriodicJob(self._reactor, look, failed, DRAIN_LOOK)
        job.start()
        return over

    def _drained(self) -> bool:
        now = self._reactor.seconds()
        left = self.director.connections() + (self._successor.asked if self._successor is not None else 0)
        if left and self._last is None and now >= self._deadline:
            what = self.director.drains
            self.log.event(ANNOUNCE, "{n} {what} have not drained and are closed", n=left, what=what)
            self._last = now + LAST_CLOSE
            self.director.end_all()
        return not left or (self._last is not None and now >= self._last)

    def _part(self) -> Deferred[None]:
        """The last answers go out to the administrators before the reactor ends."""
        run = self.context.steps.run
        run("end: director", self.director.stop)
        run("end: status", self._status.close)
        with contextlib.suppress(OSError):
            self._control_listeners.close()
        last = self._reactor.seconds() + LAST_CLOSE
        parted = self._until(lambda: not self._control_factory.connections or self._reactor.seconds() >= last)
        return parted.addCallback(lambda _: self.log.event(ANNOUNCE, "ended"))


def _started(table: Table, ran: frozenset[str]) -> str:
    """Which services run in `table` and did not run before, for the log; "": none do. ran: those that did."""
    started = [ident for ident in table.services if ident in table.running - ran]
    more = f" and {len(started) - MAX_NAMES} more" if len(started) > MAX_NAMES else ""
    return f"; started: {', '.join(started[:MAX_NAMES])}{more}" if started else ""
