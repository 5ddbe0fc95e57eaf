"""SIGUSR2: start this daemon's program anew, as it is installed now, with --takeover."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.notify import SOCKET, Notifier

OPTION = "--takeover"

START_FOLDER = os.getcwd()
"""The folder in which this program was started; twistd may have changed to another folder since (--rundir)."""


class UpgradeLauncher(ProcessProtocol):
    """Starts new daemons, one at a time. A new daemon has this one's standard streams, and outlives it."""

    def __init__(self, reactor: Any, log: EventLog, where: ControlAddress | None, notifier: Notifier) -> None:
        """where: the unix socket of control; None: there is none."""
        self._reactor = reactor
        self._log = log
        self._where = where
        self._notifier = notifier
        self._is_running = False

    def start(self) -> None:
        """Start a new daemon, unless one that was started has not ended yet."""
        if self._where is None:
            self._log.warn("SIGUSR2 ignored: upgrades need a Unix control socket (--control unix:/PATH)")
            return
        if self._is_running:
            self._log.warn("SIGUSR2 ignored: a new daemon is starting already")
            return
        program = [sys.executable, *sys.orig_argv[1:]]
        if not any(word.split("=")[0] == OPTION for word in program):
            program += [OPTION, str(self._where)]
        environment = dict(os.environ)
        if self._notifier.path:
            environment[SOCKET] = self._notifier.path
        self._log.event(ANNOUNCE, "SIGUSR2: starting a new daemon, which takes over")
        streams = {0: 0, 1: 1, 2: 2}
        try:
            self._reactor.spawnProcess(self, program[0], program, environment, START_FOLDER, childFDs=streams)
        except OSError as error:
            self._log.warn("the new daemon cannot be started: {why}", why=error.strerror)
            return
        self._is_running = True

    def processEnded(self, reason: Failure) -> None:
        self._is_running = False
        # A new daemon that goes into the background ends with 0 here, when it has started.
        if getattr(reason.value, "exitCode", None) != 0:
            self._log.warn("the new daemon has ended: {why}; this one continues", why=reason.getErrorMessage())
