"""A shared value is computed once for all requests that wait, and cached for a short time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from ktcpvs.status.shared_value import AGE_PER_COST, MIN_AGE, SharedValue


class Computation:
    """A value that the test computes. started: one Deferred for each computation."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.started: list[Deferred[str]] = []
        self.shared = SharedValue(self._compute, self.clock)

    async def _compute(self) -> str:
        self.started.append(Deferred())
        return await self.started[-1]

    def request(self) -> list[Any]:
        """Request the value; the list gets the value or the exception."""
        results: list[Any] = []
        self.shared.get().addCallbacks(results.append, lambda failure: results.append(failure.value))
        return results


def test_one_computation_serves_all_waiting_requests() -> None:
    computation = Computation()
    requests = [computation.request() for _ in range(60)]
    (started,) = computation.started
    assert requests == [[]] * 60
    started.callback("text")
    assert requests == [["text"]] * 60
    assert computation.request() == ["text"]
    assert len(computation.started) == 1


def test_an_old_value_is_computed_again() -> None:
    computation = Computation()
    computation.request()
    computation.started[0].callback("old")
    computation.clock.advance(MIN_AGE - 0.01)
    assert computation.request() == ["old"]
    computation.clock.advance(0.01)
    later = computation.request()
    assert later == []
    computation.started[1].callback("new")
    assert later == ["new"]


def test_a_value_that_takes_long_is_cached_longer() -> None:
    computation = Computation()
    computation.request()
    computation.clock.advance(3)
    computation.started[0].callback("text")
    computation.clock.advance(3 * AGE_PER_COST - 0.01)
    assert computation.request() == ["text"]
    computation.clock.advance(0.01)
    assert computation.request() == []


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_a_cancelled_request_does_not_affect_others(cancelled: int) -> None:
    computation = Computation()
    results: list[list[Any]] = [[], [], []]
    waits = [computation.shared.get() for _ in results]
    for wait, result in zip(waits, results, strict=True):
        wait.addCallbacks(result.append, lambda failure, result=result: result.append(failure.type))
    waits[cancelled].cancel()
    computation.started[0].callback("text")
    assert results == [[CancelledError] if number == cancelled else ["text"] for number in range(3)]


def test_when_all_requests_are_cancelled_the_value_serves_the_next() -> None:
    computation = Computation()
    waits = [computation.shared.get().addErrback(lambda _: None) for _ in range(2)]
    for wait in waits:
        wait.cancel()
    request = computation.request()
    computation.started[0].callback("text")
    assert request == ["text"]
    assert len(computation.started) == 1


def test_a_failure_reaches_all_requests_and_is_not_cached() -> None:
    computation = Computation()
    requests = [computation.request() for _ in range(3)]
    error = ValueError("no")
    computation.started[0].errback(error)
    assert requests == [[error]] * 3
    computation.request()
    assert len(computation.started) == 2


def test_a_forgotten_value_is_computed_again_and_leaves_no_timer() -> None:
    computation = Computation()
    computation.shared.forget()
    computation.request()
    computation.started[0].callback("text")
    computation.shared.forget()
    assert computation.clock.getDelayedCalls() == []
    assert computation.request() == []
