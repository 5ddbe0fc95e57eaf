"""Processes, from /proc (proc(5)): their resource usage, and whether one has ended."""

from __future__ import annotations

import os

from attrs import frozen

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def is_proc_mounted() -> bool:
    """Whether /proc is mounted."""
    return os.path.exists("/proc/self/stat")


def is_running(pid: int) -> bool:
    """Whether a process runs. False for one that has ended, and whose parent has not waited for it yet."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (ProcessLookupError, OverflowError):
        return False
    except (OSError, IndexError):  # of another user, or /proc is not mounted
        return True


@frozen
class Usage:
    """The usage of a process. cpu: seconds in user and system mode. memory: resident bytes. descriptors: open ones.
    max_descriptors: its soft limit; None: there is none."""

    cpu: float
    memory: int
    descriptors: int
    max_descriptors: int | None


def usage(pid: int) -> Usage | None:
    """Return the usage of a process; None if it does not exist or is not accessible."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # from field 3 on; the name before may contain anything
        return Usage(
            cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
            memory=int(fields[21]) * _PAGE,
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            max_descriptors=_max_descriptors(pid),
        )
    except (OSError, IndexError, ValueError):
        return None


def _max_descriptors(pid: int) -> int | None:
    """Raises OSError, IndexError or ValueError."""
    with open(f"/proc/{pid}/limits", encoding="ascii") as file:
        soft = file.read().partition("Max open files")[2].split()[0]
    return None if soft == "unlimited" else int(soft)


def identity(pid: int) -> str:
    """Return a text that names a process of this machine and no other one, ever; "": /proc does not tell it.

    It holds the boot, the namespace of process numbers, the number, and the time at which the process began.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            return ""
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {pid} {int(fields[19])}"
    except (OSError, IndexError, ValueError):
        return ""


def has_ended(text: str) -> bool:
    """Whether the process that `identity` has named has ended. False also if it ran on another machine, in another
    container, or before the machine was started again: then nothing is known of it."""
    *place, number, _ = text.split() if text.count(" ") == 3 else ["", "", "", ""]
    own = identity(os.getpid())
    return bool(own) and number.isdecimal() and own.split()[:2] == place and identity(int(number)) != text
