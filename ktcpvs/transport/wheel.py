"""One coarse timer wheel for all timeouts: a tick a second, whatever the number of timers.

A timer fires at the first tick after its time: never early, at most one tick late. Time in which the process did not
run does not count: what clients and servers sent meanwhile waits in the kernel, and no timeout may fire before that has
been read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

TICK = 1.0
"""Seconds between two ticks."""

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


class Wheel:
    """now: ticks since the wheel began, without stalls; to be read at any moment for almost nothing."""

    def __init__(self, clock: IReactorTime, failed: Callable[[], object]) -> None:
        """failed: called, within the except block, when a timer's call raises; the wheel goes on."""
        self.now = 0
        self._slots: dict[int, list[Timer]] = {}
        self._failed = failed
        self._loop = LoopingCall.withCount(self._turn)
        self._loop.clock = clock
        self._started = False

    def start(self) -> None:
        self._loop.start(TICK, now=False)
        self._started = True

    def stop(self) -> None:
        if self._started:
            self._loop.stop()
            self._started = False

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

    def _turn(self, ticks: int) -> None:
        for _ in range(min(ticks, MAX_TICKS)):
            self.now += 1
            for timer in self._slots.pop(self.now, ()):
                if timer.call is not None:
                    try:
                        timer.call()
                    except Exception:
                        self._failed()
