"""The health of one service's servers: who is out of service, for how long, and who comes back little by little.

Whoever is not up stands in the service's `down`, which every request has as tried from the beginning; so no scheduler
chooses it, whichever scheduler it is, and nothing has to be bound anew.
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

LINES = 20
"""So many servers of one service are named in the log within a second; the others are counted."""

LEAST = 0.01
"""The smallest part of its weight that a server has when it comes back."""


class ServiceHealth:
    """The health of one service's servers."""

    def __init__(self, context: Context, selector: Selector, queue: Queue) -> None:
        """selector: whose `down` is kept. queue: of clients that wait for room, which a server that is up may have."""
        self._context = context
        self._selector = selector
        self._queue = queue
        self._destinations: tuple[Destination, ...] = ()
        self._coming: dict[Destination, int] = {}  # slowly, since which tick
        self._is_weighing = False  # the wheel calls `_next`
        self._known: frozenset[Destination] = frozenset()
        self._lines = (-1, 0)  # the tick, and how many lines were written in it
        self._observer: Callable[[Destination], object] = lambda destination: None

    def observe_checks(self, observer: Callable[[Destination], object]) -> None:
        """Call `observer` with each destination that checks find up or down from now on."""
        self._observer = observer

    # What happens.

    def failed(self, destination: Destination, why: str) -> None:
        """A client's connection or request has failed there. why: in words."""
        config = self._selector.config
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
        self._change(destination, ERRORS, f"{errors} errors in a row, the last: {why}; back in {seconds} s")
        ejected = destination.health.ejections
        self._context.wheel.after(seconds, lambda: self._is_over(destination, ejected))

    def _is_over(self, destination: Destination, ejected: int) -> None:
        if destination.health.state == EJECTED and destination.health.ejections == ejected:
            self._change(destination, OVER, "its ejection is over")

    def checked(self, destination: Destination, why: str | None) -> None:
        """A check has passed (None), or failed."""
        config = self._selector.config
        event = destination.health.checked(why, config.check_rise, config.check_fall)
        if event is not None:
            self._change(destination, event, why or f"{config.check_rise} checks have passed")
            self._observer(destination)

    def mark(self, destination: Destination, is_up: bool, why: str) -> None:
        """Who checks says that it is up, or down."""
        state = destination.health.state
        if is_up and state == DOWN:
            self._change(destination, ROSE, why)
        elif not is_up and state != DOWN:
            self._change(destination, FELL, why)

    def _change(self, destination: Destination, event: str, why: str) -> None:
        destination.health.happened(event, why, self._context.wall())
        destination.errors = 0
        self._note(destination, why)
        if destination.health.state == UP:
            self._begin_slowly(destination)
        self._count()
        if destination.health.state == UP:
            self._queue.try_all()

    def _count(self) -> None:
        selector = self._selector
        selector.down = {destination for destination in selector.usable if destination.health.state != UP}

    def _note(self, destination: Destination, why: str) -> None:
        tick, lines = self._lines
        now = self._context.wheel.now
        if tick != now:
            lines = 0
        self._lines = now, lines + 1
        if lines < LINES:
            form = "service {ident}: server {server} is {state}: {why}"
            values = {
                "ident": self._selector.config.ident,
                "server": destination.address,
                "state": destination.health.state,
            }
            self._context.log.event(levels.ANNOUNCE, form, why=why, **values)
        elif lines == LINES:
            self._context.wheel.after(0, self._note_others)

    def _note_others(self) -> None:
        form = "service {ident}: more of its servers have changed: {down} of {n} are not up"
        selector = self._selector
        self._context.log.event(
            levels.ANNOUNCE, form, ident=selector.config.ident, down=len(selector.down), n=len(selector.usable)
        )

    # Changes of the configuration.

    def configure(self, config: VirtualService, destinations: tuple[Destination, ...]) -> None:
        """The service has another configuration, with these servers."""
        self._destinations = destinations
        selector = self._selector
        now = self._context.wall()
        for destination in selector.usable:
            state = destination.health.state
            if state == DOWN and selector.config.check == OFF:
                destination.health.happened(ROSE, "it is not checked any more", now)
            elif state == EJECTED and not selector.config.eject:
                destination.health.happened(OVER, "errors eject no server any more", now)
        before, self._known = self._known, selector.usable
        self._coming = {one: since for one, since in self._coming.items() if one in selector.usable}
        if before:
            for destination in selector.usable - before:
                self._begin_slowly(destination)
        self._weigh()
        self._count()

    # Slow start.

    def _begin_slowly(self, destination: Destination) -> None:
        if not self._selector.config.slow_start or destination not in self._destinations:
            return
        self._coming[destination] = self._context.wheel.now
        if not self._is_weighing:
            self._is_weighing = True
            self._context.wheel.repeat(0, self._next)
        self._weigh()

    def _next(self) -> bool:
        self._weigh()
        self._is_weighing = bool(self._coming)
        return self._is_weighing

    def _weigh(self) -> None:
        """Give all that come slowly the weight that is theirs now."""
        selector = self._selector
        seconds, now = selector.config.slow_start, self._context.wheel.now
        weights = {server.address: server.weight for server in selector.config.servers}
        for destination, since in list(self._coming.items()):
            whole = weights.get(destination.address, 0)
            part = (now - since) / seconds if seconds else 1.0
            if part >= 1 or not whole:
                del self._coming[destination]
                destination.weight = whole
            else:
                destination.weight = round(whole * max(part, LEAST), 2)
