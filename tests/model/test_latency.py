"""Percentiles of latencies, interpolated inside of the buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.latency import BUCKETS, Latencies, described, within

NONE = [0] * (len(BUCKETS) + 1)


TINY = 1e-9
"""Seconds by which rounding may move a percentile."""


def counted(*seconds: float) -> list[int]:
    latencies = Latencies()
    for one in seconds:
        latencies.count(200, one)
    return list(described(latencies)["buckets"])


def test_a_share_of_nothing_is_unknown() -> None:
    assert within(NONE, 0.5) is None


def test_requests_are_spread_evenly_inside_of_their_bucket() -> None:
    buckets = counted(*[0.02] * 10)  # between 0.01 and 0.025
    assert within(buckets, 0.5) == pytest.approx(0.0175)
    assert within(buckets, 1.0) == 0.025
    assert within(buckets, 0.1) == pytest.approx(0.0115)
    assert within(counted(0.0001), 1.0) == BUCKETS[0], "the first bucket begins at 0"
    assert within(counted(0.0001), 0.5) == BUCKETS[0] / 2


def test_buckets_without_requests_are_skipped() -> None:
    buckets = counted(*[0.002] * 98, 20.0, 20.0)
    assert within(buckets, 0.98) == pytest.approx(0.0025)
    assert within(buckets, 0.99) == pytest.approx(20.0), "half of the way from 10 to 30 s"


def test_latencies_beyond_the_last_bound_count_as_that_bound() -> None:
    assert within(counted(100.0), 0.5) == BUCKETS[-1]


@given(st.lists(st.sampled_from([0.0004, 0.003, 0.07, 0.8, 45.0, 99.0]), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_percentiles_grow_with_the_share_and_stay_in_the_bucket_of_their_request(
    seconds: list[float], one: float, other: float
) -> None:
    low, high = (within(counted(*seconds), share) for share in sorted((one, other)))
    assert low is not None
    assert high is not None
    assert low <= high <= BUCKETS[-1] + TINY
    real = sorted(seconds)[min(int(max(one, other) * len(seconds)), len(seconds) - 1)]
    above = next((bound for bound in BUCKETS if real <= bound), BUCKETS[-1])
    assert high <= above + TINY
