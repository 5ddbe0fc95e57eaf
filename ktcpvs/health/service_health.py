"""The health of one service's servers: results of checks, ejection after errors, slow start.

Servers that are not up are in the selector's `down`. Every request starts with these servers as already tried, so no
scheduler chooses them, and no scheduler must be bound again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ktcpvs.dispatch.queue import Queue
from ktcpvs.dispatch.selection import Selector
from ktcpvs.errors import BadValue
from ktcpvs.health.slow_servers import SlowServers
from ktcpvs.model import health
from ktcpvs.model.check import OFF, CheckResponse, parse_check, read_weight
from ktcpvs.model.destination import Destination
from ktcpvs.model.health import DOWN, EJECTED, ERRORS, FELL, OVER, ROSE, UP
from ktcpvs.model.quorum import QUORUM, Key, Quorum
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
        self._in_use: frozenset[Destination] = frozenset()  # those of `_known` that do not drain
        self._lines = (-1, 0)  # a tick, and the number of changes logged in it
        self._priorities_in_use = 1
        self._slow_servers = SlowServers()
        self._compares_latencies = False  # the wheel calls `_eject_slow`
        self._is_stopped = False  # the service is stopped, or deleted
        self._weights: dict[Destination, str] = {}  # server -> the weight that its checks ask for
        self._own: dict[Destination, health.Health] = {}  # by this node's checks alone, where other nodes decide too
        self._observer: Callable[[Destination], object] = lambda destination: None
        self._down: Callable[[Destination], object] = lambda destination: None

    def observe_down(self, observer: Callable[[Destination], object]) -> None:
        """Call `observer` with each destination that checks, here or in another process, have found down."""
        self._down = observer

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
        if destination.measured_errors is not None:
            destination.measured_errors.record(True, destination.clock())
        if not config.eject or errors < config.eject or destination.health.state != UP:
            return
        self._eject(destination, f"{errors} consecutive errors, the last: {why}")

    def _eject(self, destination: Destination, why: str) -> None:
        """Eject a server, unless too many are out of service already. why: in words."""
        config = self._selector.config
        usable = [one for one in self._selector.usable if one in self._selector.down or one.weight > 0]
        if destination not in self._selector.usable or not health.may_eject(
            len(usable), len(self._selector.down), config.eject_share
        ):
            return
        now, most = self._context.wall(), self._context.settings.eject_most
        seconds = destination.health.ejection_time(config.eject_time, most, now)
        self._change(destination, ERRORS, f"{why}; ejected for {seconds} s")
        ejected = destination.health.ejections
        self._context.wheel.after(seconds, lambda: self._end_ejection(destination, ejected))

    def _eject_slow(self) -> bool:
        """Eject servers whose requests take much longer than those of the others. Return whether to go on."""
        config, settings = self._selector.config, self._context.settings
        self._compares_latencies = bool(config.eject_slow) and not self._is_stopped
        if not self._compares_latencies:
            return False
        compared = [one for one in self._destinations if one.health.state == UP]
        slow = self._slow_servers.find(
            compared, config.eject_slow, settings.eject_slow_requests, settings.eject_slow_least / 1000
        )
        for destination, why in slow:
            self._eject(destination, why)
        return True

    def stop(self) -> None:
        """The service stops: compare latencies no more, and log no changes, until it is configured again. Ejections
        still end, since a service that starts again has the same servers."""
        self._is_stopped = True

    def _end_ejection(self, destination: Destination, ejected: int) -> None:
        if destination.health.state == EJECTED and destination.health.ejections == ejected:
            self._change(destination, OVER, "the ejection has ended")

    def checked(self, destination: Destination, why: str | None, response: CheckResponse | None = None) -> None:
        """Count a check. why: the reason why it failed; None if it passed. response: None: there was none."""
        config = self._selector.config
        destination.health.response = response.line if response is not None else ""
        is_other_weight = why is None and response is not None and self._take_weight(destination, response.weight)
        rise = config.check_rise
        text = why or (f"{rise} checks have passed" if rise > 1 else "a check has passed")
        has_changed = self._count(destination, why, text)
        if has_changed or is_other_weight:
            self._observer(destination)

    def _count(self, destination: Destination, why: str | None, text: str) -> bool:
        """Count a check of this node. text: for people. Return whether the state of the server has changed."""
        config, quorum = self._selector.config, self._context.quorum
        if quorum is None:
            event = destination.health.checked(why, config.check_rise, config.check_fall)
            if event is not None:
                self._change(destination, event, text)
            return event is not None
        decided = destination.health
        own = decided
        if config.check_by == QUORUM:
            own = self._own[destination] = self._own.get(destination) or decided.of_checks()
        event = own.checked(why, config.check_rise, config.check_fall)
        if event is not None and own is decided:
            self._change(destination, event, text)
        elif event is not None:
            own.happened(event, text, self._context.wall())
        quorum.set_own(self._key(destination), own.reason if own.state == DOWN else None)
        return event is not None if own is decided else self._take_verdict(quorum, destination)

    def _key(self, destination: Destination) -> Key:
        return self._selector.config.ident, str(destination.address)

    def decide(self, destination: Destination) -> None:
        """The results of other nodes' checks of a server have changed: take the verdict, if they decide about it."""
        quorum, config = self._context.quorum, self._selector.config
        is_decided = quorum is not None and config.check_by == QUORUM and config.check != OFF
        if quorum is not None and is_decided and destination in self._known and self._take_verdict(quorum, destination):
            self._observer(destination)

    def _take_verdict(self, quorum: Quorum, destination: Destination) -> bool:
        """Put in force what most nodes say about a server; where as many say that it is up as that it is down, it stays
        what it is. Return whether its state has changed."""
        verdict = quorum.verdict(self._key(destination))
        if verdict is None:
            return False
        state, own = destination.health.state, self._own.get(destination)
        if verdict.is_up is False and state != DOWN:
            self._change(destination, FELL, verdict.why)
            return True
        if verdict.is_up and state == DOWN:
            count = verdict.reports
            self._change(destination, ROSE, verdict.why or f"it is up on {count} of {count} nodes")
            return True
        if state != EJECTED:
            destination.health.reason = verdict.why or (own.reason if own is not None else "")
        return False

    def mark(self, destination: Destination, is_up: bool, why: str, weight: str = "") -> None:
        """Apply the result of the process that runs the checks: the server is up, or down. weight: as its checks ask
        for it; "": they do not."""
        self._take_weight(destination, weight or None)
        state = destination.health.state
        if is_up and state == DOWN:
            self._change(destination, ROSE, why, levels.STATE)
        elif not is_up and state != DOWN:
            self._change(destination, FELL, why, levels.STATE)

    def forget_checks(self, destination: Destination, why: str) -> None:
        """Checks do not decide about this server any more, for now."""
        if destination.health.state == DOWN:
            self._change(destination, ROSE, why)
            self._observer(destination)

    def _change(self, destination: Destination, event: str, why: str, level: int = levels.ANNOUNCE) -> None:
        """Change the state of a server's health by an event. level: of the log; a process that was told of the change
        by another one, which has logged it, says no more of it."""
        destination.health.happened(event, why, self._context.wall())
        destination.errors = 0
        self._log_change(destination, why, level)
        if destination.health.state == UP:
            self._begin_slow_start(destination)
        self._update_down(level)
        if destination.health.state == UP:
            self._queue.try_all()
        elif destination.health.state == DOWN:
            self._down(destination)

    def _update_down(self, level: int = levels.ANNOUNCE) -> None:
        selector = self._selector
        down = {destination for destination in selector.usable if destination.health.state != UP}
        selector.set_down(down, self._resting())
        priorities, before = selector.priorities, self._priorities_in_use
        self._priorities_in_use = priorities.in_use(selector.unavailable) if priorities is not None else 1
        if priorities is not None and self._priorities_in_use != before and not self._is_stopped:
            text = priorities.describe(selector.unavailable)
            self._context.log.event(level, "service {ident}: {text}", ident=selector.config.ident, text=text)

    def _log_change(self, destination: Destination, why: str, level: int) -> None:
        """Log a change, unless the service is stopped or deleted, or the server is deleted."""
        if self._is_stopped or destination not in self._selector.usable:
            return
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
            self._context.log.event(level, form, why=why, **values)
        elif lines == MAX_LINES_PER_TICK:
            self._context.wheel.after(0, lambda: self._log_others(level))

    def _log_others(self, level: int) -> None:
        if self._is_stopped:
            return
        form = "service {ident}: more servers have changed; {down} of {n} are not up"
        selector = self._selector
        self._context.log.event(
            level, form, ident=selector.config.ident, down=len(selector.down), n=len(selector.usable)
        )

    # Weights from checks.

    def weight_of(self, destination: Destination) -> str:
        """Return the weight that a server's checks ask for; "": they do not."""
        return self._weights.get(destination, "")

    @property
    def weighed(self) -> Iterable[Destination]:
        """The servers whose checks ask for a weight."""
        return list(self._weights)

    def _take_weight(self, destination: Destination, text: str | None) -> bool:
        """Use the weight that a check's response has. Return whether it is another one. text: None: it has none."""
        if text is None or self._weights.get(destination) == text or destination not in self._selector.usable:
            return False
        try:
            read_weight(text, 1)
        except BadValue as bad:
            form = "service {ident}: {reason}, as {server}: {why}"
            reason = "servers respond to checks with weights that are none"
            self._context.log.fault(form, self._selector.config.ident, reason, server=destination.address, why=bad)
            return False
        self._weights[destination] = text
        self._update_weights()
        self._update_down()
        self._queue.try_all()
        return True

    def _resting(self) -> frozenset[Destination]:
        """Return the servers whose checks ask for the weight 0."""
        return frozenset([one for one, text in self._weights.items() if not read_weight(text, 1)])

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
            elif state == EJECTED and not (selector.config.eject or selector.config.eject_slow):
                destination.health.happened(OVER, "ejection was turned off", now)
        before, self._known = self._known, selector.usable - selector.in_maintenance
        asks = parse_check(selector.config.check).weight is not None
        self._weights = {one: text for one, text in self._weights.items() if asks and one in selector.usable}
        decides = config.check_by == QUORUM and config.check != OFF
        self._own = {one: own for one, own in self._own.items() if decides and one in self._known}
        self._slow_starts = {one: since for one, since in self._slow_starts.items() if one in selector.usable}
        draining = {server.address for server in config.servers if not server.share}
        before_in_use = self._in_use
        self._in_use = frozenset([one for one in self._known if one.address not in draining])
        if before:
            for destination in self._in_use - before_in_use:
                self._begin_slow_start(destination)
        self._is_stopped = False
        self._update_weights()
        self._update_down()
        if selector.config.eject_slow and not self._compares_latencies:
            self._compares_latencies = True
            self._context.wheel.repeat(self._context.settings.eject_slow_interval, self._eject_slow)

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
        if self._selector.priorities is not None:
            self._update_down()
        self._is_repeating = bool(self._slow_starts)
        return self._is_repeating

    def _update_weights(self) -> None:
        """Set the current weight of each server in its slow start, and of those whose checks ask for a weight."""
        selector = self._selector
        seconds, now = selector.config.slow_start, self._context.wheel.now
        shares = {server.address: server.share for server in selector.config.servers}
        for destination in {**self._slow_starts, **self._weights}:
            whole = self._whole_weight(destination, shares.get(destination.address, 0))
            since = self._slow_starts.get(destination)
            part = (now - since) / seconds if seconds and since is not None else 1.0
            if part >= 1 or not whole:
                self._slow_starts.pop(destination, None)
            else:
                whole = round(whole * max(part, MIN_SHARE), 2)
            if destination.weight != whole:
                destination.weight = whole
                destination.tell()

    def _whole_weight(self, destination: Destination, share: int) -> float:
        """Return the weight of a server after its slow start. share: as configured.

        It is never 0 because of a check: schedulers are bound to weights above 0, so such a server rests instead.
        """
        text = self._weights.get(destination)
        return share if text is None or not share else read_weight(text, share) or share
