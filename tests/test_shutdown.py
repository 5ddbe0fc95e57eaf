"""The end of a daemon: when its control connections are closed."""

from __future__ import annotations

from typing import Any

import pytest
from memory import log_into
from twisted.internet.task import Clock

from ktcpvs.director.director import Director
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.shutdown import ADMINISTRATORS_TIMEOUT, CLOSE_TIMEOUT, POLL_INTERVAL, Shutdown


class Ending:
    """A daemon that ends; its parts are fakes but for the director. connections: those of control. ended: its end."""

    def __init__(self, *, is_complete: bool, unanswered_commands: int = 0) -> None:
        """is_complete: another daemon has taken over."""
        self.is_complete = is_complete
        self.pending_requests = 0
        self.unanswered_commands = unanswered_commands
        self.connections = {"administrator"}
        self.is_control_closed = False
        self.clock = Clock()
        log = log_into([])
        fake: Any = self
        director = Director(Context(self.clock, log, Descriptors(100)))
        self.ended: list[None] = []
        shutdown = Shutdown(director, fake, fake, fake, fake, fake)
        shutdown.begin().addCallback(self.ended.append)

    def stopping(self, seconds: float) -> None:
        """Service manager."""

    def close(self) -> None:
        """Status page and control listeners."""
        self.is_control_closed = True

    def passes(self, seconds: float) -> None:
        self.clock.pump([POLL_INTERVAL] * round(seconds / POLL_INTERVAL))


def test_control_is_closed_at_once_without_a_takeover() -> None:
    ending = Ending(is_complete=False)
    ending.passes(POLL_INTERVAL)
    assert ending.is_control_closed
    assert ending.ended == []
    ending.connections.clear()
    ending.passes(POLL_INTERVAL)
    assert ending.ended == [None]


@pytest.mark.parametrize("ends", [True, False])
def test_a_command_may_be_answered_without_a_takeover(ends: bool) -> None:
    ending = Ending(is_complete=False, unanswered_commands=1)
    ending.passes(ADMINISTRATORS_TIMEOUT - 3 * POLL_INTERVAL)
    assert not ending.is_control_closed
    ending.unanswered_commands = 0 if ends else 1
    ending.passes(2 * POLL_INTERVAL if ends else 5 * POLL_INTERVAL)
    assert ending.is_control_closed


def test_administrators_may_finish_after_a_takeover() -> None:
    ending = Ending(is_complete=True)
    ending.passes(ADMINISTRATORS_TIMEOUT - 3 * POLL_INTERVAL)
    assert not ending.is_control_closed
    ending.connections.clear()
    ending.passes(2 * POLL_INTERVAL)
    assert ending.is_control_closed
    assert ending.ended == [None]


@pytest.mark.parametrize("waiting", ["", "pending_requests", "unanswered_commands"])
def test_an_administrator_that_stays_is_disconnected(waiting: str) -> None:
    """waiting: what has no answer yet."""
    ending = Ending(is_complete=True)
    ending.passes(ADMINISTRATORS_TIMEOUT - 3 * POLL_INTERVAL)
    setattr(ending, waiting or "unused", 1)
    ending.passes(6 * POLL_INTERVAL)
    assert ending.is_control_closed == (not waiting), "a request that waits for its answer may go on"
    setattr(ending, waiting or "unused", 0)
    ending.passes(CLOSE_TIMEOUT + 2 * POLL_INTERVAL)
    assert ending.is_control_closed
    assert ending.ended == [None]
