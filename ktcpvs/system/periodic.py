"""Periodic jobs: work that is repeated, and that its own exceptions do not end.

Twisted's LoopingCall stops at the first exception, and a call that schedules itself with callLater ends when it raises
before it has done so. Every job of the daemon that is repeated in the reactor's thread is a PeriodicJob, or a
repetition of the timer wheel (`transport.wheel`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

RETRY_DELAY = 1.0
"""Seconds from a run that raised until the next one, where the job names no other delay."""


class PeriodicJob:
    """Calls `run` again and again until `stop`.

    `run` returns the seconds until the next run, None to rest until `start`, or a Deferred that fires with either. When
    it raises, or the Deferred fails, `failed` is called with the Failure, and the next run follows after `retry`
    seconds. An exception in `failed` is dropped.
    """

    def __init__(
        self,
        clock: Any,
        run: Callable[[], float | Deferred[Any] | None],
        failed: Callable[[Failure], object],
        retry: float = RETRY_DELAY,
    ) -> None:
        """clock: an IReactorTime."""
        self._clock = clock
        self._run = run
        self._failed = failed
        self._retry = retry
        self._call: Any = None
        self._generation = 0  # a result that comes after `start` or `stop` is void

    def start(self, seconds: float = 0.0) -> None:
        """Make the next run in `seconds`; a run that was scheduled, or whose Deferred is awaited, counts no more."""
        self.stop()
        self._call = self._clock.callLater(seconds, self._begin)

    def stop(self) -> None:
        """Make no further run. Safe to call at any time, also within a run."""
        self._generation += 1
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    @property
    def is_scheduled(self) -> bool:
        """True between two runs."""
        return self._call is not None

    def _begin(self) -> None:
        self._call = None
        generation = self._generation
        try:
            pause = self._run()
        except Exception:
            pause = self._has_failed(Failure(), generation)
        if isinstance(pause, Deferred):
            pause.addErrback(self._has_failed, generation).addCallback(self._next, generation)
        else:
            self._next(pause, generation)

    def _has_failed(self, why: Failure, generation: int) -> float:
        if generation == self._generation or not why.check(CancelledError):  # who stops the job may cancel its Deferred
            with suppress(Exception):
                self._failed(why)
        return self._retry

    def _next(self, pause: float | None, generation: int) -> None:
        if pause is not None and generation == self._generation:
            self._call = self._clock.callLater(pause, self._begin)
