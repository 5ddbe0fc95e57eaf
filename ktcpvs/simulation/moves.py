"""Counts how often clients come to another server than before."""

from __future__ import annotations

from collections.abc import Hashable

MAX_KEYS = 200_000
"""The most clients that are followed. The one that came first is forgotten first."""


class Moves:
    """Follows the server of each key. repeats: requests of a key that has come before. moves: those of them that went
    to another server. keys: how many keys have come. moved_keys: how many of them have moved."""

    __slots__ = ("_last", "_moved", "keys", "moved_keys", "moves", "repeats")

    def __init__(self) -> None:
        self._last: dict[Hashable, Hashable] = {}
        self._moved: set[Hashable] = set()
        self.repeats = self.moves = self.keys = self.moved_keys = 0

    def add(self, key: Hashable, server: Hashable) -> None:
        """Count a request of a client with that key, which that server has got."""
        last = self._last
        before = last.get(key)
        last[key] = server
        if before is None:
            self.keys += 1
            if len(last) > MAX_KEYS:
                oldest = next(iter(last))
                del last[oldest]
                self._moved.discard(oldest)
            return
        self.repeats += 1
        if before != server:
            self.moves += 1
            if key not in self._moved:
                self._moved.add(key)
                self.moved_keys += 1
