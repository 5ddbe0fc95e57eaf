"""What a service manager such as systemd is told of this daemon: that it serves, reloads, drains, and is well."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.errors import Refusal
from ktcpvs.services.director import Director
from ktcpvs.system.notify import Notifier
from ktcpvs.system.periodic import PeriodicJob

OFTEN = 4
"""How many times within the watchdog's time it hears that all is well."""


class Manager:
    """is_silent: another daemon speaks now."""

    def __init__(self, notifier: Notifier, director: Director) -> None:
        self._notifier = notifier
        self._director = director
        self._reactor: Any = director.context.reactor
        self._asked = False
        self._job = PeriodicJob(self._reactor, self._watch, self._watch_failed)
        self.is_silent = False

    def tell(self, *words: str) -> None:
        """Say it, unless another daemon speaks."""
        if not self.is_silent:
            self._notifier.tell(*words)

    def status(self) -> str:
        """The daemon in a line for people."""
        table = self._director.table
        return f"STATUS={len(table.running)} of {len(table.services)} services run, {self._director.serves()}"

    async def begin(self) -> None:
        """Tell when all is there that serves, and from then on that all is well."""
        while True:
            try:
                await self._director.ready()
                break
            except Refusal:
                continue  # a worker could not begin; it is tried again
        self.tell("READY=1", self.status())
        if self._notifier.watchdog:
            self._job.start()

    def reloading(self) -> None:
        """A configuration is being loaded."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self, what: str) -> None:
        """It is loaded, or refused. what: in a line for people."""
        self.tell("READY=1", f"{self.status()}; {what}")

    def stopping(self, seconds: float) -> None:
        """The daemon drains, for so long at most."""
        what = f"STATUS=ending: {self._director.connections()} {self._director.drains} drain"
        self.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", what)

    def handed_over(self, pid: int) -> None:
        """Another daemon is the service now. pid: its process; 0: not known."""
        if pid:
            self.tell(f"MAINPID={pid}")
        self.is_silent = True

    # The watchdog.

    def _watch(self) -> float | None:
        """The reactor runs, or this would not; the others are asked. While they do not answer, nothing is told."""
        if self.is_silent:
            return None
        if not self._asked:
            answered: Deferred[bool] = self._director.answers()
            self._asked = True
            answered.addBoth(self._answered)
        return self._notifier.watchdog / OFTEN / 1e6

    def _watch_failed(self, why: Failure) -> None:
        self._director.context.log.failure("the service manager cannot be told that all is well", why)

    def _answered(self, all_well: Any) -> None:
        self._asked = False
        if all_well is True:
            self.tell("WATCHDOG=1")
