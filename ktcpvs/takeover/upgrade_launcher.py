"""SIGUSR2: this daemon starts its program anew, as it is installed now, and the new one takes over."""

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

FOLDER = os.getcwd()
"""Where this program was started; twistd may go elsewhere (--rundir)."""


class UpgradeLauncher(ProcessProtocol):
    """The program that is started, one at a time. It writes where this one writes, and outlives it."""

    def __init__(self, reactor: Any, log: EventLog, where: ControlAddress | None, notifier: Notifier) -> None:
        """where: the unix socket of control; None: there is none."""
        self._reactor = reactor
        self._log = log
        self._where = where
        self._notifier = notifier
        self._runs = False

    def start(self) -> None:
        """Start one, unless one is on its way."""
        if self._where is None:
            self._log.warn("SIGUSR2: nothing is done: sockets are handed over on a unix socket, and --control is none")
            return
        if self._runs:
            self._log.warn("SIGUSR2: nothing is done: a new daemon is on its way already")
            return
        program = [sys.executable, *sys.orig_argv[1:]]
        if not any(word.split("=")[0] == OPTION for word in program):
            program += [OPTION, str(self._where)]
        environment = dict(os.environ)
        if self._notifier.path:
            environment[SOCKET] = self._notifier.path
        self._log.event(ANNOUNCE, "SIGUSR2: a new daemon is started, which takes over")
        try:
            self._reactor.spawnProcess(self, program[0], program, environment, FOLDER, childFDs={0: 0, 1: 1, 2: 2})
        except OSError as error:
            self._log.warn("a new daemon cannot be started: {why}", why=error.strerror)
            return
        self._runs = True

    def processEnded(self, reason: Failure) -> None:
        self._runs = False
        if getattr(reason.value, "exitCode", None) != 0:  # in the background, its parent ends with 0 when it has begun
            self._log.warn("the new daemon has ended: {why}; this one goes on", why=reason.getErrorMessage())
