"""Periodic jobs: nothing that a run does ends them, but `stop` and what the run returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ktcpvs.system.periodic import PeriodicJob


class Job:
    """A job whose runs do what `run` does. runs: the second of each. failures: of those that failed."""

    def __init__(self, run: Callable[[], Any], failed: Callable[[Failure], object] | None = None) -> None:
        self.clock = Clock()
        self.runs: list[float] = []
        self.failures: list[str] = []
        self._run = run
        self.job = PeriodicJob(self.clock, self.run, failed or self.failed, retry=3)
        self.job.start(1)

    def run(self) -> Any:
        self.runs.append(self.clock.seconds())
        return self._run()

    def failed(self, why: Failure) -> None:
        self.failures.append(why.getErrorMessage())

    def passes(self, seconds: int) -> list[float]:
        for _ in range(seconds):
            self.clock.advance(1)
        return self.runs


def broken(*arguments: object) -> Any:
    raise RuntimeError("broken")


def test_each_run_says_when_the_next_one_is() -> None:
    pauses = iter([2.0, 5.0, None])
    job = Job(lambda: next(pauses))
    assert job.passes(30) == [1, 3, 8]
    assert not job.job.is_scheduled
    assert not job.clock.getDelayedCalls()


@pytest.mark.parametrize("run", [broken, lambda: fail(RuntimeError("broken"))], ids=["it raises", "its Deferred fails"])
def test_a_run_that_fails_is_followed_by_another(run: Callable[[], Any]) -> None:
    job = Job(run)
    assert job.passes(10) == [1, 4, 7, 10]
    assert job.failures == ["broken"] * 4


def test_a_job_survives_an_exception_in_failed() -> None:
    assert Job(broken, failed=broken).passes(10) == [1, 4, 7, 10]


def test_a_deferred_is_waited_for() -> None:
    awaited: list[Deferred[float]] = []

    def run() -> Deferred[float]:
        awaited.append(Deferred())
        return awaited[-1]

    job = Job(run)
    job.passes(10)
    awaited[0].callback(2.0)
    assert job.passes(10) == [1, 12]
    assert Job(lambda: succeed(None)).passes(10) == [1]


def test_what_comes_of_a_run_before_a_stop_or_a_start_is_void() -> None:
    awaited: Deferred[float] = Deferred()
    job = Job(lambda: awaited)
    job.passes(1)
    job.job.stop()
    awaited.callback(1.0)
    assert job.passes(10) == [1]
    cancelled: Deferred[float] = Deferred()
    job = Job(lambda: cancelled)
    job.passes(1)
    job.job.stop()
    cancelled.cancel()
    assert job.passes(10) == [1]
    assert job.failures == []
    job = Job(lambda: job.job.stop() or 1.0)
    assert job.passes(10) == [1]
    job = Job(lambda: job.job.start(4) or 1.0)
    assert job.passes(10) == [1, 5, 9]
