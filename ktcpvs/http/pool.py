"""The pool of idle server connections of one service. It decides which to reuse, keep and close, without any I/O.

The most recently used connection is reused first, so that the others can expire.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from ktcpvs.model.destination import Destination


class Poolable(Protocol):
    """A connection that a pool can keep. idle_since: the tick at which it became idle; set by the pool."""

    destination: Destination
    idle_since: int


C = TypeVar("C", bound=Poolable)

Kept = dict[Destination, list[C]]
"""Server -> its idle connections, the most recently used last."""


class Pool(Generic[C]):
    """The idle server connections of one service. Methods return the connections that the caller must close; they are
    not in the pool any more."""

    __slots__ = ("kept",)

    def __init__(self, kept: Kept[C] | None = None) -> None:
        """kept: of a pool that this one stands in for; None: there is none."""
        self.kept: Kept[C] = {} if kept is None else kept

    def __repr__(self) -> str:
        return f"<Pool {sum(map(len, self.kept.values()))} idle for {len(self.kept)} servers>"

    def __bool__(self) -> bool:
        return bool(self.kept)

    def take(self, destination: Destination) -> C | None:
        """Remove and return the most recently used connection to `destination`; None without one."""
        idle = self.kept.get(destination)
        return idle.pop() if idle else None

    def put(self, connection: C, now: int, size: int) -> C | None:
        """Keep `connection`. now: the tick. size: how many are kept for one server. Returns the connection, to be
        closed, when there are as many already."""
        idle = self.kept.get(connection.destination)
        if idle is None:
            idle = self.kept[connection.destination] = []
        if len(idle) >= size:
            return connection
        connection.idle_since = now
        idle.append(connection)
        return None

    def discard(self, connection: C) -> None:
        """Forget a connection that its server has closed, if it is kept."""
        idle = self.kept.get(connection.destination)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def idle(self, destination: Destination) -> int:
        """Return the number of idle connections to `destination`."""
        return len(self.kept.get(destination, ()))

    def drain(self, keep: frozenset[Destination] = frozenset()) -> list[C]:
        """Remove the connections to all servers but `keep`."""
        gone = [destination for destination in self.kept if destination not in keep]
        return [connection for destination in gone for connection in self.kept.pop(destination)]

    def expire(self, oldest: int) -> list[C]:
        """Remove the connections that have been idle since before the tick `oldest`."""
        expired: list[C] = []
        for destination, idle in list(self.kept.items()):
            while idle and idle[0].idle_since < oldest:
                expired.append(idle.pop(0))
            if not idle:
                del self.kept[destination]
        return expired


class FullPool(Pool[C]):
    """Stands in for a pool that is to keep nothing more, with what that one keeps."""

    __slots__ = ()

    def put(self, connection: C, now: int, size: int) -> C | None:
        return connection
