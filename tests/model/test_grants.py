"""The states of one direction that the kernel relays: every event in every state."""

from __future__ import annotations

from itertools import product

import pytest
from cases import check_each
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model import grants
from ktcpvs.model.grants import FIRST_WINDOW, MIN_WINDOW, TABLE, first_window, less_window, next_window

EVENTS = sorted({event for moves in TABLE.values() for event in moves})

WANTED = {
    grants.READING: {
        grants.DATA: grants.HOLDING,
        grants.NOTHING: grants.READING,
        grants.NOT_YET: grants.WAITING,
        grants.END: grants.ENDING,
        grants.EMPTIED: grants.READY,
        grants.ALL_PASSED: grants.GRANTED,
    },
    grants.HOLDING: {grants.WRITTEN: grants.READING, grants.FULL: grants.BLOCKED},
    grants.BLOCKED: {grants.WRITTEN: grants.READING, grants.FULL: grants.BLOCKED},
    grants.READY: {grants.BYTES_CAME: grants.READING, grants.JOINED: grants.GRANTED},
    grants.GRANTED: {grants.PEER_ENDED: grants.READING, grants.VOID: grants.READING, grants.PASSED: grants.READING},
    grants.WAITING: {grants.AGAIN: grants.READING},
    grants.ENDING: {grants.SETTLED: grants.ENDED},
}


def check_event(state: str, event: str) -> None:
    if event == grants.LOST:
        wanted: str | None = grants.GONE
    elif event in (grants.HALF, grants.PASSED):  # records may be read late
        wanted = WANTED.get(state, {}).get(event, state)
    else:
        wanted = WANTED.get(state, {}).get(event)
    if wanted is None:
        with pytest.raises(KeyError):
            TABLE[state][event]
    else:
        assert TABLE[state][event] == wanted


def test_every_event_in_every_state() -> None:
    check_each(product(TABLE, EVENTS), lambda case: check_event(*case))


def test_every_state_is_reached_and_each_but_the_last_is_left() -> None:
    reached = {grants.READING}
    while more := {after for state in reached for after in TABLE[state].values()} - reached:
        reached |= more
    assert reached == set(TABLE)
    assert {state for state, moves in TABLE.items() if set(moves.values()) <= {state}} == {grants.GONE}


def test_nothing_is_granted_before_what_was_passed_is_written() -> None:
    before = {
        (state, event) for state, moves in TABLE.items() for event, after in moves.items() if after == grants.GRANTED
    }
    assert before == {
        (grants.READING, grants.ALL_PASSED),
        (grants.READY, grants.JOINED),
        (grants.GRANTED, grants.HALF),
    }


LIMITS = st.integers(64 << 10, 1 << 30)


@given(LIMITS, st.data())
def test_windows_stay_within_their_limit(most: int, data: st.DataObject) -> None:
    window = first_window(most)
    assert 0 < window <= min(most, FIRST_WINDOW)
    for _ in range(20):
        behind = data.draw(st.integers(0, window))
        grown = next_window(window, behind, most)
        assert grown == 0 if behind > window // 4 else window <= grown <= most
        window = less_window(window, most) if data.draw(st.booleans()) else grown or window
        assert min(MIN_WINDOW, most) <= window <= most


def test_a_fast_target_gets_the_largest_grant_and_a_slow_one_the_smallest() -> None:
    window = first_window(64 << 20)
    for _ in range(4):
        window = next_window(window, 0, 64 << 20)
    assert window == 64 << 20
    for _ in range(5):
        window = less_window(window, 64 << 20)
    assert window == MIN_WINDOW
