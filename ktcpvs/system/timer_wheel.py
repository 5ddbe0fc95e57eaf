"""One coarse timer wheel for all timeouts, with one tick per second, whatever the number of timers.

A timer fires at the first tick after its time: never early, at most one tick late. Time in which the process did not
run does not count: bytes that clients and servers sent meanwhile wait in the kernel, and no timeout may fire before
they have been read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ktcpvs.system.periodic import PeriodicJob

TICK = 1.0
"""Seconds between two ticks."""

CLOCK_TOLERANCE = 1e-6
"""Seconds by which a clock may call early because of rounding."""

MAX_TICKS_PER_TURN = 2
"""The most ticks that one turn catches up on. After a stall, as of a stopped process or a suspended machine, the
others are dropped."""


class Timer:
    """A pending call; `cancel()` may be called at any time, any number of times."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class TimerWheel:
    """The wheel. now: ticks since its start, without stalls; a cheap clock."""

    __slots__ = ("_began", "_clock", "_failed", "_job", "_slots", "now")

    def __init__(self, clock: Any, failed: Callable[[], object]) -> None:
        """clock: an IReactorTime. failed: called within the except block when a timer's call raises; the wheel keeps
        running even if `failed` raises."""
        self.now = 0
        self._clock = clock
        self._slots: dict[int, list[Timer]] = {}
        self._failed = failed
        self._began = 0.0
        self._job = PeriodicJob(clock, self._turn, lambda why: failed(), TICK)

    def start(self) -> None:
        self._began = self._clock.seconds() - self.now * TICK
        self._job.start(TICK)

    def stop(self) -> None:
        self._job.stop()

    @property
    def pending(self) -> int:
        """The number of timers that have not fired and are not cancelled."""
        return sum(timer.call is not None for slot in self._slots.values() for timer in slot)

    def after(self, seconds: float, call: Callable[[], Any]) -> Timer:
        """Call `call` when `seconds` have passed."""
        timer = Timer(call)
        due = self.now + 1 + (seconds if type(seconds) is int else math.ceil(seconds / TICK))
        slot = self._slots.get(due)
        if slot is None:
            self._slots[due] = [timer]
        else:
            slot.append(timer)
        return timer

    def repeat(self, seconds: float, call: Callable[[], bool]) -> None:
        """Call `call` every `seconds`, at most a tick later, until it returns False. An exception does not end it."""

        def again() -> None:
            goes_on = True
            try:
                goes_on = call()
            finally:
                if goes_on:
                    self.after(seconds, again)

        self.after(seconds, again)

    def _turn(self) -> float:
        """Make the due ticks, at most MAX_TICKS_PER_TURN. Returns the seconds until the next one."""
        elapsed: float = self._clock.seconds() - self._began
        dropped = max(int(elapsed / TICK + CLOCK_TOLERANCE) - self.now - MAX_TICKS_PER_TURN, 0)
        self._began += dropped * TICK
        elapsed -= dropped * TICK
        while (self.now + 1) * TICK <= elapsed + CLOCK_TOLERANCE:
            self.tick()
        left: float = self._began + (self.now + 1) * TICK - self._clock.seconds()
        return max(left, 0.0)

    def tick(self) -> None:
        """Make one tick: call what is due. A wheel that runs makes its ticks itself."""
        self.now += 1
        for timer in self._slots.pop(self.now, ()):
            if timer.call is not None:
                try:
                    timer.call()
                except Exception:
                    with suppress(Exception):
                        self._failed()
