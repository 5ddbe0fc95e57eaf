"""The times of renewals and of further attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.acme.schedule import (
    MAX_RETRY_AFTER,
    RENEWAL_INFO_INTERVAL,
    RENEWAL_SHARE,
    RETRY_JITTER,
    Window,
    renewal_info_delay,
    renewal_time,
    retry_delay,
)

times = st.floats(0, 4e9)
chances = st.floats(0, 1, exclude_max=True)
DAY = 86400.0


@given(times, st.floats(1, 4e8), chances)
def test_a_certificate_is_renewed_before_a_third_of_its_lifetime_is_left(begin, lifetime, chance):
    when = renewal_time(begin, begin + lifetime, lambda: chance)
    assert begin + lifetime / 2 < when <= begin + lifetime * (1 - RENEWAL_SHARE) + 1


def test_90_days_are_renewed_after_57_to_60_and_6_days_after_4():
    assert renewal_time(0, 90 * DAY, lambda: 0.0) == 60 * DAY
    assert round(renewal_time(0, 90 * DAY, lambda: 0.999) / DAY) == 57
    assert round(renewal_time(0, 6 * DAY, lambda: 0.5) / DAY, 1) == 3.9


@given(times, st.floats(0, 1e6), chances)
def test_a_time_is_chosen_within_the_window(start, length, chance):
    assert start <= Window(start, start + length).choose(lambda: chance) <= start + length


def test_a_window_that_ends_before_it_begins_is_its_beginning():
    assert Window(100, 50).choose(lambda: 0.5) == 100


@given(st.integers(1, 10_000), st.floats(1, DAY), chances, st.one_of(st.none(), st.floats(0, 1e9)))
def test_delays_grow_up_to_their_limit_and_are_as_long_as_the_ca_asks(failures, first, chance, asked):
    delay = retry_delay(failures, first, 6 * 3600, lambda: chance, asked)
    least = min(first * 2 ** min(failures - 1, 30), max(6 * 3600, first))
    wanted = max(least, min(asked or 0, MAX_RETRY_AFTER))
    assert wanted <= delay <= wanted * (1 + RETRY_JITTER) + 1


def test_five_attempts_take_more_than_an_hour():
    """Let's Encrypt allows five failed ones for a name in an hour."""
    assert sum(retry_delay(failures, 300, 6 * 3600, lambda: 0.0) for failures in range(1, 5)) > 3600


def test_the_ca_is_asked_as_often_as_it_says_within_bounds():
    assert [renewal_info_delay(after) for after in (None, 0, 3600, 1e9)] == [RENEWAL_INFO_INTERVAL, 60, 3600, 86400]
