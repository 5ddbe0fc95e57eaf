"""The log: levels, and that a repeated failure does not fill the disk."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent

from ktcpvs.system.log import CONNECTION, DAEMON, FAILURE_INTERVAL, MAX_KNOWN_FAILURES, EventLog


def log(level: int, clock: Clock) -> tuple[EventLog, list[str]]:
    said: list[str] = []
    logger = Logger(namespace="test", observer=lambda event: said.append(formatEvent(event)))
    return EventLog(level, logger, clock.seconds), said


def fail(events: EventLog, why: str, ident: str = "web") -> None:
    try:
        raise RuntimeError(why)
    except RuntimeError:
        events.failure("scheduler of service {ident} failed", ident=ident)


def test_the_level_says_what_is_written() -> None:
    events, said = log(DAEMON, Clock())
    events.event(CONNECTION, "too much")
    events.event(DAEMON, "{n} enough", n=1)
    events.warn("always")
    assert said == ["1 enough", "always"]


def test_the_same_failure_is_written_once_a_minute_and_counted() -> None:
    clock = Clock()
    events, said = log(0, clock)
    for _ in range(5):
        fail(events, "no")
    assert said == ["scheduler of service web failed"]
    clock.advance(FAILURE_INTERVAL)
    fail(events, "no")
    assert said[1:] == ["scheduler of service web failed (4 times more since the last such line)"]


def test_other_failures_are_other_lines() -> None:
    events, said = log(0, Clock())
    fail(events, "one")
    fail(events, "another")
    fail(events, "one", ident="mail")
    assert len(said) == 3


def test_each_reason_of_a_fault_is_a_line() -> None:
    clock = Clock()
    events, said = log(0, clock)
    form = "service {ident}: {client} refused: {reason}"
    for reason in "early", "late", "early":
        events.fault(form, "web", reason, client="a")
    assert said == ["service web: a refused: early", "service web: a refused: late"]
    clock.advance(FAILURE_INTERVAL)
    events.fault(form, "web", "early", client="b")
    assert said[2:] == ["service web: b refused: early (1 times more since the last such line)"]


def test_what_is_remembered_is_bounded() -> None:
    events, said = log(0, Clock())
    for number in range(MAX_KNOWN_FAILURES):
        fail(events, str(number))
    fail(events, "one more")  # all are forgotten
    fail(events, "0")
    assert len(said) == MAX_KNOWN_FAILURES + 2
