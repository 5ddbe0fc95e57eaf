"""The shutdown of a daemon: it closes its listeners, lets connections drain, and closes the remaining ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.control.control_listeners import ControlListeners
from ktcpvs.control.server import ControlFactory
from ktcpvs.director.director import Director
from ktcpvs.service_manager import ServiceManager
from ktcpvs.status.status_listener import StatusListener
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.takeover.takeover import TakeoverHandover

POLL_INTERVAL = 0.1
"""Seconds between two checks whether all connections have drained."""

CLOSE_TIMEOUT = 2.0
"""Seconds that connections have to close after the drain timeout."""

ADMINISTRATORS_TIMEOUT = 2.0
"""Seconds that administrators have to end their control connections themselves after a takeover, and that their
commands have to be answered without one."""


class Shutdown:
    """Shuts a daemon down. has_begun: the shutdown is in progress."""

    def __init__(
        self,
        director: Director,
        service_manager: ServiceManager,
        status: StatusListener,
        control: ControlListeners,
        control_factory: ControlFactory,
        handover: TakeoverHandover,
    ) -> None:
        """handover: to a new daemon, which may still have to answer this daemon's administrators."""
        self.has_begun = False
        self._director = director
        self._service_manager = service_manager
        self._status = status
        self._control = control
        self._control_factory = control_factory
        self._handover = handover
        self._reactor: Any = director.context.reactor
        self._log: EventLog = director.context.log
        self._deadline = 0.0  # the end of draining
        self._close_deadline: float | None = None  # when waiting for closed connections ends, once draining has ended

    def begin(self) -> Deferred[None]:
        """Stop accepting, and drain. Fires when everything is closed; the control connections are closed last."""
        self.has_begun = True
        run = self._director.context.steps.run
        run("end: listeners", self._director.end)
        drain_time = self._director.effective.drain_timeout + self._director.processes.extra_drain_time
        self._deadline = self._reactor.seconds() + drain_time
        run("end: service manager", self._service_manager.stopping, drain_time + 2 * CLOSE_TIMEOUT)
        drained = self._wait_until(self._has_drained)
        starter = self._director.starter
        if starter is not None:
            drained.addCallback(lambda _: starter.stop())
        flushed = drained.addCallback(lambda _: self._director.context.tracer.flush())
        return flushed.addCallback(lambda _: self._wait_for_administrators()).addCallback(lambda _: self._close())

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
            self._log.failure("internal error: cannot determine whether connections still drain", why)
            if self._reactor.seconds() >= self._deadline + CLOSE_TIMEOUT and not done.called:
                job.stop()
                done.callback(None)

        job = PeriodicJob(self._reactor, poll, failed, POLL_INTERVAL)
        job.start()
        return done

    def _has_drained(self) -> bool:
        """Return True when everything has drained, or CLOSE_TIMEOUT is over too. Close all connections at the
        deadline."""
        now = self._reactor.seconds()
        left = self._director.count_draining() + self._handover.pending_requests
        if left and self._close_deadline is None and now >= self._deadline:
            unit = self._director.processes.draining_unit
            self._log.event(ANNOUNCE, "{n} {what} have not drained and are closed", n=left, what=unit)
            self._close_deadline = now + CLOSE_TIMEOUT
            self._director.end_all()
        return not left or (self._close_deadline is not None and now >= self._close_deadline)

    def _wait_for_administrators(self) -> Deferred[None]:
        """Let commands that are being carried out be answered; after a takeover, until the end of draining.

        After a takeover, administrators end their control connections themselves too: a command that is on its way
        when its connection is closed would get no answer, although the new daemon could answer it.
        """
        deadline = self._reactor.seconds() + ADMINISTRATORS_TIMEOUT

        def is_done() -> bool:
            now, has_heir = self._reactor.seconds(), self._handover.is_complete
            is_waited_for = bool(self._control_factory.unanswered_commands or self._handover.pending_requests)
            if has_heir:
                is_over = now >= deadline and (not is_waited_for or now >= self._deadline)
                return is_over or not self._control_factory.connections
            return now >= deadline or not is_waited_for

        return self._wait_until(is_done)

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
