"""The daemon's log in syslog: each line with its priority, the facility daemon and the number of the process."""

from __future__ import annotations

import syslog
from collections.abc import Callable, Iterator

from twisted.logger import LogEvent, LogLevel, eventAsText

NAME = "ktcpvs"
"""The name of the program in each line, and the namespace of its own events."""

MAX_LINE_LENGTH = 8000
"""The most characters of a line: syslogds cut or refuse longer ones (rsyslog: at 8 KiB)."""

PRIORITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}


def open_syslog(write: Callable[[int, str], object] = syslog.syslog) -> Callable[[LogEvent], None]:
    """Return what writes an event to syslog. write: is given the priority and the text of each line.

    Nothing fails where no syslogd listens: its lines are lost.
    """
    syslog.openlog(NAME, syslog.LOG_PID, syslog.LOG_DAEMON)

    def observe(event: LogEvent) -> None:
        priority = PRIORITIES.get(event.get("log_level"), syslog.LOG_INFO)
        for line in _lines_of(event):
            write(priority, line)

    return observe


def _lines_of(event: LogEvent) -> Iterator[str]:
    """Yield the lines of an event: of a failure, its traceback too."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    namespace = event.get("log_namespace")
    if namespace not in (NAME, "log_legacy", None):
        text = f"{namespace}: {text}"
    for line in text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0").splitlines():
        yield line[:MAX_LINE_LENGTH]
