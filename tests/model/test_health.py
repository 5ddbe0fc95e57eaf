"""The health of a server: its table, its counts, and what an ejection costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.health import DOWN, EJECTED, ERRORS, FELL, OVER, ROSE, TABLE, UP, Health, may_eject

WHY = "why"

MOVES = {(UP, FELL): DOWN, (UP, ERRORS): EJECTED, (DOWN, ROSE): UP, (EJECTED, OVER): UP, (EJECTED, FELL): DOWN}


@pytest.mark.parametrize("event", [ROSE, FELL, ERRORS, OVER])
@pytest.mark.parametrize("state", [UP, DOWN, EJECTED])
def test_every_event_in_every_state(state: str, event: str) -> None:
    health = Health()
    health.state = state
    if (state, event) in MOVES:
        health.happened(event, WHY, 7.0)
        assert (health.state, health.reason, health.since) == (MOVES[state, event], WHY, 7.0)
    else:
        with pytest.raises(KeyError):
            health.happened(event, WHY, 7.0)
        assert (health.state, health.reason, health.since) == (state, "", 0.0)
    assert set(TABLE) == {UP, DOWN, EJECTED}


@given(rise=st.integers(1, 5), fall=st.integers(1, 5), passed=st.lists(st.booleans(), max_size=40))
def test_it_falls_and_rises_after_so_many_checks(rise: int, fall: int, passed: list[bool]) -> None:
    health, streak, was, has_passed = Health(), 0, None, False
    for one in passed:
        streak = streak + 1 if one == was else 1
        was = one
        before = health.state
        event = health.checked(None if one else WHY, rise, fall)
        if event is not None:
            health.happened(event, WHY, 0.0)
        if one and before == DOWN and streak >= rise:
            assert (event, health.state) == (ROSE, UP)
        elif not one and before == UP and streak >= (fall if has_passed else 1):
            assert (event, health.state) == (FELL, DOWN)
        else:
            assert (event, health.state) == (None, before)
        has_passed = has_passed or one


def test_failed_checks_that_do_not_suffice_are_shown_until_one_passes() -> None:
    health = Health()
    shown = []
    for why in (None, WHY, WHY, None):
        assert health.checked(why, 1, 3) is None
        shown.append(health.reason)
    assert shown == ["", "why; 1 of 3 failed checks", "why; 2 of 3 failed checks", ""]


def test_ejections_grow_and_are_forgotten() -> None:
    health, now = Health(), 0.0
    lasted = []
    for _ in range(5):
        seconds = health.ejection_time(10, 35, now)
        health.happened(ERRORS, WHY, now)
        now += seconds
        health.happened(OVER, WHY, now)
        lasted.append(seconds)
        now += 1
    assert lasted == [10, 20, 30, 35, 35]
    assert health.ejection_time(10, 35, now + 36) == 10
    assert Health().ejection_time(50, 35, 0.0) == 50, "eject_most is no shorter than the first one"


@given(servers=st.integers(1, 100), share=st.integers(0, 100))
def test_the_last_one_stays(servers: int, share: int) -> None:
    out = 0
    while may_eject(servers, out, share):
        out += 1
    assert out < servers
    assert out <= max(servers * share // 100, 1)
    assert (out == 0) == (share == 0 or servers == 1)
