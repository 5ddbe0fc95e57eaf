"""The resource usage of processes, from /proc (proc(5))."""

from __future__ import annotations

import os

from attrs import frozen

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def is_proc_mounted() -> bool:
    """Whether /proc is mounted."""
    return os.path.exists("/proc/self/stat")


@frozen
class Usage:
    """The usage of a process. cpu: seconds in user and system mode. memory: resident bytes. descriptors: open ones."""

    cpu: float
    memory: int
    descriptors: int


def usage(pid: int) -> Usage | None:
    """Return the usage of a process; None if it does not exist or is not accessible."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # from field 3 on; the name before may contain anything
        return Usage(
            cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
            memory=int(fields[21]) * _PAGE,
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        )
    except (OSError, IndexError, ValueError):
        return None
