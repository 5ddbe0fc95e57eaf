"""A table on trial: in force, not saved, and undone by itself unless somebody confirms it in time.

So whoever shuts himself out by a configuration is let in again, and a daemon that dies meanwhile begins with the table
from before. Until it is decided no other edit is taken.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from ktcpvs.errors import Busy
from ktcpvs.model.edits import Confirm, Edit, Load, StartService, StopService
from ktcpvs.model.table import Table
from ktcpvs.system.log import ANNOUNCE, EventLog


class PendingConfirmation:
    """before: the table that comes back; None: nothing is on trial."""

    def __init__(self, reactor: Any, log: EventLog, undo: Callable[[], Deferred[None]]) -> None:
        """undo: called when the time is over; it is to call `undoing`."""
        self._reactor = reactor
        self._log = log
        self._undo = undo
        self._call: Any = None
        self._until = 0.0
        self._undoing = False
        self.before: Table | None = None

    @property
    def left(self) -> int | None:
        """Seconds until it is undone; None: nothing is on trial."""
        return None if self.before is None else max(math.ceil(self._until - self._reactor.seconds()), 0)

    def admit(self, edit: Edit) -> None:
        """May that edit be carried out now? Raises Busy."""
        if self.before is None:
            if isinstance(edit, Confirm):
                raise Busy("nothing waits to be confirmed: what is in force stays")
        elif not (self._undoing or isinstance(edit, Confirm)):
            raise Busy(f"the table is on trial, and undone in {self.left} s: 'tcpvsadm --confirm' keeps it")

    def carried_out(self, edit: Edit, old: Table) -> None:
        """The edit is in force; old: the table before it."""
        if isinstance(edit, Confirm):
            self.end()
        elif isinstance(edit, Load) and edit.confirm and not self._undoing:
            self.before, self._until = old, self._reactor.seconds() + edit.confirm
            self._call = self._reactor.callLater(edit.confirm, self._time_is_over)
            form = "the new table is on trial: it is undone in {seconds} s unless it is confirmed"
            self._log.event(ANNOUNCE, form, seconds=edit.confirm)

    def end(self) -> None:
        """It is decided, or there is nobody left to decide; safe to call twice."""
        self.before = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _time_is_over(self) -> None:
        self._call = None
        maybeDeferred(self._undo).addErrback(lambda why: self._log.failure("the table on trial cannot be undone", why))

    async def undoing(
        self, carry_out: Callable[[Edit], Awaitable[object]], running: Callable[[], frozenset[str]]
    ) -> None:
        """Put the table from before in the place of the one on trial, by edits. running: what runs then."""
        before = self.before
        if before is None:
            return  # it was confirmed just now
        self._undoing = True
        try:
            await carry_out(Load(before.services, before.settings))
            for ident in before.services:
                if ident in before.running - running():
                    await carry_out(StartService(ident))
                elif ident in running() - before.running:
                    await carry_out(StopService(ident))
            self._log.event(ANNOUNCE, "nobody has confirmed the new table: the one before it is in force again")
        finally:
            self._undoing = False
            self.end()
