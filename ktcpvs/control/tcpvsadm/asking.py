"""Questions to the daemon for a long time, in which another one may take over from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ktcpvs.control.client_errors import NoAnswer
from ktcpvs.control.switch_base import SwitchBase

T = TypeVar("T")


class Asking:
    """Asks the daemon at one address, or the one that has taken over from it.

    A daemon that was taken over forwards questions, and closes its control connections when it ends. What was on its
    way then is asked again, so only for questions that change nothing.
    """

    def __init__(self, connect: Callable[[], Awaitable[SwitchBase]], switch: SwitchBase) -> None:
        """connect: connects again. switch: the first connection, which its owner closes."""
        self._connect = connect
        self._first = self._switch = switch

    async def __call__(self, question: Callable[[SwitchBase], Awaitable[T]]) -> T:
        """Return the answer to `question`. Raises NoAnswer if there is no daemon any more."""
        try:
            return await question(self._switch)
        except NoAnswer as lost:
            try:
                switch = await self._connect()
            except NoAnswer:
                raise lost from None
            self.close()
            self._switch = switch
            return await question(switch)

    def close(self) -> None:
        """Close the connection, if it is not the first one."""
        if self._switch is not self._first:
            self._switch.close()
