"""The daemons before this one which still drain: those that it has taken over from, and those that they have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from ktcpvs.system.process import Process


class Predecessors:
    """Watches them. Their connections are in no view of this daemon."""

    def __init__(self) -> None:
        self._processes: dict[int, Process] = {}

    def add(self, pids: Iterable[int]) -> None:
        """Watch these processes, too."""
        for pid in pids:
            with contextlib.suppress(OSError):  # it has ended, or it is of another container
                self._processes[pid] = Process(pid)

    def draining(self) -> tuple[int, ...]:
        """Return the process ids of those that have not ended."""
        self._processes = {pid: process for pid, process in self._processes.items() if not process.has_ended()}
        return tuple(self._processes)
