"""The kernel's counters: the CPU time of a program with all its processes, of a core, and memory. See proc(5)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from attrs import frozen

HERTZ = os.sysconf("SC_CLK_TCK")

PROC = Path("/proc")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name of the program; empty when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents = {int(path.name): _stat(int(path.name)) for path in PROC.iterdir() if path.name.isdigit()}
    children: dict[int, list[int]] = {}
    for child, fields in parents.items():
        if fields:
            children.setdefault(int(fields[1]), []).append(child)
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


def cpu_of(pid: int) -> float:
    """Seconds of CPU time, user and system, of a program: its living processes and its children that have ended."""
    return sum(cpu_of_each(pid).values())


def cpu_of_each(pid: int) -> dict[int, float]:
    """The same by process; what a process' children had used when they ended is the process'."""
    return {member: sum(map(int, _stat(member)[11:15])) / HERTZ for member in family(pid)}


def exact_cpu_of(pid: int) -> float:
    """Seconds of CPU time of a program's living processes, exact to the nanosecond: their scheduler's own count."""
    total = 0
    for member in family(pid):
        for file in (PROC / str(member) / "task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                total += int(file.read_text().split()[0])
    return total / 1e9


def busy(text: str, core: int) -> float:
    """Seconds in which a core was not idle, from the text of /proc/stat: user, nice, system, irq and softirq."""
    for line in text.splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
            return (user + nice + system + irq + softirq) / HERTZ
    raise ValueError(f"no core {core}")


@frozen
class Spent:
    """Seconds of CPU time. program: the proxy's own processes. cores: all that its cores did, for the proxy and for
    everything else that ran there: mostly what the kernel does when packets arrive."""

    program: float
    cores: float

    def since(self, before: Spent) -> Spent:
        return Spent(self.program - before.program, self.cores - before.cores)


def spent(pid: int, cores: set[int], *, exact: bool = False) -> Spent:
    """The counters now. exact: the program's time without the steps of 10 ms; of processes that live on, no others."""
    text = (PROC / "stat").read_text()
    return Spent(exact_cpu_of(pid) if exact else cpu_of(pid), sum(busy(text, core) for core in cores))


@frozen
class Memory:
    """Bytes of a program and its children. resident: VmRSS, pages that processes share counted for each of them.
    proportional: Pss, a shared page divided by those who share it."""

    resident: int
    proportional: int


def _field(path: Path, name: str) -> int:
    """A size from a file of /proc, in bytes."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name} in {path}")


def memory_of(pid: int) -> Memory:
    """Read the counters of a program."""
    folders = [PROC / str(member) for member in family(pid)]
    return Memory(
        sum(_field(folder / "status", "VmRSS") for folder in folders),
        sum(_field(folder / "smaps_rollup", "Pss") for folder in folders),
    )
