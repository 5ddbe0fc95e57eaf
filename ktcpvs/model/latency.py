"""Latencies of requests: a histogram for each class of status codes (1xx to 5xx, and other)."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds of the buckets, in seconds; one more bucket is for longer times."""

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
"""Classes of status codes; the row of a class is the first digit of its codes."""

OTHER = "other"
"""Codes of 600 and above, which are in no class (RFC 9110, section 15) but which servers send."""


class Latencies:
    """The histograms of one server. rows: status // 100 -> count of each bucket, for digits that the server has sent.
    seconds: the sum of all latencies."""

    __slots__ = ("rows", "seconds")

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = {}  # a table with 4,000 servers would have 40,000 lists that nobody fills
        self.seconds = 0.0

    def row(self, status: int) -> list[int]:
        """Return the histogram for responses with that status."""
        digit = status // 100  # 0 to 9: a server may send any status of three digits
        found = self.rows.get(digit)
        if found is None:
            found = self.rows[digit] = [0] * (len(BUCKETS) + 1)
        return found

    def count(self, status: int, seconds: float) -> None:
        """Count a response. seconds: since the request's head was complete."""
        self.row(status)[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


def described(latencies: Latencies | None) -> dict[str, Any]:
    """Return `answers`: class -> count; `buckets`: counts of the buckets, all classes together; `seconds`: the sum of
    all latencies. latencies: None if nothing was counted yet."""
    if latencies is None or not latencies.rows:  # saves the sums for thousands of idle servers in a large table
        return {"answers": dict.fromkeys((*CLASSES, OTHER), 0), "buckets": [0] * (len(BUCKETS) + 1), "seconds": 0.0}
    counts = {digit: sum(row) for digit, row in latencies.rows.items()}
    return {
        "answers": {name: counts.get(digit, 0) for digit, name in enumerate(CLASSES, 1)}
        | {OTHER: sum(count for digit, count in counts.items() if digit > len(CLASSES))},
        "buckets": [sum(column) for column in zip(*latencies.rows.values(), strict=True)],
        "seconds": round(latencies.seconds, 6),
    }


def within(buckets: list[int], share: float) -> float | None:
    """Return the time within which `share` (0 to 1) of the requests were complete, in seconds; None: there were none.

    The time is interpolated, as if the requests of a bucket were spread evenly between its bounds: Prometheus'
    histogram_quantile does so too. Latencies beyond the last bound count as the last bound.
    """
    enough, seen, lower = sum(buckets) * share, 0, 0.0
    for bound, count in zip((*BUCKETS, BUCKETS[-1]), buckets, strict=True):
        if count and seen + count >= enough:
            return lower + (bound - lower) * (enough - seen) / count
        seen, lower = seen + count, bound
    return None
