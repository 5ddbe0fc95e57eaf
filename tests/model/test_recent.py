"""The latency and the error rate of a destination: what schedulers read, and what is measured for them."""

from __future__ import annotations

from math import exp, isclose

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.latency import BUCKETS
from ktcpvs.model.recent import DECAY, ErrorRate, Latency
from ktcpvs.model.weighed_destination import WeighedDestination

SERVER = Inet("10.0.0.1", 80)
_seconds = st.floats(0, 100)


def test_the_peak_ewma_jumps_up_and_decays() -> None:
    clock = Clock()
    latency = Latency(clock.seconds)
    assert (latency.ewma, latency.last, latency.count, latency.within(0.5)) == (0.0, 0.0, 0, None)
    latency.record(0.1, 0.0)
    latency.record(2.0, 0.0)
    assert (latency.ewma, latency.last) == (2.0, 2.0)
    clock.advance(DECAY)
    assert isclose(latency.ewma, 2.0 / exp(1))  # without a further response
    latency.record(0.1, clock.seconds())
    assert isclose(latency.ewma, 2.0 / exp(1) + 0.1 * (1 - 1 / exp(1)))
    assert latency.last == 0.1
    clock.advance(100 * DECAY)
    assert latency.ewma < 1e-6  # the server is tried again
    latency.record(0.3, clock.seconds())
    assert latency.ewma == 0.3


@given(st.lists(st.tuples(_seconds, _seconds), min_size=1))
def test_the_peak_ewma_is_between_the_last_and_the_greatest(steps: list[tuple[float, float]]) -> None:
    latency, now = Latency(lambda: now), 0.0
    for pause, seconds in steps:
        now += pause
        latency.record(seconds, now)
        assert seconds * (1 - 1e-9) <= latency.ewma <= max(one for _, one in steps)
    assert latency.count == len(steps)
    assert latency.within(1.0) is not None


def test_the_histogram_has_the_buckets_of_metrics() -> None:
    latency = Latency()
    latency.record(BUCKETS[2], 0.0)
    latency.record(BUCKETS[-1] + 1, 0.0)
    assert latency.histogram == [0, 0, 1, *[0] * (len(BUCKETS) - 3), 1]


def test_the_error_rate_is_the_share_of_recent_failures() -> None:
    clock = Clock()
    rate = ErrorRate(clock.seconds)
    assert rate.value == 0.0
    for has_failed in (True, False, False, False):
        rate.record(has_failed, 0.0)
    assert rate.value == 0.25
    clock.advance(DECAY)
    assert isclose(rate.value, 0.25 / exp(1))
    rate.record(True, clock.seconds())
    assert isclose(rate.value, (1 / exp(1) + 1) / (4 / exp(1) + 1))


@given(st.lists(st.tuples(_seconds, st.booleans())))
def test_the_error_rate_is_a_share(steps: list[tuple[float, bool]]) -> None:
    rate, now = ErrorRate(lambda: now), 0.0
    for pause, has_failed in steps:
        now += pause
        rate.record(has_failed, now)
        assert 0.0 <= rate.value <= 1.0


def test_nothing_is_measured_until_it_is_read() -> None:
    destination = Destination(SERVER)
    assert not destination.is_measured
    assert destination.latency is destination.latency
    assert destination.measured_errors is None
    assert destination.error_rate == 0.0
    assert destination.is_measured
    destination.measure_no_more()
    assert not destination.is_measured


def test_a_weighed_destination_is_measured_as_the_real_one() -> None:
    real = Destination(SERVER)
    weighed = WeighedDestination(real, 5)
    assert weighed.latency is real.latency
    assert weighed.error_rate == 0.0
    assert real.measured_errors is not None
    real.labels = {"zone": "a"}
    assert (weighed.labels, weighed.state, weighed.queued) == ({"zone": "a"}, "up", 0)
