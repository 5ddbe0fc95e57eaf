"""Lines in syslog: their priority and their text."""

from __future__ import annotations

import syslog

import pytest
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from ktcpvs.system.log import EventLog
from ktcpvs.system.syslog import MAX_LINE_LENGTH, open_syslog

Written = list[tuple[int, str]]


@pytest.fixture
def written() -> Written:
    return []


@pytest.fixture
def log(written: Written) -> EventLog:
    return EventLog(logger=logger("ktcpvs", written))


def logger(namespace: str, written: Written) -> Logger:
    observe = open_syslog(lambda priority, line: written.append((priority, line)))
    return Logger(namespace=namespace, observer=observe)  # type: ignore[arg-type]


def test_lines_have_their_priority(log: EventLog, written: Written) -> None:
    log.event(0, "{count} workers serve", count=2)
    log.warn("no server")
    log.repeat("error", "worker 1: {line}", line="{x}")
    assert written == [
        (syslog.LOG_INFO, "2 workers serve"),
        (syslog.LOG_WARNING, "no server"),
        (syslog.LOG_ERR, "worker 1: {x}"),
    ]


def test_a_traceback_has_a_message_for_each_line(log: EventLog, written: Written) -> None:
    log.failure("internal error", Failure(ValueError("odd")))
    assert {priority for priority, _ in written} == {syslog.LOG_CRIT}
    assert written[0][1].startswith("internal error")
    assert written[-1][1].endswith("builtins.ValueError: odd")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\0b\udcff", ["a\\0b\\udcff"]),
        ("a\nb\r\nc", ["a", "b", "c"]),
        ("x" * 9000, ["x" * MAX_LINE_LENGTH]),
    ],
    ids=["odd characters", "lines", "long"],
)
def test_any_text_can_be_sent(log: EventLog, written: Written, text: str, lines: list[str]) -> None:
    log.event(0, "{text}", text=text)
    assert written == [(syslog.LOG_INFO, line) for line in lines]


def test_events_of_libraries_have_their_namespace(written: Written) -> None:
    logger("twisted.internet", written).emit(LogLevel.debug, "closed")
    assert written == [(syslog.LOG_DEBUG, "twisted.internet: closed")]
