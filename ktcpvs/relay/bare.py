"""What relays on bare sockets have in common: both connections leave their transports and are watched by epoll."""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.detach import Detached, detach, duplicate
from ktcpvs.relay.watch import Watch
from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.system.timer_wheel import TimerWheel

IN: int = getattr(select, "EPOLLIN", 1)
OUT: int = getattr(select, "EPOLLOUT", 4)
ERR: int = getattr(select, "EPOLLERR", 8)
HUP: int = getattr(select, "EPOLLHUP", 16)
PEER_ENDED: int = getattr(select, "EPOLLRDHUP", 8192)


class Side:
    """One of the two connections. fd: its socket's number; -1 when it is gone. events: for what it is watched.

    refuses: it takes nothing any more, and has not yet been read to its end.
    """

    __slots__ = ("events", "fd", "refuses", "relay", "sock", "transport")

    def __init__(self, relay: BareRelay, transport: Detached) -> None:
        self.relay: BareRelay | None = relay  # while it is watched
        self.transport = transport
        self.sock: socket.socket
        self.fd = -1
        self.events = 0
        self.refuses = False

    def ready(self, events: int) -> None:
        """It is ready for some of what it is watched for."""
        if self.relay is not None:
            self.relay.told_ready(self, events)


class BareRelay(ABC):
    """Joins two open streams; `inward` goes from the client to the server, `outward` back.

    Both leave their transports for detached ones, whose Engine it is. A direction has `source` and `target`, streams;
    `bytes`: how many went through; `seen`: the tick when the last came; `copied`: what was read and is to be written.
    """

    __slots__ = ("_client", "_finished", "_server", "_watch", "_wheel", "inward", "outward")

    def __init__(
        self, client: Stream, server: Stream, wheel: TimerWheel, finished: Callable[[], object], watch: Watch
    ) -> None:
        self._client = Side(self, Detached(self, watch.soon))
        self._server = Side(self, Detached(self, watch.soon))
        self.inward: Any
        self.outward: Any
        self._wheel = wheel
        self._finished = finished
        self._watch = watch

    @abstractmethod
    def _ready(self, into: Any, out: Any, events: int) -> None:
        """A side is ready. into: what comes from it; out: what goes to it."""

    def told_ready(self, side: Side, events: int) -> None:
        """One of its two sides is."""
        if side is self._client:
            self._ready(self.inward, self.outward, events)
        else:
            self._ready(self.outward, self.inward, events)

    @abstractmethod
    def _events(self, into: Any, out: Any) -> int:
        """For what a side is to be watched; 0: not at all."""

    @abstractmethod
    def holds(self, transport: Detached) -> bool:
        """As an Engine."""

    @abstractmethod
    def read_no_more(self, transport: Detached) -> None:
        """As an Engine."""

    @abstractmethod
    def forget(self, transport: Detached) -> None:
        """As an Engine."""

    def count_on(self, before: CopyRelay) -> None:
        """It goes on where `before` has stopped."""
        for way, copied in (self.inward, before.inward), (self.outward, before.outward):
            way.bytes, way.seen = copied.bytes, copied.seen

    def start(self, waiting: bytes = b"", answer: bytes = b"") -> None:
        """Begin. waiting: what the client has sent already, which goes to the server first; answer: the same of the
        server.

        Both can be detached (`can_detach`) and are flushed. Raises OSError when there are no more descriptors; then
        nothing has happened.
        """
        client, server = self.inward.source, self.outward.source
        self.inward.copied, self.outward.copied = waiting, answer
        client_sock = duplicate(client)
        try:
            server_sock = duplicate(server)
            try:
                self._begin(self._client, client_sock, self.inward, self.outward)
                self._begin(self._server, server_sock, self.outward, self.inward)
            except BaseException:
                server_sock.close()
                raise
        except BaseException:
            self._watch.forget(client_sock.fileno())
            client_sock.close()
            raise
        detach(client, self._client.transport, client_sock)
        detach(server, self._server.transport, server_sock)
        for way in self.inward, self.outward:
            way.bytes += len(way.copied)
            way.source.dataReceived = way.source.ended = nothing

    def _begin(self, side: Side, sock: socket.socket, into: Any, out: Any) -> None:
        events = self._events(into, out)
        if events:
            self._watch.add(sock.fileno(), events, side.ready)
        side.sock, side.fd, side.events = sock, sock.fileno(), events

    def _rewatch(self) -> None:
        """Be told what is wanted now."""
        self._want(self._client, self.inward, self.outward)
        self._want(self._server, self.outward, self.inward)

    def _want(self, side: Side, into: Any, out: Any) -> None:
        if side.fd < 0:
            return
        events = self._events(into, out)
        if events == side.events:
            return
        if not events:
            self._watch.forget(side.fd)
        elif side.events:
            self._watch.change(side.fd, events)
        else:
            self._watch.add(side.fd, events, side.ready)
        side.events = events

    def _unwatch(self, side: Side) -> None:
        """It is gone."""
        if side.events:
            self._watch.forget(side.fd)
        side.fd, side.events, side.relay = -1, 0, None

    def _of(self, transport: Detached) -> tuple[Side, Any, Any]:
        """A transport's side, what comes from it and what goes to it."""
        if transport is self._client.transport:
            return self._client, self.inward, self.outward
        return self._server, self.outward, self.inward
