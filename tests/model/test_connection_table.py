"""The state table of a connection: every state is reachable, and every state ends."""

from __future__ import annotations

import pytest

from ktcpvs import interfaces
from ktcpvs.model import connection
from ktcpvs.model.connection import (
    CLIENT_GONE,
    CLOSED,
    CONNECTING,
    DRAINED,
    OPENING,
    READING_HEAD,
    TABLE,
)

NAMES = {value for name, value in vars(connection).items() if name.isupper() and isinstance(value, str)}
STATES = set(TABLE)
EVENTS = NAMES - STATES
LIVE = sorted(STATES - {CLOSED})


def reachable(*states):
    found, todo = set(), list(states)
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            todo.extend(TABLE[state].values())
    return found


def test_every_state_is_reached_from_an_opening():
    assert reachable(*OPENING.values()) == STATES


def test_every_unit_of_a_scheduler_has_its_opening():
    assert OPENING.keys() | {interfaces.EACH_REQUEST} == set(interfaces.UNITS)


def test_every_state_that_is_led_to_is_a_state():
    assert {after for row in TABLE.values() for after in row.values()} <= STATES


def test_every_event_that_happens_is_known_and_every_known_event_happens():
    """Accepted alone stands in no row: it is what opens a connection."""
    happening = {event for row in TABLE.values() for event in row}
    assert happening == EVENTS


def test_closed_is_final_and_nothing_else_is():
    assert [state for state, row in TABLE.items() if not row] == [CLOSED]


@pytest.mark.parametrize("state", LIVE)
def test_every_state_can_come_to_its_end(state):
    assert CLOSED in reachable(state)


@pytest.mark.parametrize("state", LIVE)
def test_a_client_may_go_and_a_drain_may_end_in_every_state(state):
    assert TABLE[state][CLIENT_GONE] == TABLE[state][DRAINED] == CLOSED


@pytest.mark.parametrize("state", LIVE)
def test_no_event_leaves_a_state_as_it_is(state):
    assert state not in TABLE[state].values()


def test_a_head_is_read_once_at_most_and_a_failed_connect_is_chosen_again():
    assert [state for state, row in TABLE.items() if READING_HEAD in row.values()] == []
    assert TABLE[CONNECTING][connection.CONNECT_FAILED] == connection.CHOOSING
