"""Clients whose services have limits for each client address; those of other services know nothing of it.

Who asks too often is answered 429 (RFC 6585, section 4), and may go on later on the same connection.
"""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING, Any

from ktcpvs.dispatch.admission import LATER
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.http.exchange import Exchange
from ktcpvs.http.head_cache import CachedRequest
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model import connection as connection_life
from ktcpvs.model import exchange as exchange_life
from ktcpvs.model.clients import NOWHERE
from ktcpvs.model.scheduling import Request
from ktcpvs.streams.accept import client_name
from ktcpvs.tcp.connection import TCPClientConnection

if TYPE_CHECKING:
    from ktcpvs.services.running import RunningService

TOO_MANY = "this client address asks more than it may"
TOO_MUCH = "this client address has more unfinished heads than it may"

_AROUND = len(b"  HTTP/1.1\r\n\r\n")


def new_client(service: RunningService, sock: socket.socket, peer: Any) -> ClientConnection | None:
    """What serves the client who has just been accepted; None: it was turned away. peer: as accept() told it."""
    name, host = client_name(peer)
    each = service.unit == EACH_REQUEST
    place = NOWHERE if service.gate.is_open_to_all else service.gate.enter(sock, peer)
    if place is None:
        return None
    if place == NOWHERE:
        return (Exchange if each else TCPClientConnection)(service, name, host)
    limited = (LimitedExchange if each else LimitedTCPConnection)(service, name, host)
    limited.place, limited.held = place, 0
    return limited


def _head_size(request: Request) -> int:
    return len(request.method or b"") + len(request.target or b"") + len(request.lines) + _AROUND


class LimitedTCPConnection(TCPClientConnection):
    """One client connection that is served as a whole; the limits are for its head. held: bytes of it that count."""

    __slots__ = ("held",)

    held: int

    def leave(self) -> None:
        self.service.gate.leave(self.place, self.held)

    def _request_ready(self) -> None:
        wait = self.service.gate.asks(self.place, _head_size(self.request))
        if wait:
            self._fail(429, TOO_MANY, math.ceil(wait))
        else:
            self._choose()

    def _head_received(self, data: bytes) -> None:
        super()._head_received(data)
        reader = self._reader
        held = len(reader.received) if reader is not None and self.state == connection_life.READING_HEAD else 0
        more, self.held = held - self.held, held
        if more and self.service.gate.hold(self.place, more) and held:
            self._transition(connection_life.BAD_HEAD)
            self._refuse(429, TOO_MUCH, LATER)


class LimitedExchange(Exchange):
    """One client connection that is served request by request; the limits are for each of them. held: bytes of an
    unfinished head that count."""

    __slots__ = ("held",)

    held: int

    def leave(self) -> None:
        self.service.gate.leave(self.place, self.held)

    def _fast_path(self, known: CachedRequest) -> None:
        if self.service.gate.asks(self.place, len(known.data)):
            self._next(known.data)  # which has the time to ask again, and to answer
        else:
            Exchange._fast_path(self, known)

    def _request_ready(self) -> None:
        wait = self.service.gate.asks(self.place, _head_size(self.request))
        if wait:
            self._fail(429, TOO_MANY, math.ceil(wait))
        else:
            self._choose()

    def _next(self, data: bytes) -> None:
        super()._next(data)
        reader = self._reader
        held = len(reader.received) if reader is not None and self.state == exchange_life.IDLE else 0
        more, self.held = held - self.held, held
        if more and self.service.gate.hold(self.place, more) and held:
            self._reader = None
            self._transition(exchange_life.BAD_REQUEST)
            self._refuse(429, TOO_MUCH, LATER)
