"""Exit statuses of tcpvsadm, and the failures besides a Refusal that lead to them."""

from __future__ import annotations

import signal

DONE = 0
REFUSED = 1
"""The daemon refused, or a file could not be read or written; nothing was changed."""

MISUSED = 2
NO_DAEMON = 3
DIFFERS = 4
"""--diff has found differences."""

INTERRUPTED = 128 + signal.SIGINT
CLOSED_PIPE = 128 + signal.SIGPIPE
"""As a shell reports a process that was ended by the signal."""


class UsageError(Exception):
    """The command line makes no sense; `str()` of it is the reason, in one line."""


class NoDaemon(Exception):
    """No daemon carried the command out, or it is unknown whether one did; the text says why, and what to try."""
