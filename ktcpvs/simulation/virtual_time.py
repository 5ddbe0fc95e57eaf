"""Virtual time: a clock that stands still between two events, and jumps to the next one."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from ktcpvs.system.timer_wheel import TICK, TimerWheel

MAX_IDLE_TICKS = 2 * 86400
"""The most ticks of the timer wheel in one wait. All that a service waits for happens within a day, so a longer pause
in a log need not be counted second by second."""


@implementer(IDelayedCall)
class VirtualCall:
    """A call that `VirtualTime.callLater` has planned."""

    __slots__ = ("_call", "_time", "_virtual")

    def __init__(self, virtual: VirtualTime, time: float, call: Callable[[], object]) -> None:
        self._virtual = virtual
        self._time = time
        self._call: Callable[[], object] | None = call

    def getTime(self) -> float:
        """Return the time of the call, in virtual seconds."""
        return self._time

    def active(self) -> bool:
        """Return whether the call is still to come."""
        return self._call is not None

    def cancel(self) -> None:
        """Drop the call. A second time does nothing."""
        self._call = None

    def reset(self, seconds: float) -> None:
        """Move the call to `seconds` from now."""
        self._move(self._virtual.now + seconds)

    def delay(self, seconds: float) -> None:
        """Move the call by `seconds`."""
        self._move(self._time + seconds)

    def _move(self, time: float) -> None:
        self._time = time
        self._virtual.at(time, self._due, None)

    def _due(self, _: None) -> None:
        if self._call is not None and self._virtual.now >= self._time:
            call, self._call = self._call, None
            call()


@implementer(IReactorTime)
class VirtualTime:
    """The clock, and all that is planned. now: seconds since its beginning."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Callable[[Any], object], Any]] = []
        self._count = 0
        self._wheel: TimerWheel | None = None
        self._next_tick = inf

    def drive(self, wheel: TimerWheel) -> None:
        """Make the ticks of this timer wheel, which must not have been started, one in each virtual second."""
        self._wheel, self._next_tick = wheel, self.now + TICK

    def seconds(self) -> float:
        return self.now

    def callLater(self, delay: float, callable: Callable[..., object], *arguments: Any, **named: Any) -> IDelayedCall:
        """Call `callable` in `delay` virtual seconds."""
        planned = VirtualCall(self, self.now + delay, lambda: callable(*arguments, **named))
        planned.delay(0)
        return planned

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """Return none: calls are not listed."""
        return []

    def at(self, time: float, call: Callable[[Any], object], argument: Any) -> None:
        """Call `call(argument)` at that time. Of calls at the same time, the one that was planned first comes first."""
        self._count += 1
        heappush(self._planned, (time, self._count, call, argument))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is planned but ticks."""
        return not self._planned

    def advance(self, until: float) -> None:
        """Let the time pass to `until`, and make all calls that are due."""
        planned = self._planned
        while True:
            due = planned[0][0] if planned else inf
            tick = self._next_tick
            if tick <= until and tick <= due:
                self._tick(tick, min(due, until))
                continue
            if due > until:
                break
            _, _, call, argument = heappop(planned)
            self.now = max(due, self.now)
            call(argument)
        self.now = max(until, self.now)

    def finish(self, limit: float) -> None:
        """Let the time pass until nothing is planned, at most to `limit`."""
        while self._planned and self._planned[0][0] <= limit:
            self.advance(self._planned[0][0])

    def _tick(self, at: float, until: float) -> None:
        assert self._wheel is not None  # else no tick is due
        if until - at > MAX_IDLE_TICKS:
            at = until - MAX_IDLE_TICKS
        self.now = at
        self._next_tick = at + TICK
        self._wheel.tick()
