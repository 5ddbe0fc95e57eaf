"""The state table of an exchange: no dead ends and no unknown states."""

from __future__ import annotations

from ktcpvs.model import exchange as life

STATES = set(life.TABLE)
EVENTS = {
    value for name, value in vars(life).items() if name.isupper() and isinstance(value, str) and value not in STATES
}


def reachable(*begin: str) -> set[str]:
    found: set[str] = set()
    todo = list(begin)
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            todo.extend(life.TABLE[state].values())
    return found


def test_every_state_is_reached() -> None:
    assert reachable(life.IDLE) == STATES


def test_every_state_can_end() -> None:
    assert all(life.CLOSED in reachable(state) for state in STATES)
    assert life.TABLE[life.CLOSED] == {}


def test_every_event_happens_somewhere_and_none_is_unknown() -> None:
    assert {event for row in life.TABLE.values() for event in row} == EVENTS


def test_a_client_may_go_and_a_drain_may_end_at_any_moment() -> None:
    for state in STATES - {life.CLOSED}:
        assert life.TABLE[state][life.CLIENT_GONE] == life.CLOSED
        assert life.TABLE[state][life.DRAINED] == life.CLOSED
