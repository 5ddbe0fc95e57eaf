"""Hands a copied connection over to an engine, without losing a byte.

With `relay = auto` only bulk is handed over: for small messages copying is at least as fast as every engine, and faster
on busy cores.

An engine can take over once everything that was read has been sent. Until then, neither side is read for a moment. If
the peers do not read it even then, copying continues, and another attempt follows later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ktcpvs.model.service import COPY, TCP_ONLY
from ktcpvs.model.settings import Settings
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.engines import EngineRelay, Relays
from ktcpvs.streams.contract import NotDetachable
from ktcpvs.system.timer_wheel import TimerWheel

FLUSH_DELAYS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""The seconds of successive waits for everything to be sent, in which neither side is read; then the attempt is given
up."""

MAX_ATTEMPTS = 5

EARLY_CHECK_DELAY = 0.0625
"""Seconds from a large read to an early check: a connection that moves more than `relay_rate` in them is bulk."""


class Environment(Protocol):
    """The part of the process that a hand-over uses. settings: those in force."""

    @property
    def reactor(self) -> Any: ...

    @property
    def wheel(self) -> TimerWheel: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def relays(self) -> Relays: ...


class RelayOwner(Protocol):
    """The connection whose streams are joined."""

    def wanted_engine(self) -> str:
        """Return the name of its service's current relay; COPY if the connection is ending."""

    def set_relay(self, relay: CopyRelay | EngineRelay) -> None:
        """Replace the relay by an engine that is about to be started."""

    def handed_over(self, engine: str) -> None:
        """The engine has taken over: the hand-over is finished."""

    def handover_failed(self, engine: str, error: OSError) -> None:
        """The engine could not be started: copying continues."""

    def handover_ended(self) -> None:
        """The connection will be copied until it ends: the hand-over is finished."""


class Handover:
    """The hand-over of one connection, from the start of copying until an engine has taken over or none ever will.

    attempts: the number that have failed so far.
    """

    __slots__ = (
        "_after",
        "_bulk_from",
        "_call",
        "_copy",
        "_early_check",
        "_environment",
        "_finished",
        "_flush_checks",
        "_is_bulk",
        "_is_over",
        "_owner",
        "_saw_bulk_read",
        "attempts",
    )

    def __init__(
        self,
        owner: RelayOwner,
        copy: CopyRelay,
        finished: Callable[[], object],
        after: int,
        environment: Environment,
    ) -> None:
        """copy: the relay now. finished: what the engine calls when both directions have ended. after: seconds until
        the first check whether the connection moves enough, and between such checks; 0: hand it over at once, whatever
        it moves."""
        self._owner = owner
        self._copy = copy
        self._finished = finished
        self._after = after
        self._environment = environment
        self.attempts = 0
        self._flush_checks = 0  # in this attempt; unless 0, neither side is read
        self._call: Any = None  # the next check; it can be cancelled
        self._early_check: Any = None
        self._is_over = False
        self._is_bulk = not after
        self._bulk_from = (0, 0)  # relayed bytes and the tick at the last check whether it is bulk
        client, server = copy.inward.source, copy.outward.source
        self._saw_bulk_read = not client.reports_bulk  # without reports, every connection is checked
        if after:
            self._bulk_from = (self._moved(), environment.wheel.now)
            self._call = environment.wheel.after(after, self._check)
            client.bulk_detected = server.bulk_detected = self.bulk_detected
        else:
            self._check_soon(0)

    @property
    def is_flushing(self) -> bool:
        """Whether neither side is read at the moment, because something must be sent first."""
        return self._flush_checks > 0

    @property
    def is_scheduled(self) -> bool:
        """True while the next check has a time. Without a large read so far, there may be none."""
        return self._call is not None

    def cancel(self) -> None:
        """The connection is over."""
        self._is_over = True
        self._cancel_check()
        self._cancel_early_check()

    def _cancel_check(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _cancel_early_check(self) -> None:
        check, self._early_check = self._early_check, None
        if check is not None:
            check.cancel()

    # Detection of bulk connections.

    def bulk_detected(self) -> None:
        """A large read has occurred: check the rate soon."""
        self._saw_bulk_read = True
        if self._rate() and self._early_check is None and not self._is_bulk and not self._is_over:
            call_later = self._environment.reactor.callLater
            self._early_check = call_later(EARLY_CHECK_DELAY, self._check_early, self._moved())

    def _check_early(self, before: int) -> None:
        self._early_check = None
        if self._is_bulk:
            return
        if self._moved() - before > self._rate() * EARLY_CHECK_DELAY:
            self._is_bulk = True
        self._cancel_check()
        self._check()

    def _moved(self) -> int:
        return self._copy.inward.bytes + self._copy.outward.bytes

    def _rate(self) -> int:
        """The rate of a bulk connection, in bytes per second."""
        return self._environment.settings.relay_rate << 10

    def _moves_enough(self) -> bool:
        """Return whether the connection has been bulk since the last check."""
        moved, now = self._moved(), self._environment.wheel.now
        (before, since), self._bulk_from = self._bulk_from, (moved, now)
        self._is_bulk = moved - before >= self._rate() * max(now - since, 1)
        return self._is_bulk

    # The attempts.

    def _check_soon(self, seconds: float) -> None:
        self._call = self._environment.reactor.callLater(seconds, self._check)

    def _check(self) -> None:
        """Hand the connection over, if it is bulk and the hand-over is possible now."""
        self._call = None
        self._cancel_early_check()
        copy = self._copy
        engine = self._owner.wanted_engine()
        if engine == COPY or copy.inward.ended or copy.outward.ended:
            self._give_up()
            return
        if not self._is_bulk and not self._moves_enough():
            self._wait()
            return
        client, server = copy.inward.source, copy.outward.source
        obstacles = {client.detach_obstacle(), server.detach_obstacle()}
        if any(obstacle is not None and not obstacle.is_temporary for obstacle in obstacles):
            self._give_up()
        elif NotDetachable.STARTING in obstacles:
            self._check_soon(0)
        elif NotDetachable.BUFFERED not in obstacles:
            self._hand_over(engine)
        elif self._flush_checks < len(FLUSH_DELAYS):
            if not self._flush_checks:
                self._stop_reading()
            self._check_soon(FLUSH_DELAYS[self._flush_checks])
            self._flush_checks += 1
        else:
            self._retry_later()

    def _hand_over(self, engine: str) -> None:
        owner, copy, environment = self._owner, self._copy, self._environment
        client, server = copy.inward.source, copy.outward.source
        if engine in TCP_ONLY and (client.is_unix or server.is_unix):
            self._give_up()
            return
        try:
            relay = environment.relays.make(engine, client, server, environment.wheel, self._finished)
            relay.continue_from(copy)
            owner.set_relay(relay)
            relay.start()
        except OSError as error:
            owner.set_relay(copy)
            owner.handover_failed(engine, error)
            self._give_up()
        else:
            self._is_over = True
            owner.handed_over(engine)

    def _wait(self) -> None:
        """Continue copying. A connection without a large read needs no timer, since `bulk_detected` follows such a
        read."""
        if self._saw_bulk_read:
            self._call = self._environment.wheel.after(self._after, self._check)

    def _retry_later(self) -> None:
        self._read_again()
        self.attempts += 1
        if self.attempts < MAX_ATTEMPTS:
            self._call = self._environment.wheel.after(self._environment.settings.relay_after, self._check)
        else:
            self._give_up()

    def _give_up(self) -> None:
        """Copy until the connection ends."""
        self._read_again()
        self._is_over = True
        self._owner.handover_ended()

    # Reading.

    def _stop_reading(self) -> None:
        """Stop reading both sides. Back-pressure is off meanwhile, so that a drained target does not resume its
        source."""
        for direction in self._copy.inward, self._copy.outward:
            direction.target.clear_backpressure()
            direction.source.pause()

    def _read_again(self) -> None:
        """Read both sides again. Resume first: a full target pauses its source when back-pressure is set."""
        if not self._flush_checks:
            return
        self._flush_checks = 0
        for direction in self._copy.inward, self._copy.outward:
            direction.source.resume()
            direction.hold_back_source()
