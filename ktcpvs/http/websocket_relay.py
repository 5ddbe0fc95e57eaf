"""The relay of a WebSocket that the switch can close: it follows the frames, and so knows where its own may stand.

A frame boundary can only be found from the first frame on, so every frame of such a connection is followed, in this
process: no engine takes over from the copying relay.
"""

from __future__ import annotations

from collections.abc import Callable
from os import urandom

from ktcpvs.protocols.websocket import SERVICE_RESTART, FrameFollower, close_frame
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.system.timer_wheel import Timer, TimerWheel


class WebSocketRelay:
    """Relays a WebSocket until both directions have ended, and closes it on request (RFC 6455, section 7).

    The client gets a Close frame, and from then on nothing of the server's. What the client still sends is forwarded,
    the Close frame with which it answers included, so nothing of that is lost; the server then closes the connection.
    A server whose client does not answer gets a Close frame of the switch. is_closing: the switch closes it.
    """

    __slots__ = (
        "_expire", "_from_client", "_from_server", "_has_told_client", "_has_told_server", "_is_late", "_relay",
        "_seconds", "_timer", "_wheel", "inward", "is_closing", "outward",
    )  # fmt: skip

    def __init__(self, relay: CopyRelay, wheel: TimerWheel, expire: Callable[[], object]) -> None:
        """expire: closes both sides; called when they have not answered Close frames in time."""
        self._relay = relay
        self.inward, self.outward = relay.inward, relay.outward
        self._wheel = wheel
        self._expire = expire
        self._from_client = FrameFollower()
        self._from_server = FrameFollower()
        self._seconds = 0
        self._timer: Timer | None = None
        self._has_told_client = self._has_told_server = False  # a Close frame of the switch has been sent
        self._is_late = False  # the client has not answered in time
        self.is_closing = False

    def __repr__(self) -> str:
        return f"<WebSocketRelay {self._relay!r}{', closing' if self.is_closing else ''}>"

    def start(self, from_client: bytes, from_server: bytes) -> None:
        """Begin. from_client, from_server: the bytes already received, which are forwarded first."""
        self._relay.start()
        self.inward.source.dataReceived = self._client_data
        self.outward.source.dataReceived = self._server_data
        if from_client:
            self._client_data(from_client)
        if from_server:
            self._server_data(from_server)

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, in either direction."""
        return self._relay.idle_since()

    def _client_data(self, data: bytes) -> None:
        if not self._is_late:
            self._from_client.advance(data)
            self.inward.received(data)
        elif not self._has_told_server:
            self.inward.received(data[: self._from_client.advance(data, stops=True)])
            self._tell_server()

    def _server_data(self, data: bytes) -> None:
        if not self.is_closing:
            self._from_server.advance(data)
            self.outward.received(data)
        elif not self._has_told_client:
            self.outward.received(data[: self._from_server.advance(data, stops=True)])
            self._tell_client()

    # Closing.

    def close(self, seconds: int) -> None:
        """Close the WebSocket. seconds: how long the client, and then the server, may take to answer a Close frame."""
        if self.is_closing:
            return
        self.is_closing = True
        self._seconds = seconds
        self._tell_client()
        self._timer = self._wheel.after(seconds, self._client_is_late)

    def stop(self) -> None:
        """Both sides are closed."""
        if self._timer is not None:
            self._timer.cancel()

    def _tell_client(self) -> None:
        """Send the Close frame, unless a frame is incomplete. The server's own one ends the connection as well."""
        if self._from_server.has_close or not self._from_server.is_at_boundary:
            return
        self._has_told_client = True
        if not self.outward.ended:
            self.outward.received(close_frame(SERVICE_RESTART))

    def _client_is_late(self) -> None:
        """The time of the client is over. The server has had it too, if the client has answered."""
        self._is_late = True
        if self._from_client.has_close or self.inward.ended:
            self._expire()
            return
        self._tell_server()
        self._timer = self._wheel.after(self._seconds, self._expire)

    def _tell_server(self) -> None:
        if self._from_client.has_close or not self._from_client.is_at_boundary:
            return
        self._has_told_server = True
        self.inward.received(close_frame(SERVICE_RESTART, urandom(4)))
