"""One line an event, written or not by the debug level of KTCPVS.

Level 0 is always written. The levels: 0 announcements and transmission errors, 1 non-fatal errors, 2 configuration,
3 daemon and listening, 4 connections new and ended, 5 scheduling, 8 state changes, 12 data relayed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
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

FAILURES_EVERY = 60
"""Seconds between two tracebacks of the same failure: what fails for every request must not fill the disk."""

FAILURES_KNOWN = 64
"""How many different ones are told apart; then all are forgotten."""


class EventLog:
    """level: what is written, 0..12. Ask `if log.level >= CONNECTION` first where the values cost something."""

    def __init__(
        self, level: int = 0, logger: Logger | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """clock: seconds that only grow."""
        self.level = level
        self._logger = logger or Logger(namespace="ktcpvs")
        self._clock = clock
        self._failures: dict[Any, tuple[float, int]] = {}  # what failed where -> last written, how often since

    def event(self, level: int, form: str, **values: Any) -> None:
        """Write `form`, filled in with `values`, if the level says so."""
        if self.level >= level:
            self._logger.info(form, **values)

    def warn(self, form: str, **values: Any) -> None:
        """Something is wrong that people should know: always written."""
        self._logger.warn(form, **values)

    def failure(self, form: str, failure: Failure | None = None, **values: Any) -> None:
        """A bug, ours or a plugin's: written with its traceback, the same one once in FAILURES_EVERY seconds."""
        if failure is None:
            failure = Failure()
        why = safe_str(failure.value)[:200]  # the text of a plugin's exception may raise itself
        since = self._since((form, values.get("ident"), failure.type, why, *_place(failure)))
        if since is not None:
            self._logger.failure(form + since, failure=failure, **values)

    def fault(self, form: str, **values: Any) -> None:
        """The same for one without a traceback. ident: what it is the fault of."""
        since = self._since((form, values.get("ident")))
        if since is not None:
            self._logger.warn(form + since, **values)

    def _since(self, key: Any) -> str | None:
        """None: it is not to be written again so soon; else what to say of the times when it was not written."""
        now = self._clock()
        written, since = self._failures.get(key, (None, 0))
        if written is not None and now - written < FAILURES_EVERY:
            self._failures[key] = written, since + 1
            return None
        if written is None and len(self._failures) >= FAILURES_KNOWN:
            self._failures.clear()
        self._failures[key] = now, 0
        return f" ({since} times more since the last such line)" if since else ""


def _place(failure: Failure) -> tuple[str, int] | tuple[()]:
    """(file, line) where it was raised."""
    trace = failure.getTracebackObject()
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ()
