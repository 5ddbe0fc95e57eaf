"""The process's descriptor limit, shared among client connections, server connections and listeners."""

from __future__ import annotations

import resource
from typing import Any
from weakref import WeakSet

SPARE_DESCRIPTORS = 64
"""Descriptors kept for everything but connections and listeners: control, log, files, name look-ups."""


class Descriptors:
    """Counts the descriptors in use, and tells whether one more connection fits below the limit.

    A connection takes two descriptors, one for the client and one for the server.

    limit: the descriptors that connections and listeners may have. listening: those of listeners. clients: those of
    clients, together with the server connections of clients that are relayed as a whole. reserved: the number of
    clients that may need a server connection at any moment. servers: connections of pools, including those being
    established. pools: all pools. waiting: listeners that found no free descriptor; all of them resume when one is
    given back.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.listening = 0
        self.clients = 0
        self.reserved = 0
        self.servers = 0
        self.pools: WeakSet[Any] = WeakSet()
        self.waiting: set[Any] = set()

    @classmethod
    def of_process(cls) -> Descriptors:
        """Those that this process's soft limit allows."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            soft = 1 << 30
        return cls(max(soft - SPARE_DESCRIPTORS, 2))

    @property
    def used(self) -> int:
        """Descriptors taken or reserved, so that each accepted client can get a connection to its server."""
        return self.clients + max(self.servers, self.reserved)

    @property
    def room(self) -> int:
        """For how many new connections, of two descriptors each, there is room; negative if there are too many. One
        connection is always possible, whatever the number of listeners."""
        return (max(self.limit - self.listening, 2) - self.clients - max(self.servers, self.reserved)) // 2

    @property
    def are_free(self) -> bool:
        """Whether two descriptors are free for a new connection."""
        return self.room > 0

    def take(self, count: int, reserved: int = 0) -> None:
        """Count a client that takes `count` descriptors. reserved: those that a pool takes for it later."""
        self.clients += count
        self.reserved += reserved

    def give(self, count: int, reserved: int = 0) -> None:
        """Undo `take` when the client is gone."""
        self.clients -= count
        self.reserved -= reserved
        if self.waiting:
            self._wake()

    def take_server(self) -> None:
        """Count a connection that a pool opens. If no descriptor is free, close the idle connections of all pools."""
        if self.servers >= self.reserved and not self.are_free:
            self.close_idle()
        self.servers += 1

    def give_server(self) -> None:
        """Undo `take_server` when the connection is closed or could not be established."""
        self.servers -= 1
        if self.waiting:
            self._wake()

    def close_idle(self) -> None:
        """Close the idle connections of all pools."""
        for pool in list(self.pools):
            pool.close()

    def _wake(self) -> None:
        waiting, self.waiting = self.waiting, set()
        for listener in waiting:
            listener.resume()
