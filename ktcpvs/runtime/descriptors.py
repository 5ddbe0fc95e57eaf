"""The process's descriptor limit, shared among client connections, server connections and listeners."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from twisted.internet.error import ConnectError

SPARE_DESCRIPTORS = 64
"""Descriptors kept for everything but connections and listeners: control, log, files, name look-ups."""


class Descriptors:
    """Counts the descriptors in use, and tells whether one more connection fits below the limit.

    A connection takes two descriptors, one for the client and one for the server. So each accepted client can get a
    connection to its server, and the process never has clients alone, which would wait for servers for ever.

    limit: the descriptors that connections and listeners may have. listening: those of listeners. clients: those of
    clients, together with the server connections of clients that are relayed as a whole. reserved: the number of
    clients that may need a server connection at any moment. servers: connections of pools, including those being
    established. streams: the server connections of streams of HTTP/2, taken or reserved, which L{StreamDescriptors}
    count. pools: all pools. waiting: whatever found no free descriptor, as listeners; all of them resume when one is
    given back.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.listening = 0
        self.clients = 0
        self.reserved = 0
        self.servers = 0
        self.streams = 0
        self.pools: WeakSet[Any] = WeakSet()
        self.waiting: set[Any] = set()
        self._is_waking = self._is_given = False

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
        return self.clients + max(self.servers, self.reserved) + self.streams

    @property
    def free(self) -> int:
        """Descriptors that are neither taken nor reserved; negative if there are too many. One connection is always
        possible, whatever the number of listeners."""
        return max(self.limit - self.listening, 2) - self.clients - max(self.servers, self.reserved) - self.streams

    @property
    def room(self) -> int:
        """For how many new connections, of two descriptors each, there is room; negative if there are too many: half of
        `free`, computed here since each client that is accepted asks."""
        taken = self.clients + max(self.servers, self.reserved) + self.streams
        return (max(self.limit - self.listening, 2) - taken) // 2

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
            self.wake()

    def take_server(self) -> None:
        """Count a connection that a pool opens. If no descriptor is free, close the idle connections of all pools."""
        if self.servers >= self.reserved and not self.are_free:
            self.close_idle()
        self.servers += 1

    def give_server(self) -> None:
        """Undo `take_server` when the connection is closed or could not be established."""
        self.servers -= 1
        if self.waiting:
            self.wake()

    def close_idle(self) -> None:
        """Close the idle connections of all pools."""
        for pool in list(self.pools):
            pool.close()

    def wake(self) -> None:
        """Descriptors may be free: let all that wait for them try again."""
        self._is_given = True
        if self._is_waking:
            return  # a loop, not a recursion: what resumes may give a descriptor back at once
        self._is_waking = True
        try:
            while self._is_given:
                self._is_given = False
                waiting, self.waiting = self.waiting, set()
                for one in waiting:
                    one.resume()
        finally:
            self._is_waking = False


class StreamDescriptors:
    """The descriptors of the server connections that the streams of one service's HTTP/2 clients have.

    One is reserved for each client. Its other streams have none until they connect: 100 streams that wait for room at
    a server would hold 100 descriptors, and some hundred clients all of the process. Beyond what is reserved, the
    streams of a service may take a further one while as many are free afterwards as they have, and two at least. So
    they leave half of what is free, no client of another service waits for theirs, and what they can take shrinks when
    new clients come.

    What is reserved for a service is for its streams alone, and each of its server connections ends without needing
    another descriptor. So streams that wait for one always get it at last.

    clients: the HTTP/2 connections of its clients. servers: the connections to its servers for streams, with those that
    are idle or being established. freed: called while `wait` is in force when descriptors may be free.
    """

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._counted = 0
        self.clients = 0
        self.servers = 0
        self.freed: Callable[[], object] = _nothing

    @property
    def may_connect(self) -> bool:
        """Whether a stream may take a descriptor for a server connection."""
        return self.servers < self.clients or self.servers + 2 <= self._descriptors.free

    def add_client(self) -> None:
        """Count a client, and reserve a descriptor for its streams."""
        self.clients += 1
        self._count()

    def remove_client(self) -> None:
        """Undo `add_client` when the client is gone."""
        self.clients -= 1
        self._count()

    def take_server(self) -> None:
        """Count a server connection that is begun."""
        self.servers += 1
        self._count()

    def give_server(self) -> None:
        """Undo `take_server` when the connection is closed or could not be established."""
        self.servers -= 1
        self._count()
        if self._descriptors.waiting:
            self._descriptors.wake()

    def _count(self) -> None:
        counted = max(self.clients, self.servers)
        self._descriptors.streams += counted - self._counted
        self._counted = counted

    def wait(self) -> None:
        """Call `freed` once when descriptors are given back."""
        self._descriptors.waiting.add(self)

    def resume(self) -> None:
        self.freed()

    def close_idle(self) -> None:
        """Close the idle server connections of all services."""
        self._descriptors.close_idle()


class NoDescriptor(ConnectError):
    """A stream has waited too long for a descriptor for its server connection."""

    def __init__(self, seconds: float) -> None:
        super().__init__(string=f"no descriptor was free within {seconds:g} seconds")  # type: ignore[no-untyped-call]
        self._seconds = seconds

    def __str__(self) -> str:
        return f"no descriptor was free within {self._seconds:g} seconds"


def _nothing() -> None:
    pass
