"""A table that waits for confirmation: in force, not saved, and undone unless it is confirmed in time.

Administrators whose new configuration locks them out get the old one back without doing anything, and a daemon that
dies meanwhile starts with the old table. Until the table is confirmed or undone, all other edits are refused.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred

from ktcpvs.errors import Busy
from ktcpvs.model.edits import Confirm, Edit, Load, StartService, StopService
from ktcpvs.model.table import Table
from ktcpvs.system.log import ANNOUNCE, EventLog


class Confirmation(Protocol):
    """A confirmation that can be pending, as the director and those who ask it need it."""

    @property
    def seconds_left(self) -> int | None:
        """Seconds until the table is undone; None: no confirmation is pending."""

    def admit(self, edit: Edit) -> None:
        """Raise Busy unless `edit` may be carried out now."""

    def carried_out(self, edit: Edit, old: Table) -> None:
        """`edit` is in force now. old: the table before it."""

    def end(self) -> None:
        """Stop waiting: the daemon ends."""


def on_trial(seconds_left: int | None) -> Busy:
    """Return the refusal of an edit while the table is on trial."""
    return Busy(f"the table is on trial, and undone in {seconds_left} s: 'tcpvsadm --confirm' keeps it")


NOT_PENDING = "no change is waiting for confirmation"


class PendingConfirmation:
    """The one confirmation that can be pending. before: the table to restore; None: no confirmation is pending."""

    def __init__(self, reactor: Any, log: EventLog, time_out: Callable[[], Deferred[None]]) -> None:
        """time_out: called when the time is over; it must call `undo`."""
        self._reactor = reactor
        self._log = log
        self._time_out = time_out
        self._call: Any = None
        self._deadline = 0.0
        self._is_undoing = False
        self.before: Table | None = None

    @property
    def seconds_left(self) -> int | None:
        """Seconds until the table is undone; None: no confirmation is pending."""
        return None if self.before is None else max(math.ceil(self._deadline - self._reactor.seconds()), 0)

    def admit(self, edit: Edit) -> None:
        """Raise Busy unless `edit` may be carried out now."""
        if self.before is None:
            if isinstance(edit, Confirm):
                raise Busy(NOT_PENDING)
        elif not (self._is_undoing or isinstance(edit, Confirm)):
            raise on_trial(self.seconds_left)

    def carried_out(self, edit: Edit, old: Table) -> None:
        """Start or end the wait if `edit`, which is now in force, says so. old: the table before it."""
        if isinstance(edit, Confirm):
            self.end()
        elif isinstance(edit, Load) and edit.confirm and not self._is_undoing:
            self.before, self._deadline = old, self._reactor.seconds() + edit.confirm
            self._call = self._reactor.callLater(edit.confirm, self._timed_out)
            form = "the new table is on trial: it is undone in {seconds} s unless it is confirmed"
            self._log.event(ANNOUNCE, form, seconds=edit.confirm)

    def end(self) -> None:
        """Stop waiting: the table is confirmed or undone, or the daemon ends. Safe to call twice."""
        self.before = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _timed_out(self) -> None:
        self._call = None
        maybeDeferred(self._time_out).addErrback(
            lambda why: self._log.failure("the unconfirmed table cannot be undone", why)
        )

    async def undo(self, carry_out: Callable[[Edit], Awaitable[object]], running: Callable[[], frozenset[str]]) -> None:
        """Restore the table from before with edits. running: the services that run at the moment."""
        before = self.before
        if before is None:
            return  # confirmed just now
        self._is_undoing = True
        try:
            await carry_out(Load(before.services, before.settings))
            for ident in before.services:
                if ident in before.running - running():
                    await carry_out(StartService(ident))
                elif ident in running() - before.running:
                    await carry_out(StopService(ident))
            self._log.event(ANNOUNCE, "the new table was not confirmed in time: the table before it is in force again")
        finally:
            self._is_undoing = False
            self.end()
