"""Connector to a server that is started on demand: each connection waits until the server runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.model.address import Address
from ktcpvs.streams.connect import Connecting
from ktcpvs.streams.connector import PLAIN, ConnectionOptions, Connector, OriginOf
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream


class StartingConnector(Connector):
    """Connects once the server runs.

    A connection serves one exchange, as those that are told their client: so each request says that the server is
    needed, and one that is about to be stopped has no idle connections that a request could still take.
    """

    __slots__ = ("_want",)

    def __init__(
        self,
        reactor: Any,
        address: Address,
        timeout: float | Callable[[], float],
        options: ConnectionOptions = PLAIN,
        *,
        want: Callable[[Address], Deferred[None]],
    ) -> None:
        """want: fires when the server at that address runs."""
        super().__init__(reactor, address, timeout, options)
        self._want = want
        self._is_direct = False

    @property
    def key(self) -> Hashable:
        return "started", super().key

    @property
    def is_for_one_client(self) -> bool:
        return True

    def begin(
        self,
        stream: Stream,
        connected: Callable[[Stream], object],
        failed: Callable[[Failure], object],
        poller: SocketPoller | None = None,
        origin: OriginOf | None = None,
    ) -> Connecting:
        return self.connect_stream(stream, origin).addCallbacks(connected, failed)

    def connect_stream(self, stream: Stream, origin: OriginOf | None = None) -> Deferred[Stream]:
        connect = super().connect_stream
        return self._want(self.address).addCallback(lambda _: connect(stream, origin))
