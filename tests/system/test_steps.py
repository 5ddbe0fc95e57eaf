"""Steps of a change that can no longer be refused: a failed one is logged, and the others are taken."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger, formatEvent

from ktcpvs.system.log import EventLog
from ktcpvs.system.steps import Steps


class Untold(Exception):
    """An exception of a plugin whose str() raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def broken(error: Exception) -> None:
    raise error


def test_steps() -> None:
    events: list[dict[str, Any]] = []
    steps = Steps(EventLog(logger=Logger(observer=events.append)))
    taken: list[int] = []
    assert steps.run("one", taken.append, 1)
    assert not steps.run("two", broken, ValueError("broken"))
    assert not steps.run("three", broken, Untold())
    assert steps.run("four", taken.append, 4)
    assert taken == [1, 4]
    assert [formatEvent(event) for event in events] == [
        "internal error in the step 'two'; the other steps follow",
        "internal error in the step 'three'; the other steps follow",
    ]
    assert all("log_failure" in event for event in events), "with their tracebacks"


def test_steps_that_take_time() -> None:
    events: list[dict[str, Any]] = []
    steps = Steps(EventLog(logger=Logger(observer=events.append)))
    came: list[bool] = []

    async def take(*steps_: Deferred[Any]) -> None:
        for step in steps_:
            came.append(await steps.wait("a step", lambda step=step: step))

    waits: Deferred[None] = Deferred()
    Deferred.fromCoroutine(take(succeed(None), fail(ValueError("broken")), waits, fail(CancelledError())))
    assert came == [True, False]
    waits.callback(None)
    assert came == [True, False, True, False]
    assert len(events) == 1, "the end of the process is no error"
