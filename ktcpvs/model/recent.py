"""The recent responses of a server: the latency to the first byte, and the share of failures, newer ones weighing more.

Both decay exponentially with the same time constant. They belong to a destination, and are made when a scheduler first
reads them there: until then nothing is measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from math import exp

from ktcpvs.model.latency import BUCKETS, within

DECAY = 10.0
"""Seconds after which a past measurement has 1/e of its weight."""


def no_time() -> float:
    """Return 0: the clock of a destination in whose world no time passes, as in tests."""
    return 0.0


class Latency:
    """The times from the choice of a server to the first byte of its response, in seconds.

    last: the last one; 0: there was none. histogram: how many there were in each of L{BUCKETS}, and one more count for
    longer ones. clock: returns monotonic seconds.
    """

    __slots__ = ("_peak", "_stamp", "clock", "histogram", "last")

    def __init__(self, clock: Callable[[], float] = no_time) -> None:
        self.clock = clock
        self.last = 0.0
        self.histogram = [0] * (len(BUCKETS) + 1)
        self._peak = 0.0  # the peak EWMA at `_stamp`
        self._stamp = 0.0

    def __repr__(self) -> str:
        return f"<Latency {self.ewma:.6f} s, the last {self.last:.6f} s, {self.count} in all>"

    @property
    def ewma(self) -> float:
        """The peak EWMA: it jumps up to a longer time at once, and approaches shorter ones with DECAY. While none come,
        it decays to 0, so that a slow server is tried again. 0: nothing was measured.

        The algorithm is that of Finagle's load balancer `aperture` and of Linkerd.
        """
        return self.at(self.clock()) if self._peak else 0.0

    def at(self, now: float) -> float:
        """Return the peak EWMA at a time by the clock. `schedulers/_balance.c` does the same."""
        return self._peak * exp((self._stamp - now) / DECAY) if self._peak else 0.0

    @property
    def count(self) -> int:
        """The number of times that were measured."""
        return sum(self.histogram)

    def within(self, share: float) -> float | None:
        """Return the time within which `share` (0 to 1) of the responses began, from the histogram; None: there were
        none."""
        return within(self.histogram, share)

    def record(self, seconds: float, now: float) -> None:
        """Take a measured time. now: by the clock. `http/_fast_path.c` does the same."""
        self.last = seconds
        self.histogram[bisect_left(BUCKETS, seconds)] += 1
        left = exp((self._stamp - now) / DECAY) if now > self._stamp else 1.0
        peak = self._peak * left
        self._peak = seconds if seconds >= peak else peak + seconds * (1.0 - left)
        self._stamp = now


class ErrorRate:
    """The share of failures among the recent requests or connections of a server. clock: returns monotonic seconds."""

    __slots__ = ("_failures", "_requests", "_stamp", "clock")

    def __init__(self, clock: Callable[[], float] = no_time) -> None:
        self.clock = clock
        self._failures = self._requests = 0.0  # at `_stamp`, past ones with their weight
        self._stamp = 0.0

    def __repr__(self) -> str:
        return f"<ErrorRate {self.value:.3f}>"

    @property
    def value(self) -> float:
        """0 to 1. While none come, it decays to 0, so that a server is tried again."""
        return self.at(self.clock()) if self._failures else 0.0

    def at(self, now: float) -> float:
        """Return the share at a time by the clock. `schedulers/_balance.c` does the same."""
        if not self._failures:
            return 0.0
        return self._failures / self._requests * exp((self._stamp - now) / DECAY)

    def record(self, has_failed: bool, now: float) -> None:
        """Count a request. now: by the clock. `http/_fast_path.c` does the same for those that have not failed."""
        left = exp((self._stamp - now) / DECAY) if now > self._stamp else 1.0
        self._requests = self._requests * left + 1.0
        self._failures = self._failures * left + (1.0 if has_failed else 0.0)
        self._stamp = now
