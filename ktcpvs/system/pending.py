"""Cancels pending results that are no longer needed: of a scheduler, a check or a look-up."""

from __future__ import annotations

import inspect
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.system.log import EventLog
from ktcpvs.system.plugin_errors import raise_interrupt


def cancel_pending(pending: Any, log: EventLog) -> None:
    """Cancel a Deferred, or close a coroutine, and drop its result; ignore any other object.

    This never raises: a canceller or a coroutine that raises has a bug, which is logged.
    """
    try:
        if isinstance(pending, Deferred):
            pending.addErrback(lambda _: None).cancel()
        elif inspect.iscoroutine(pending):
            pending.close()
    except BaseException as error:
        raise_interrupt(error)
        log.failure("cannot cancel a pending result")
