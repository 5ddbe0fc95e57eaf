"""Calls that are spread evenly over a time: clients whose connections they close come back one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.python.failure import Failure

from ktcpvs.runtime.context import Context
from ktcpvs.system.periodic import PeriodicJob

INTERVAL = 0.1
"""Seconds between two groups of calls."""


class SpreadCalls:
    """Makes calls within some seconds, in their order. is_over: all have been made."""

    def __init__(self, context: Context, name: str, calls: Sequence[Callable[[], object]], seconds: float) -> None:
        """name: of such a call, for the log. seconds: 0: all calls are made at once."""
        self._context = context
        self._name = name
        self._calls = calls
        self._seconds = seconds
        self._begun = 0.0
        self._made = 0
        self._job = PeriodicJob(context.reactor, self._run, self._failed, INTERVAL)

    def start(self) -> None:
        """Make the first calls, and the others later."""
        self._begun = self._context.reactor.seconds()
        if self._seconds and self._calls:
            self._job.start()
        else:
            self._make(len(self._calls))

    @property
    def is_over(self) -> bool:
        return self._made == len(self._calls)

    def stop(self) -> None:
        """Make no more calls."""
        self._job.stop()

    def _run(self) -> float | None:
        passed = self._context.reactor.seconds() - self._begun
        self._make(min(len(self._calls), int(len(self._calls) * passed / self._seconds) + 1))
        return None if self.is_over else INTERVAL

    def _make(self, end: int) -> None:
        begin, self._made = self._made, max(self._made, end)
        for call in self._calls[begin : self._made]:
            self._context.steps.run(self._name, call)

    def _failed(self, why: Failure) -> None:
        self._context.log.failure("{name}: cannot continue", why, name=self._name)
