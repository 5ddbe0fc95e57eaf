"""One making serves everybody who waits, and its value is kept for a short time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from ktcpvs.status.shared_value import AGE_PER_COST, MIN_AGE, SharedValue


class Making:
    """A value that the test makes. started: one Deferred for each making."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.started: list[Deferred[str]] = []
        self.shared = SharedValue(self._make, self.clock)

    async def _make(self) -> str:
        self.started.append(Deferred())
        return await self.started[-1]

    def ask(self) -> list[Any]:
        """What this visitor is told: nothing yet, a text, or an exception."""
        told: list[Any] = []
        self.shared.get().addCallbacks(told.append, lambda failure: told.append(failure.value))
        return told


def test_one_making_serves_all_who_wait() -> None:
    making = Making()
    visitors = [making.ask() for _ in range(60)]
    (started,) = making.started
    assert visitors == [[]] * 60
    started.callback("text")
    assert visitors == [["text"]] * 60
    assert making.ask() == ["text"]
    assert len(making.started) == 1


def test_a_value_is_made_anew_when_it_is_old() -> None:
    making = Making()
    making.ask()
    making.started[0].callback("old")
    making.clock.advance(MIN_AGE - 0.01)
    assert making.ask() == ["old"]
    making.clock.advance(0.01)
    later = making.ask()
    assert later == []
    making.started[1].callback("new")
    assert later == ["new"]


def test_a_value_that_takes_long_is_kept_longer() -> None:
    making = Making()
    making.ask()
    making.clock.advance(3)
    making.started[0].callback("text")
    making.clock.advance(3 * AGE_PER_COST - 0.01)
    assert making.ask() == ["text"]
    making.clock.advance(0.01)
    assert making.ask() == []


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_a_visitor_who_leaves_ends_its_own_wait_alone(leaver: int) -> None:
    making = Making()
    told: list[list[Any]] = [[], [], []]
    waits = [making.shared.get() for _ in told]
    for wait, hears in zip(waits, told, strict=True):
        wait.addCallbacks(hears.append, lambda failure, hears=hears: hears.append(failure.type))
    waits[leaver].cancel()
    making.started[0].callback("text")
    assert told == [[CancelledError] if number == leaver else ["text"] for number in range(3)]


def test_when_all_have_left_the_value_serves_the_next() -> None:
    making = Making()
    waits = [making.shared.get().addErrback(lambda _: None) for _ in range(2)]
    for wait in waits:
        wait.cancel()
    come = making.ask()
    making.started[0].callback("text")
    assert come == ["text"]
    assert len(making.started) == 1


def test_a_failure_is_told_to_all_and_not_kept() -> None:
    making = Making()
    visitors = [making.ask() for _ in range(3)]
    error = ValueError("no")
    making.started[0].errback(error)
    assert visitors == [[error]] * 3
    making.ask()
    assert len(making.started) == 2


def test_what_is_forgotten_is_made_anew_and_leaves_no_timer() -> None:
    making = Making()
    making.shared.forget()
    making.ask()
    making.started[0].callback("text")
    making.shared.forget()
    assert making.clock.getDelayedCalls() == []
    assert making.ask() == []
