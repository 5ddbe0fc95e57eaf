"""Notifies a service manager such as systemd when this daemon is ready, reloads, drains, and is alive
(sd_notify(3))."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.director.director import Director
from ktcpvs.errors import Refusal
from ktcpvs.system.notify import Notifier
from ktcpvs.system.periodic import PeriodicJob

PINGS_PER_TIMEOUT = 4
"""Signs of life within the watchdog's timeout."""


class ServiceManager:
    """The notifications to the service manager."""

    def __init__(self, notifier: Notifier, director: Director, watchdog: int) -> None:
        """watchdog: the microseconds within which a sign of life is expected; 0: none is expected."""
        self._notifier = notifier
        self._director = director
        self._watchdog = watchdog
        self._is_pinging = False
        self._is_silent = False  # another daemon reports now
        self._job = PeriodicJob(director.context.reactor, self._ping, self._ping_failed)

    def _notify(self, *assignments: str) -> None:
        if not self._is_silent:
            self._notifier.tell(*assignments)

    def _status(self) -> str:
        table = self._director.expanded
        running = f"{len(table.running)} of {len(table.services)} services run"
        return f"STATUS={running}, {self._director.processes.describe()}"

    async def started(self) -> None:
        """Report readiness as soon as all processes have the table; then start to send signs of life."""
        while True:
            try:
                await self._director.processes.ready()
                break
            except Refusal:
                continue  # a worker could not start; it is started again
        self._notify("READY=1", self._status())
        if self._watchdog:
            self._job.start()

    def reloading(self) -> None:
        """A configuration is being loaded."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self, outcome: str) -> None:
        """The configuration is in force, or refused. outcome: in one line."""
        self._notify("READY=1", f"{self._status()}; {outcome}")

    def stopping(self, seconds: float) -> None:
        """The daemon drains, for at most `seconds`."""
        draining = f"{self._director.count_draining()} {self._director.processes.draining_unit} drain"
        self._notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", f"STATUS=ending: {draining}")

    def handed_over(self, pid: int) -> None:
        """Another daemon has taken over, and reports its state from now on. pid: its process; 0: unknown."""
        if pid:
            self._notify(f"MAINPID={pid}")
        self._is_silent = True

    # The watchdog.

    def _ping(self) -> float | None:
        """Ping all processes that serve, and send a sign of life when all have answered."""
        if self._is_silent:
            return None
        if not self._is_pinging:
            answered: Deferred[bool] = self._director.processes.ping()
            self._is_pinging = True
            answered.addBoth(self._answered)
        return self._watchdog / PINGS_PER_TIMEOUT / 1e6

    def _ping_failed(self, why: Failure) -> None:
        self._director.context.log.failure("internal error: the watchdog's sign of life was not sent", why)

    def _answered(self, all_well: Any) -> None:
        self._is_pinging = False
        if all_well is True:
            self._notify("WATCHDOG=1")
