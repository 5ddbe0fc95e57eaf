"""One coarse timer wheel for all timeouts: a tick a second, whatever the number of timers.

A timer fires at the first tick after its time: never early, at most one tick late. Time in which the process did not
run does not count: what clients and servers sent meanwhile waits in the kernel, and no timeout may fire before that has
been read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ktcpvs.system.periodic import PeriodicJob

TICK = 1.0
"""Seconds between two ticks."""

EARLY = 1e-6
"""Seconds by which a clock may call early, since it counts in floating point."""

MAX_TICKS = 2
"""Ticks that one turn makes up for. After a stall, as of a stopped process or a suspended machine, the others are
dropped."""


class Timer:
    """A call that is due; `cancel()` may be called at any time, any number of times."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class TimerWheel:
    """now: ticks since the wheel began, without stalls; to be read at any moment for almost nothing."""

    def __init__(self, clock: Any, failed: Callable[[], object]) -> None:
        """clock: an IReactorTime. failed: called, within the except block, when a timer's call raises; the wheel goes
        on, whatever `failed` does."""
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
        """Call `call` every `seconds`, a tick more at most, until it returns False. When it raises, it is repeated."""

        def again() -> None:
            goes_on = True
            try:
                goes_on = call()
            finally:
                if goes_on:
                    self.after(seconds, again)

        self.after(seconds, again)

    def _turn(self) -> float:
        """Make the ticks that are due, MAX_TICKS at most. Returns the seconds until the next one."""
        elapsed: float = self._clock.seconds() - self._began
        dropped = max(int(elapsed / TICK + EARLY) - self.now - MAX_TICKS, 0)
        self._began += dropped * TICK
        elapsed -= dropped * TICK
        while (self.now + 1) * TICK <= elapsed + EARLY:
            self._tick()
        left: float = self._began + (self.now + 1) * TICK - self._clock.seconds()
        return max(left, 0.0)

    def _tick(self) -> None:
        self.now += 1
        for timer in self._slots.pop(self.now, ()):
            if timer.call is not None:
                try:
                    timer.call()
                except Exception:
                    with suppress(Exception):
                        self._failed()
