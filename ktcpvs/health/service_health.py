"""The health of one service's servers: results of checks, ejection after errors, slow start.

Servers that are not up are in the selector's `down`. Every request starts with these servers as already tried, so no
scheduler chooses them, and no scheduler must be bound again.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.dispatch.queue import Queue
from ktcpvs.dispatch.selection import Selector
from ktcpvs.model import health
from ktcpvs.model.check import OFF
from ktcpvs.model.destination import Destination
from ktcpvs.model.health import DOWN, EJECTED, ERRORS, FELL, OVER, ROSE, UP
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.system import log as levels

MAX_LINES_PER_TICK = 20
"""The most changes of one service that are logged one by one in a tick of the wheel; one line sums up the others."""

MIN_SHARE = 0.01
"""The smallest part of its weight with which a server begins its slow start."""


class ServiceHealth:
    """The health of one service's servers."""

    def __init__(self, context: Context, selector: Selector, queue: Queue) -> None:
        """selector: its `down` is kept up to date. queue: tries again when a server is up."""
        self._context = context
        self._selector = selector
        self._queue = queue
        self._destinations: tuple[Destination, ...] = ()
        self._slow_starts: dict[Destination, int] = {}  # server -> tick when its slow start began
        self._is_repeating = False  # the wheel calls `_tick` every second
        self._known: frozenset[Destination] = frozenset()
        self._lines = (-1, 0)  # a tick, and the number of changes logged in it
        self._observer: Callable[[Destination], object] = lambda destination: None

    def observe_checks(self, observer: Callable[[Destination], object]) -> None:
        """Call `observer` with each destination that checks mark up or down from now on."""
        self._observer = observer

    # Events.

    def failed(self, destination: Destination, why: str) -> None:
        """Count a client's connection or request that failed at this server. why: in words."""
        config = self._selector.config
        destination.last_error, destination.failed_at = why, self._context.wall()
        destination.errors += 1
        errors = destination.errors
        if not config.eject or errors < config.eject or destination.health.state != UP:
            return
        usable = [one for one in self._selector.usable if one in self._selector.down or one.weight > 0]
        if destination not in self._selector.usable or not health.may_eject(
            len(usable), len(self._selector.down), config.eject_share
        ):
            return
        now, most = self._context.wall(), self._context.settings.eject_most
        seconds = destination.health.ejection_time(config.eject_time, most, now)
        self._change(destination, ERRORS, f"{errors} consecutive errors, the last: {why}; ejected for {seconds} s")
        ejected = destination.health.ejections
        self._context.wheel.after(seconds, lambda: self._end_ejection(destination, ejected))

    def _end_ejection(self, destination: Destination, ejected: int) -> None:
        if destination.health.state == EJECTED and destination.health.ejections == ejected:
            self._change(destination, OVER, "the ejection has ended")

    def checked(self, destination: Destination, why: str | None) -> None:
        """Count a check. why: the reason why it failed; None if it passed."""
        config = self._selector.config
        event = destination.health.checked(why, config.check_rise, config.check_fall)
        if event is not None:
            self._change(destination, event, why or f"{config.check_rise} checks have passed")
            self._observer(destination)

    def mark(self, destination: Destination, is_up: bool, why: str) -> None:
        """Apply the result of the process that runs the checks: the server is up, or down."""
        state = destination.health.state
        if is_up and state == DOWN:
            self._change(destination, ROSE, why)
        elif not is_up and state != DOWN:
            self._change(destination, FELL, why)

    def _change(self, destination: Destination, event: str, why: str) -> None:
        destination.health.happened(event, why, self._context.wall())
        destination.errors = 0
        self._log_change(destination, why)
        if destination.health.state == UP:
            self._begin_slow_start(destination)
        self._update_down()
        if destination.health.state == UP:
            self._queue.try_all()

    def _update_down(self) -> None:
        selector = self._selector
        selector.down = {destination for destination in selector.usable if destination.health.state != UP}

    def _log_change(self, destination: Destination, why: str) -> None:
        tick, lines = self._lines
        now = self._context.wheel.now
        if tick != now:
            lines = 0
        self._lines = now, lines + 1
        if lines < MAX_LINES_PER_TICK:
            form = "service {ident}: server {server} is {state}: {why}"
            values = {
                "ident": self._selector.config.ident,
                "server": destination.address,
                "state": destination.health.state,
            }
            self._context.log.event(levels.ANNOUNCE, form, why=why, **values)
        elif lines == MAX_LINES_PER_TICK:
            self._context.wheel.after(0, self._log_others)

    def _log_others(self) -> None:
        form = "service {ident}: more servers have changed; {down} of {n} are not up"
        selector = self._selector
        self._context.log.event(
            levels.ANNOUNCE, form, ident=selector.config.ident, down=len(selector.down), n=len(selector.usable)
        )

    # Changes of the configuration.

    def configure(self, config: VirtualService, destinations: tuple[Destination, ...]) -> None:
        """Apply another configuration, with these servers."""
        self._destinations = destinations
        selector = self._selector
        now = self._context.wall()
        for destination in selector.usable:
            state = destination.health.state
            if state == DOWN and selector.config.check == OFF:
                destination.health.happened(ROSE, "checks were turned off", now)
            elif state == EJECTED and not selector.config.eject:
                destination.health.happened(OVER, "ejection was turned off", now)
        before, self._known = self._known, selector.usable
        self._slow_starts = {one: since for one, since in self._slow_starts.items() if one in selector.usable}
        if before:
            for destination in selector.usable - before:
                self._begin_slow_start(destination)
        self._update_weights()
        self._update_down()

    # Slow start.

    def _begin_slow_start(self, destination: Destination) -> None:
        if not self._selector.config.slow_start or destination not in self._destinations:
            return
        self._slow_starts[destination] = self._context.wheel.now
        if not self._is_repeating:
            self._is_repeating = True
            self._context.wheel.repeat(0, self._tick)
        self._update_weights()

    def _tick(self) -> bool:
        self._update_weights()
        self._is_repeating = bool(self._slow_starts)
        return self._is_repeating

    def _update_weights(self) -> None:
        """Set the current weight of each server in its slow start."""
        selector = self._selector
        seconds, now = selector.config.slow_start, self._context.wheel.now
        weights = {server.address: server.weight for server in selector.config.servers}
        for destination, since in list(self._slow_starts.items()):
            whole = weights.get(destination.address, 0)
            part = (now - since) / seconds if seconds else 1.0
            if part >= 1 or not whole:
                del self._slow_starts[destination]
                destination.weight = whole
            else:
                destination.weight = round(whole * max(part, MIN_SHARE), 2)
