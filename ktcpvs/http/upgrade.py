"""The relay that a client connection becomes after an upgrade (101, RFC 9110, section 7.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ktcpvs.http.server_connection import ServerConnection
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

    def end_if_over(self) -> None:
        """End the connection if both sides are closed."""


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
        owner, server = self._owner, self._server
        owner.client.clear_backpressure()
        server.clear_backpressure()
        server.lost = self._server_lost
        relay = CopyRelay(owner.client, server, self._context.wheel, self._finished)
        owner.relay = relay
        relay.start(from_client)
        owner.client.resume()
        if from_server:
            relay.outward.received(from_server)
        owner.join(relay)

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
