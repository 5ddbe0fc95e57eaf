"""The signals that a daemon handles."""

from __future__ import annotations

import signal
from typing import Any

from ktcpvs.director.director import Director
from ktcpvs.reload import Reload
from ktcpvs.shutdown import Shutdown
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.reactor_end import stop_reactor
from ktcpvs.takeover.upgrade_launcher import UpgradeLauncher


class SignalHandlers:
    """SIGTERM, SIGINT: drain and end; a second one: end now. SIGHUP: load the configuration file and certificates
    again. SIGUSR1: reopen log files. SIGUSR2: start the program anew, which then takes over."""

    def __init__(self, director: Director, reload: Reload, upgrade: UpgradeLauncher, shutdown: Shutdown) -> None:
        self._director = director
        self._reload = reload
        self._upgrade = upgrade
        self._shutdown = shutdown
        self._reactor: Any = director.context.reactor
        self._twistd_reopen: Any = None
        self._is_stopping = False

    def install(self) -> None:
        """Handle signals from now on. Call this after twistd and the reactor have installed their own handlers."""
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload.begin))
        signal.signal(signal.SIGUSR2, lambda *_: self._reactor.callFromThread(self._upgrade.start))
        self._twistd_reopen = signal.getsignal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, self._reopen_logs)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._terminate))

    def _reopen_logs(self, number: int, frame: Any) -> None:
        """Reopen twistd's own log, if it has one, and the access logs."""
        if callable(self._twistd_reopen):
            self._twistd_reopen(number, frame)
        self._reactor.callFromThread(self._director.reopen_logs)

    def _terminate(self) -> None:
        if self._shutdown.has_begun:
            self._shutdown.end_now()
            return
        if self._is_stopping:  # a second signal in the turn of the first one: the shutdown has not begun yet
            self._reactor.callLater(0, self._terminate)
            return
        self._is_stopping = True
        unit = self._director.processes.draining_unit
        self._director.context.log.event(
            ANNOUNCE, "ending: {n} {what} drain", n=self._director.count_draining(), what=unit
        )
        stop_reactor(self._reactor)
