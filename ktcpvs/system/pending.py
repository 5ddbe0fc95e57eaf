"""Pending results that nobody waits for any more: what a scheduler, a check or a look-up would still bring."""

from __future__ import annotations

import inspect
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.system.log import EventLog


def cancel_pending(pending: Any, log: EventLog) -> None:
    """Cancel a Deferred, or close a coroutine, and drop whatever comes of it; anything else is left alone.

    Never raises: a canceller, or a `finally` of a coroutine, that raises is somebody else's bug, and is logged.
    """
    try:
        if isinstance(pending, Deferred):
            pending.addErrback(lambda _: None).cancel()
        elif inspect.iscoroutine(pending):
            pending.close()
    except Exception:
        log.failure("a result that is not wanted any more cannot be cancelled")
