"""How long requests took: counts in buckets, one row for each class of status (1xx to 5xx, and other)."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds of the buckets, in seconds; what took longer than the last has a bucket of its own."""

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
"""Classes of status codes; the row of a class is the first digit of its codes."""

OTHER = "other"
"""Codes of 600 and above, which no class defines (RFC 9110, section 15), but which servers send."""


class Latencies:
    """rows: status // 100 -> how many took how long, bucket by bucket. seconds: how long all of them took together."""

    __slots__ = ("rows", "seconds")

    def __init__(self) -> None:
        self.rows = tuple([0] * (len(BUCKETS) + 1) for _ in range(10))  # a server may say any status of three digits
        self.seconds = 0.0

    def row(self, status: int) -> list[int]:
        """Where answers with that status are counted."""
        return self.rows[status // 100]

    def count(self, status: int, seconds: float) -> None:
        """A request has been answered. seconds: since its head was there."""
        self.row(status)[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


def described(latencies: Latencies | None) -> dict[str, Any]:
    """`answers`: class -> how many; `buckets`: how many took at most BUCKETS (and more than the one before), the last:
    longer; `seconds`: all together. None: nothing was counted yet."""
    if latencies is None:  # thousands of servers in a large table: no rows are added up for them
        return {"answers": dict.fromkeys((*CLASSES, OTHER), 0), "buckets": [0] * (len(BUCKETS) + 1), "seconds": 0.0}
    rows = latencies.rows
    return {
        "answers": {name: sum(rows[digit]) for digit, name in enumerate(CLASSES, 1)}
        | {OTHER: sum(map(sum, rows[len(CLASSES) + 1 :]))},
        "buckets": [sum(column) for column in zip(*rows, strict=True)],
        "seconds": round(latencies.seconds, 6),
    }


def within(buckets: list[int], share: float) -> float | None:
    """The bound that `share` (0 to 1) of what was counted did not exceed; None: nothing was counted. What took longer
    than the last bound counts as that."""
    wanted, seen = sum(buckets) * share, 0
    for bound, count in zip((*BUCKETS, BUCKETS[-1]), buckets, strict=True):
        seen += count
        if seen and seen >= wanted:
            return bound
    return None
