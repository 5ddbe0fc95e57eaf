"""The queue of a service: requests that wait for room while all its servers have `maxconn` connections.

It is first in, first out, but skips a request that the freed server may not serve.
"""

from __future__ import annotations

from typing import Protocol

from ktcpvs.model.destination import Destination


class Waiter(Protocol):
    """A request that waits for room at a server."""

    def try_again(self) -> object:
        """Select a server again, because one has room or the service has changed."""


class Queue:
    """The queue of one service."""

    def __init__(self) -> None:
        self._waiting: dict[Waiter, set[Destination]] = {}  # waiter -> servers that it cannot use
        self._chosen: dict[Waiter, Destination] = {}  # waiter -> the full server that counts it as pending
        self._freed: list[Destination] = []
        self._is_serving = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __repr__(self) -> str:
        return f"<Queue {len(self._waiting)} waiting>"

    def enter(self, waiter: Waiter, chosen: Destination) -> None:
        """Add `waiter` at the end, unless it is in the queue already. chosen: the full server that was chosen for it,
        which counts it as pending."""
        self._waiting.setdefault(waiter, set())
        self.uncount(waiter)
        self._chosen[waiter] = chosen
        chosen.pending += 1

    def leave(self, waiter: Waiter) -> None:
        """Remove `waiter`, if it is in the queue."""
        self._waiting.pop(waiter, None)
        self.uncount(waiter)

    def uncount(self, waiter: Waiter) -> None:
        """No server counts `waiter` as pending any more; it keeps its place in the queue."""
        chosen = self._chosen.pop(waiter, None)
        if chosen is not None:
            chosen.pending -= 1

    def freed(self, destination: Destination) -> None:
        """`destination` has room: let the first waiter that can use it try again."""
        if not self._waiting:
            return
        self._freed.append(destination)
        if self._is_serving:
            return  # a loop, not a recursion: a waiter that tries again may free a server itself
        self._is_serving = True
        try:
            while self._freed:
                self._serve(self._freed.pop())
        finally:
            self._is_serving = False

    def try_all(self) -> None:
        """The service has changed: let all waiters try again, in their order."""
        for waiter in list(self._waiting):
            if waiter in self._waiting:
                self._waiting[waiter] = set()
                waiter.try_again()

    def _serve(self, destination: Destination) -> None:
        asked: set[Waiter] = set()
        while not destination.is_full:
            waiting = self._waiting.items()
            waiter = next((one for one, refused in waiting if destination not in refused and one not in asked), None)
            if waiter is None:
                return
            waiter.try_again()
            refused = self._waiting.get(waiter)
            if refused is None:
                continue
            if destination.is_shared:  # another process may have taken the room just before: try again later
                asked.add(waiter)
            else:  # there was room, but this waiter did not use it
                refused.add(destination)
