"""The composition root: the only place that knows transport and control. One daemon from start to end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.application.service import Service
from twisted.internet import unix
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall

from ktcpvs import __version__
from ktcpvs.control.server import ControlFactory
from ktcpvs.control.where import ControlAddress, default_control
from ktcpvs.errors import CannotListen, Refusal
from ktcpvs.model import edits
from ktcpvs.state import StateFile, read_configuration
from ktcpvs.system.limits import calm_collector, raise_descriptor_limit
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.names import service_port
from ktcpvs.system.sockets import close_listener, open_private_unix_listener, private_folder
from ktcpvs.transport.context import Context
from ktcpvs.transport.director import Director
from ktcpvs.transport.explain import Explainer
from ktcpvs.transport.views import Views
from ktcpvs.workers.supervisor import Supervisor

DRAIN_LOOK = 0.1
"""Seconds between two looks whether all connections have drained."""

LAST_CLOSE = 2.0
"""Seconds that connections have to close after the drain timeout."""

CONTROL_BACKLOG = 128


@frozen
class DaemonOptions:
    """control: where the control connection is; None: the default place. config, state: absolute paths; None: none.
    workers: how many processes serve; 0: this one."""

    control: ControlAddress | None = None
    config: str | None = None
    state: str | None = None
    workers: int = 0


class NotStarted(SystemExit, Exception):
    """The start is refused: Python prints the reason and exits with 1.

    An Exception too, since twistd in the background waits for one to tell its parent and to take its pid file away.
    """


class _ControlPort(unix.Port):
    """An adopted unix socket that stays its user's alone; Twisted's own would make it everybody's, mode 0666."""

    def __init__(self, path: bytes, factory: Any, reactor: Any) -> None:
        super().__init__(path, factory, CONTROL_BACKLOG, 0o600, reactor)


class _Administered:
    """The director and its views, as the control service wants them."""

    def __init__(self, director: Director) -> None:
        self.submit = director.submit
        self.view = director.view if isinstance(director, Supervisor) else Views(director).view
        self.explain = Explainer(director).explain


class SwitchService(Service):
    """The switch as a Twisted service."""

    def __init__(self, options: DaemonOptions, reactor: Any) -> None:
        self._options = options
        self._reactor = reactor
        self._control: Any = None
        self._control_socket: socket.socket | None = None
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
        state = StateFile(self._options.state, self._reactor, self.context.key) if self._options.state else None
        unload, size = self._reactor.stop, self._options.workers
        self.director = Supervisor(self.context, size, unload=unload) if size else Director(self.context, unload=unload)
        self._open_control()
        try:
            self._load(state)
        except BaseException:
            self._close_control()
            self.director.stop_all()
            raise
        self._reactor.callWhenRunning(self.director.start)
        self._reactor.callWhenRunning(calm_collector)
        self._reactor.callWhenRunning(self._handle_signals)
        where = self._options.control or default_control()
        self.log.event(ANNOUNCE, "ktcpvs {version}, control at {where}", version=__version__, where=where)

    def _load(self, state: StateFile | None) -> None:
        """What was saved; where nothing was, the configuration file, all its services started."""
        saved = state.load() if state is not None else None
        if state is not None:
            self.context.key = state.key
        config = self._options.config
        if saved is not None:
            self.director.is_strict = False  # what ran before runs again; the log tells what is wrong with it
            self._now(edits.Load(saved.services, saved.settings))
            for ident in saved.services:
                if ident in saved.running:
                    self._now(edits.StartService(ident))
            self.director.is_strict = True
            if config:
                self.log.event(
                    ANNOUNCE, "{state} is the table; {config} is for SIGHUP", state=self._options.state, config=config
                )
        if saved is None:
            if config is not None:
                self._now(read_configuration(config, service_port))
            self._now(edits.StartService())
        if state is not None:
            self.director.save = state.save  # not before all runs: a start that fails leaves no half of it behind
            if saved is None:
                self._finished(state.save(self.director.table))

    def _now(self, edit: edits.Edit) -> None:
        """Carry out an edit while the reactor does not run yet. Raises its Refusal."""
        self._finished(self.director.submit(edit))

    def _finished(self, work: Any) -> None:
        failures: list[Any] = []
        maybeDeferred(lambda: work).addErrback(failures.append)
        for failure in failures:
            failure.raiseException()

    # Control.

    def _open_control(self) -> None:
        where = self._options.control
        if where is None:
            where = default_control()
            assert where.path is not None
            private_folder(os.path.dirname(where.path))
        self._control_factory = ControlFactory(_Administered(self.director), self.log)
        if where.path is None:
            try:
                self._control = self._reactor.listenTCP(where.port, self._control_factory, interface=where.host)
            except OSError as error:
                raise CannotListen(f"cannot listen for control on {where}: {error}") from None
            return
        self._control_socket = open_private_unix_listener(where.path, CONTROL_BACKLOG)
        self._control = _ControlPort._fromListeningDescriptor(  # type: ignore[no-untyped-call]
            self._reactor, self._control_socket.fileno(), self._control_factory
        )
        self._control.startListening()

    def _close_control(self) -> None:
        self._control.stopListening()
        self._control_factory.close_all()
        if self._control_socket is not None:
            close_listener(self._control_socket)

    # Signals.

    def _handle_signals(self) -> None:
        """SIGTERM, SIGINT: drain and end; a second one: end now. SIGHUP: load the configuration file again. SIGUSR1:
        open log files anew."""
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))
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
        if config is None:
            self.log.warn("SIGHUP: there is no --config to load again")
            return
        try:
            edit = read_configuration(config, service_port)
        except Refusal as refusal:
            self.log.warn("SIGHUP: nothing is changed: {why}", why=refusal)
            return
        self.director.submit(edit).addCallbacks(
            lambda _: self.log.event(ANNOUNCE, "SIGHUP: {config} is loaded", config=config),
            lambda failure: self.log.warn("SIGHUP: nothing is changed: {why}", why=failure.getErrorMessage()),
        )

    # The end.

    def stopService(self) -> Deferred[None]:
        """Stop accepting, drain at most the drain timeout, end what is left. Control goes last."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.director.end()
        self._deadline = self._reactor.seconds() + self.context.settings.drain_timeout + self.director.grace
        self._last: float | None = None
        self._stopping = self._until(self._drained).addCallback(lambda _: self._part())
        return self._stopping

    def _until(self, done: Callable[[], bool]) -> Deferred[None]:
        """Look again and again; fires when `done` says so."""

        def look() -> None:
            if done():
                looks.stop()

        looks = LoopingCall(look)
        looks.clock = self._reactor
        return looks.start(DRAIN_LOOK).addCallback(lambda _: None)

    def _drained(self) -> bool:
        now = self._reactor.seconds()
        left = self.director.connections()
        if left and self._last is None and now >= self._deadline:
            what = self.director.drains
            self.log.event(ANNOUNCE, "{n} {what} have not drained and are closed", n=left, what=what)
            self._last = now + LAST_CLOSE
            self.director.end_all()
        return not left or (self._last is not None and now >= self._last)

    def _part(self) -> Deferred[None]:
        """The last answers go out to the administrators before the reactor ends."""
        self.director.stop()
        with contextlib.suppress(OSError):
            self._close_control()
        last = self._reactor.seconds() + LAST_CLOSE
        parted = self._until(lambda: not self._control_factory.connections or self._reactor.seconds() >= last)
        return parted.addCallback(lambda _: self.log.event(ANNOUNCE, "ended"))
