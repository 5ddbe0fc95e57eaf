"""The relay that a client connection becomes after an upgrade (101, RFC 9110, section 7.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.http.websocket_relay import WebSocketRelay
from ktcpvs.model import exchange as life
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.engines import Relay
from ktcpvs.runtime.context import Context
from ktcpvs.streams.lingering_close import close_gracefully
from ktcpvs.streams.stream import Stream


class UpgradeOwner(Protocol):
    """The part of a client connection that its upgrade uses."""

    client: Stream
    relay: Relay | None
    state: str

    def transition(self, event: str) -> None:
        """Change the state."""

    def set_timer(self, seconds: float, due: Callable[[], object] | None = None) -> None:
        """Restart the connection's one timer; None: no timer."""

    def join(self, relay: CopyRelay) -> None:
        """Let the service's relay engine take over."""

    def join_by_copying(self) -> None:
        """The relay copies to the end."""

    def end_if_over(self) -> None:
        """End the connection if both sides are closed."""

    def expire(self) -> None:
        """Close both sides now."""


class Upgrade:
    """Relays the bytes of both sides unchanged until both directions have ended."""

    __slots__ = ("_connection_closed", "_context", "_owner", "_server")

    def __init__(
        self,
        context: Context,
        owner: UpgradeOwner,
        server: ServerConnection,
        connection_closed: Callable[[ServerConnection], object],
    ) -> None:
        """connection_closed: called when the server connection is closed."""
        self._context = context
        self._owner = owner
        self._server = server
        self._connection_closed = connection_closed

    def start(self, from_client: bytes, from_server: bytes) -> None:
        """Begin. from_client, from_server: the bytes already received, which are forwarded first."""
        owner = self._owner
        relay = owner.relay = self._copy_relay()
        relay.start(from_client)
        owner.client.resume()
        if from_server:
            relay.outward.received(from_server)
        owner.join(relay)

    def start_websocket(self, from_client: bytes, from_server: bytes) -> None:
        """As `start`, for a WebSocket that the switch may close."""
        owner = self._owner
        owner.relay = relay = WebSocketRelay(self._copy_relay(), self._context.wheel, owner.expire)
        relay.start(from_client, from_server)
        owner.client.resume()
        owner.join_by_copying()

    def _copy_relay(self) -> CopyRelay:
        owner, server = self._owner, self._server
        owner.client.clear_backpressure()
        server.clear_backpressure()
        server.lost = self._server_lost
        return CopyRelay(owner.client, server, self._context.wheel, self._finished)

    def _finished(self) -> None:
        """Both directions have ended: close both sides when their peers have read what is buffered."""
        owner = self._owner
        owner.transition(life.FINISHED)
        owner.set_timer(0)
        close_gracefully(owner.client, self._context.wheel, self._context.settings)
        close_gracefully(self._server, self._context.wheel, self._context.settings)

    def _server_lost(self, clean: bool) -> None:
        owner = self._owner
        self._connection_closed(self._server)
        if owner.state != life.CLOSED:
            owner.transition(life.RESET)
        owner.set_timer(0)
        close_gracefully(owner.client, self._context.wheel, self._context.settings, clean)
        owner.end_if_over()
