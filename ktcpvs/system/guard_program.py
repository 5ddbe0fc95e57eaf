"""Ends the programs of a daemon that has ended without doing so. Run as a program of its own, which imports nothing.

It reads lines on its standard input, which only the daemon has: `+GROUP SECONDS` for a process group that has started,
and `-GROUP` for one that has ended. At the end of its input it sends SIGTERM to all that are left, and SIGKILL to those
that run SECONDS later.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

POLL_INTERVAL = 0.1
"""Seconds."""


def read_groups(lines: Iterable[str]) -> dict[int, float]:
    """Return the groups that are left at the end of `lines`, with the seconds that each may take to end."""
    left: dict[int, float] = {}
    for line in lines:
        words = line[1:].split()
        if line.startswith("+"):
            left[int(words[0])] = float(words[1])
        else:
            left.pop(int(words[0]), None)
    return left


def send(group: int, number: int) -> bool:
    """Send a signal to a group; 0: none. Return whether it has processes."""
    with contextlib.suppress(ProcessLookupError):
        with contextlib.suppress(PermissionError):
            os.killpg(group, number)
        return True
    return False


def end_groups(groups: dict[int, float]) -> None:
    """End these groups."""
    left = {group: time.monotonic() + seconds for group, seconds in groups.items() if send(group, signal.SIGTERM)}
    while left:
        time.sleep(POLL_INTERVAL)
        now = time.monotonic()
        left = {group: end for group, end in left.items() if send(group, 0 if now < end else signal.SIGKILL)}
        left = {group: end for group, end in left.items() if now < end}


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as from a service manager that stops the daemon
        signal.signal(ignored, signal.SIG_IGN)
    end_groups(read_groups(sys.stdin))
