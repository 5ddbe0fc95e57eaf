"""One line an event, written or not by the debug level of KTCPVS.

Level 0 is always written. The levels: 0 announcements and transmission errors, 1 non-fatal errors, 2 configuration,
3 daemon and listening, 4 connections new and ended, 5 scheduling, 8 state changes, 12 data relayed.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

ANNOUNCE = 0
NON_FATAL = 1
CONFIGURATION = 2
DAEMON = 3
CONNECTION = 4
SCHEDULING = 5
STATE = 8
DATA = 12


class EventLog:
    """level: what is written, 0..12. Ask `if log.level >= CONNECTION` first where the values cost something."""

    def __init__(self, level: int = 0, logger: Logger | None = None) -> None:
        self.level = level
        self._logger = logger or Logger(namespace="ktcpvs")

    def event(self, level: int, form: str, **values: Any) -> None:
        """Write `form`, filled in with `values`, if the level says so."""
        if self.level >= level:
            self._logger.info(form, **values)

    def warn(self, form: str, **values: Any) -> None:
        """Something is wrong that people should know: always written."""
        self._logger.warn(form, **values)

    def failure(self, form: str, failure: Failure | None = None, **values: Any) -> None:
        """A bug, ours or a plugin's: always written, with its traceback."""
        self._logger.failure(form, failure=failure, **values)
