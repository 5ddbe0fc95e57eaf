"""Durations in a bounded number of buckets: quantiles of any number of them, within two percent."""

from __future__ import annotations

from math import exp, log

WIDTH = log(1.02)
"""The logarithm of the ratio of a bucket's bounds."""

LEAST = 1e-6
"""Seconds; shorter durations count as this."""


class Durations:
    """Counts durations. count: how many. longest: seconds; 0 without any."""

    __slots__ = ("_buckets", "count", "longest")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        bucket = int(log(seconds / LEAST) / WIDTH) if seconds > LEAST else 0
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        if seconds > self.longest:
            self.longest = seconds

    def include(self, others: Durations) -> None:
        """Count all that `others` has counted."""
        for bucket, count in others._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += others.count
        self.longest = max(self.longest, others.longest)

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which that share (0 to 1) of the durations are; None: there are none."""
        left = self.count * share
        for bucket, count in sorted(self._buckets.items()):
            left -= count
            if left <= 0:
                return min(LEAST * exp((bucket + 0.5) * WIDTH), self.longest) if bucket else min(LEAST, self.longest)
        return None

    @property
    def p50(self) -> float | None:
        """The median, in seconds; None: there are none."""
        return self.quantile(0.5)

    @property
    def p99(self) -> float | None:
        """The time that one of a hundred takes longer than, in seconds; None: there are none."""
        return self.quantile(0.99)
