"""The steps of a change that can no longer fail: every step is taken, even if others raise.

After an edit is saved or a takeover is committed, and when the daemon ends, there is no way back. An exception in a
step is a bug; it is logged, and the other steps follow.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError

from ktcpvs.system.log import EventLog


def _call(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


class Steps:
    """Takes steps and logs those that raise."""

    def __init__(self, log: EventLog, take: Callable[..., Any] = _call) -> None:
        """take: called with the name of each step, its function and its arguments; returns the function's result."""
        self._log = log
        self._take = take

    def run(self, name: str, call: Callable[..., Any], *arguments: Any) -> bool:
        """Take a step. name: for the log. Returns False if it raised."""
        try:
            self._take(name, call, *arguments)
        except Exception:
            self._has_failed(name)
            return False
        return True

    async def wait(self, name: str, call: Callable[..., Any], *arguments: Any) -> bool:
        """Take a step whose function returns a coroutine or a Deferred, and wait for it. Returns False if it failed, or
        was cancelled because the process ends."""
        try:
            await self._take(name, call, *arguments)
        except CancelledError:
            return False
        except Exception:
            self._has_failed(name)
            return False
        return True

    def _has_failed(self, name: str) -> None:
        with suppress(Exception):
            self._log.failure("internal error in the step '{step}'; the other steps follow", step=name)
