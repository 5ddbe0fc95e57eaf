"""How a run of tcpvsadm can end: the exit statuses, and the failures that lead to them besides a Refusal."""

from __future__ import annotations

import signal

DONE = 0
REFUSED = 1
"""The daemon refused, or a file could not be read or written; the table is as it was."""

MISUSED = 2
NO_DAEMON = 3
DIFFERS = 4
"""What --diff was asked about is another configuration than the one in force."""

INTERRUPTED = 128 + signal.SIGINT
CLOSED_PIPE = 128 + signal.SIGPIPE
"""As a shell says it of a process that the signal ended."""


class Misuse(Exception):
    """The command line cannot be meant; `str()` of it is the reason, in one line."""


class NoDaemon(Exception):
    """Nobody carried the command out, or nobody can say whether it was; the text says where, why, and what to try."""
