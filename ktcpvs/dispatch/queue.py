"""Waiting for room: clients of one service whose servers all have `maxconn` connections.

First come, first served; a client that a freed server may not serve is passed over.
"""

from __future__ import annotations

from typing import Protocol

from ktcpvs.model.destination import Destination


class Waiter(Protocol):
    """A request that waits for room at a server."""

    def try_again(self) -> object:
        """Select a server again: one has room, or the service has changed."""


class Queue:
    """The queue of one service."""

    def __init__(self) -> None:
        self._waiting: dict[Waiter, set[Destination]] = {}  # waiter -> servers that it does not take
        self._freed: list[Destination] = []
        self._is_serving = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __repr__(self) -> str:
        return f"<Queue {len(self._waiting)} waiting>"

    def enter(self, waiter: Waiter) -> None:
        """Add `waiter` at the end; one that waits already keeps its position."""
        self._waiting.setdefault(waiter, set())

    def leave(self, waiter: Waiter) -> None:
        """Remove `waiter`; safe to call for one that does not wait."""
        self._waiting.pop(waiter, None)

    def freed(self, destination: Destination) -> None:
        """`destination` has room: let the first waiter that takes it try again."""
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
            if destination.is_shared:  # another process may have taken the room just before: it is asked again later
                asked.add(waiter)
            else:  # there was room, and this waiter did not take it
                refused.add(destination)
