"""The end of a daemon: it closes its listeners, lets connections drain, and closes those that do not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.control.control_listeners import ControlListeners
from ktcpvs.control.server import ControlFactory
from ktcpvs.service_manager import ServiceManager
from ktcpvs.services.director import Director
from ktcpvs.status.status_listener import StatusListener
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.periodic import PeriodicJob

POLL_INTERVAL = 0.1
"""Seconds between two looks whether all connections have drained."""

CLOSE_TIMEOUT = 2.0
"""Seconds that connections have to close after the drain timeout."""


class Shutdown:
    """Ends a daemon. has_begun: it is ending."""

    def __init__(
        self,
        director: Director,
        service_manager: ServiceManager,
        status: StatusListener,
        control: ControlListeners,
        control_factory: ControlFactory,
        pending_requests: Callable[[], int],
    ) -> None:
        """pending_requests: the number of requests of administrators that still wait for an answer from elsewhere."""
        self.has_begun = False
        self._director = director
        self._service_manager = service_manager
        self._status = status
        self._control = control
        self._control_factory = control_factory
        self._pending_requests = pending_requests
        self._reactor: Any = director.context.reactor
        self._log: EventLog = director.context.log
        self._deadline = 0.0  # the end of draining
        self._close_deadline: float | None = None  # the end of waiting, once draining has ended

    def begin(self) -> Deferred[None]:
        """Stop accepting, and drain. Fires when everything is closed; the control connections are closed last."""
        self.has_begun = True
        run = self._director.context.steps.run
        run("end: listeners", self._director.end)
        drain_time = self._director.context.settings.drain_timeout + self._director.processes.extra_drain_time
        self._deadline = self._reactor.seconds() + drain_time
        run("end: service manager", self._service_manager.stopping, drain_time + 2 * CLOSE_TIMEOUT)
        return self._wait_until(self._has_drained).addCallback(lambda _: self._close())

    def end_now(self) -> None:
        """Close what still drains."""
        self._deadline = 0.0

    def _wait_until(self, is_done: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as `is_done` returns True; it is called again and again."""
        done: Deferred[None] = Deferred()

        def poll() -> float | None:
            if not is_done():
                return POLL_INTERVAL
            done.callback(None)
            return None

        def failed(why: Failure) -> None:
            self._log.failure("internal error: whether connections still drain is not known", why)
            if self._reactor.seconds() >= self._deadline + CLOSE_TIMEOUT and not done.called:
                job.stop()
                done.callback(None)

        job = PeriodicJob(self._reactor, poll, failed, POLL_INTERVAL)
        job.start()
        return done

    def _has_drained(self) -> bool:
        """True when nothing is left, or when the time to close is over, too. Closes everything at the deadline."""
        now = self._reactor.seconds()
        left = self._director.count_draining() + self._pending_requests()
        if left and self._close_deadline is None and now >= self._deadline:
            unit = self._director.processes.draining_unit
            self._log.event(ANNOUNCE, "{n} {what} have not drained and are closed", n=left, what=unit)
            self._close_deadline = now + CLOSE_TIMEOUT
            self._director.end_all()
        return not left or (self._close_deadline is not None and now >= self._close_deadline)

    def _close(self) -> Deferred[None]:
        """Close the control connections, after the last answers have been sent."""
        run = self._director.context.steps.run
        run("end: director", self._director.stop)
        run("end: status", self._status.close)
        with contextlib.suppress(OSError):
            self._control.close()
        deadline = self._reactor.seconds() + CLOSE_TIMEOUT
        connections = self._control_factory.connections
        closed = self._wait_until(lambda: not connections or self._reactor.seconds() >= deadline)
        return closed.addCallback(lambda _: self._log.event(ANNOUNCE, "ended"))
