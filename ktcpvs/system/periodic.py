"""Periodic jobs, which keep running when they raise.

Twisted's LoopingCall stops at the first exception, and a function that reschedules itself with callLater ends when it
raises before that. Every periodic job in the reactor's thread is a PeriodicJob or a repetition of the timer wheel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

RETRY_DELAY = 1.0
"""Seconds from a run that raised until the next one, unless the job has another delay."""


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
        self._generation = 0  # a result that comes after `start` or `stop` is ignored

    def start(self, seconds: float = 0.0) -> None:
        """Schedule the next run in `seconds`. An earlier schedule, or the result of a pending run, is ignored."""
        self.stop()
        self._call = self._clock.callLater(seconds, self._begin)

    def stop(self) -> None:
        """Stop the job. This is safe at any time, also within a run."""
        self._generation += 1
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    @property
    def is_scheduled(self) -> bool:
        """Whether the next run is scheduled."""
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
        if generation == self._generation or not why.check(CancelledError):  # stopping the job may cancel its Deferred
            with suppress(Exception):
                self._failed(why)
        return self._retry

    def _next(self, pause: float | None, generation: int) -> None:
        if pause is not None and generation == self._generation:
            self._call = self._clock.callLater(pause, self._begin)
