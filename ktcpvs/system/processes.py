"""What processes use, as the kernel counts it in /proc (proc(5))."""

from __future__ import annotations

import os

from attrs import frozen

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def is_proc_mounted() -> bool:
    """True when /proc is there."""
    return os.path.exists("/proc/self/stat")


@frozen
class Usage:
    """cpu: seconds in user and system mode. memory: resident bytes. descriptors: how many are open."""

    cpu: float
    memory: int
    descriptors: int


def usage(pid: int) -> Usage | None:
    """What process `pid` uses now; None: there is no such process, or it may not be looked at."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # field 3 and those behind; the name may hold anything
        return Usage(
            cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
            memory=int(fields[21]) * _PAGE,
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        )
    except (OSError, IndexError, ValueError):
        return None
