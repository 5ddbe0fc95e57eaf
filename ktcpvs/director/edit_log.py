"""The lines of the log about edits that have been carried out."""

from __future__ import annotations

from ktcpvs.model.adopt import Adopt
from ktcpvs.model.difference import changes_between
from ktcpvs.model.edits import Edit, Load
from ktcpvs.model.local_edits import Local
from ktcpvs.model.table import Table
from ktcpvs.system.log import ANNOUNCE, CONFIGURATION, EventLog

MAX_CHANGES = 20
"""The most changes of a configuration that is loaded for which the log has a line each."""


def log_edit(log: EventLog, edit: Edit) -> None:
    """Log an edit."""
    log.event(CONFIGURATION, "{edit}", edit=_described(edit))


def log_changes(log: EventLog, old: Table, new: Table) -> None:
    """Log what a configuration that was loaded has changed."""
    lines = changes_between(old, new)
    more = len(lines) - MAX_CHANGES
    for line in lines[:MAX_CHANGES] if more > 1 else lines:
        log.event(ANNOUNCE, "loaded: {line}", line=line)
    if more > 1:
        log.event(ANNOUNCE, "loaded: {n} more changes", n=more)
    if not lines:
        log.event(ANNOUNCE, "loaded: nothing has changed")


def _described(edit: Edit) -> str:
    if isinstance(edit, Load | Adopt):
        return f"{edit.name}: {len(edit.services)} services"
    if isinstance(edit, Local):
        return f"{'force-local' if edit.is_forced else edit.name}: {_described(edit.edit)}"
    return f"{edit.name}: {edit}"
