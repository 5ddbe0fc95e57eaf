"""Notices that a process serves nobody, as with an endless loop in a scheduler, and says where it is.

A thread looks at the process from the side. Only time in which the thread itself has run counts, so that a process that
was stopped, or a machine that was suspended, says nothing.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable

LOOK_INTERVAL = 0.5
"""Seconds between two looks."""

MAX_FRAMES = 3
"""The most functions that are named: that which runs, and its callers."""


class StallWatch:
    """Watches the thread that has made it. Each stall is told once."""

    def __init__(
        self, beat: Callable[[], int], limit: Callable[[], float], stalled: Callable[[float, str], object]
    ) -> None:
        """beat: returns a number that changes once a second, while all is well. limit: returns the longest stall, in
        seconds, that is not told; 0: none is told. stalled: called in another thread, with the seconds so far and where
        the process is, in words."""
        self._beat = beat
        self._limit = limit
        self._stalled = stalled
        self._thread = threading.get_ident()
        self._last = -1
        self._silence = 0.0
        self._is_told = False
        self._is_over = threading.Event()

    def start(self) -> None:
        """Look from now on, in a thread that ends with the process or by `stop`."""
        threading.Thread(target=self._run, name="stall watch", daemon=True).start()

    def stop(self) -> None:
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.wait(LOOK_INTERVAL):
            self.look(LOOK_INTERVAL)

    def look(self, seconds: float) -> None:
        """Look once. seconds: since the last look."""
        beat = self._beat()
        if beat != self._last:
            self._last, self._silence, self._is_told = beat, 0.0, False
            return
        self._silence += seconds
        limit = self._limit()
        if limit and self._silence >= limit and not self._is_told:
            self._is_told = True
            self._stalled(self._silence, where_is(self._thread))


def where_is(thread: int) -> str:
    """Return what a thread does: FILE:LINE and function, then those of its callers. thread: its ident."""
    frame = sys._current_frames().get(thread)
    found = traceback.extract_stack(frame, MAX_FRAMES) if frame is not None else []
    return ", called by ".join(f"{one.filename}:{one.lineno} in {one.name}" for one in reversed(found)) or "unknown"
