"""The HTTP/2 connections of one service's clients: counted, retired and closed with the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ktcpvs.dispatch.client_limits import ClientLimits
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http import http2_compiled  # noqa: F401 - replaces methods of streams by compiled ones
from ktcpvs.http.http2_client_connection import HTTP2ClientConnection, StreamCounter
from ktcpvs.http.http2_limits import http2_limits
from ktcpvs.http.http2_response_heads import ResponseHeads
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.protocols.http2.constants import ENHANCE_YOUR_CALM
from ktcpvs.runtime.descriptors import StreamDescriptors
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream

DESCRIPTORS = 1
"""The number counted for a connection, besides the one that is reserved for its streams."""


class HTTP2Clients:
    """Serves the clients of one service that speak HTTP/2. Each stream becomes a client connection of its own.

    floods: how many connections have ended since they sent too many frames that ask for nothing.
    """

    def __init__(
        self,
        service: ServiceContext,
        clients: Any,
        left: Callable[[], object],
        counter: StreamCounter,
        poller: Callable[[], SocketPoller | None],
        streams: StreamDescriptors,
    ) -> None:
        """clients: counts the clients of the service. left: called when a connection counts no more. counter: of
        the client connections of streams. poller: that of the service's connections; None: the reactor has them.
        streams: the descriptors of the server connections for streams."""
        self._service = service
        self._context = service.context
        self._clients = clients
        self._left = left
        self._counter = counter
        self._poller = poller
        self._streams = streams
        self._heads = ResponseHeads()
        self._open: dict[HTTP2ClientConnection, ClientLimits | None] = {}
        self._glitches = 0  # of connections that are over
        self.floods = 0

    @property
    def glitches(self) -> int:
        """The frames of clients so far that asked for nothing."""
        return self._glitches + sum(connection.protocol.glitches for connection in self._open)

    def __len__(self) -> int:
        return len(self._open)

    def begin(
        self,
        stream: Stream,
        names: tuple[str, str],
        limits: ClientLimits | None,
        first: bytes,
        build: Callable[[], HTTP2StreamConnection],
        is_retiring: bool,
    ) -> None:
        """Serve a client over a stream that is open. names: of the client. limits: of its address; None: there are
        none. first: the bytes that it has sent. build: returns a connection for one of its streams. is_retiring:
        another process serves new clients; finish what has come."""
        self._context.descriptors.take(DESCRIPTORS)
        self._streams.add_client()
        self._clients.add(1)
        settings = self._service.settings
        frames = http2_limits(settings, settings.http2_streams)
        connection = HTTP2ClientConnection(
            self._service, stream, names, build, self._counter, frames, self._heads, self._poller(), self._ended
        )
        self._open[connection] = limits
        connection.receive(first)
        if is_retiring:
            connection.retire()

    def retiring(self) -> list[Callable[[], object]]:
        """Return a call for each connection after which it accepts no further streams; those in flight finish."""
        return [connection.retire for connection in self._open]

    def close(self) -> None:
        """End all of them now."""
        for connection in list(self._open):
            self._context.steps.run(f"service {self._service.ident}: end an HTTP/2 connection", connection.drop)

    def _ended(self, connection: HTTP2ClientConnection) -> None:
        if connection in self._open:
            limits = self._open.pop(connection)
            if limits is not None:
                limits.release()
            self._clients.add(-1)
            self._glitches += connection.protocol.glitches
            self.floods += connection.error == ENHANCE_YOUR_CALM
            self._streams.remove_client()
            self._context.descriptors.give(DESCRIPTORS)
            self._left()
