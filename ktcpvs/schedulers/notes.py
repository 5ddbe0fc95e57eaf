"""The notes of a scheduler within a rule on its choice, for explanations."""

from __future__ import annotations

from typing import Any

from ktcpvs.interfaces import IExplains, Request
from ktcpvs.schedulers.weighed import WeighedRule


def notes_of(scheduler: Any, request: Request) -> tuple[str, ...]:
    """Return the notes of the scheduler within a rule, a line each; none if it does not explain itself."""
    while isinstance(scheduler, WeighedRule):
        scheduler = scheduler.inner
    return tuple(scheduler.explain(request).notes) if IExplains.providedBy(scheduler) else ()
