"""The event log: one line for each event, filtered by the debug levels of KTCPVS.

Level 0 is always written. The levels: 0 announcements and transmission errors, 1 non-fatal errors, 2 configuration,
3 daemon and listening, 4 new and ended connections, 5 scheduling, 8 state changes, 12 relayed data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

ANNOUNCE = 0
NON_FATAL = 1
CONFIGURATION = 2
DAEMON = 3
CONNECTION = 4
SCHEDULING = 5
STATE = 8
DATA = 12

FAILURE_INTERVAL = 60
"""Seconds between two tracebacks of the same failure: one that every request causes must not fill the disk."""

MAX_KNOWN_FAILURES = 64
"""The most different failures that are remembered; beyond that, all are forgotten."""


class EventLog:
    """Writes events up to a level, 0..12. Check `log.level >= CONNECTION` first if the values are expensive."""

    def __init__(
        self, level: int = 0, logger: Logger | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """clock: returns monotonic seconds."""
        self.level = level
        self._logger = logger or Logger(namespace="ktcpvs")
        self._clock = clock
        self._failures: dict[Any, tuple[float, int]] = {}  # failure and place -> last written, count since

    def event(self, level: int, form: str, **values: Any) -> None:
        """Write `form`, filled in with `values`, if the level allows it."""
        if self.level >= level:
            self._logger.info(form, **values)

    def warn(self, form: str, **values: Any) -> None:
        """Write a warning, at every level."""
        self._logger.warn(form, **values)

    def repeat(self, priority: str, form: str, **values: Any) -> None:
        """Write what another process has logged, at every level. priority: the name of its level in Twisted: debug,
        info, warn, error or critical."""
        self._logger.emit(LogLevel.levelWithName(priority), form, **values)

    def failure(self, form: str, failure: Failure | None = None, **values: Any) -> None:
        """Write a bug, ours or a plugin's, with its traceback; the same one only once in FAILURE_INTERVAL seconds."""
        if failure is None:
            failure = Failure()
        why = safe_str(failure.value)[:200]  # str() of a plugin's exception may raise
        since = self._since((form, values.get("ident"), failure.type, why, *_place(failure)))
        if since is not None:
            self._logger.failure(form + since, failure=failure, **values)

    def fault(self, form: str, ident: str = "", reason: str = "", **values: Any) -> None:
        """Write a bug or a client's fault without a traceback, the same one as seldom as `failure` does.

        ident: the service at fault. reason: each one is written by itself.
        """
        since = self._since((form, ident, reason))
        if since is not None:
            self._logger.warn(form + since, ident=ident, reason=reason, **values)

    def _since(self, key: Any) -> str | None:
        """Return None if the failure was written recently, else a note on how often it has been suppressed."""
        now = self._clock()
        written, since = self._failures.get(key, (None, 0))
        if written is not None and now - written < FAILURE_INTERVAL:
            self._failures[key] = written, since + 1
            return None
        if written is None and len(self._failures) >= MAX_KNOWN_FAILURES:
            self._failures.clear()
        self._failures[key] = now, 0
        return f" ({since} times more since the last such line)" if since else ""


def _place(failure: Failure) -> tuple[str, int] | tuple[()]:
    """Return (file, line) where the exception was raised."""
    trace = failure.getTracebackObject()
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ()
