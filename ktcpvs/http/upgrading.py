"""A client connection that leaves HTTP: after the 101 it is a relay for whatever bytes come (RFC 9110, 7.8)."""

from __future__ import annotations

from time import monotonic

from ktcpvs.http.client_connection import TURN_IS_OVER, HTTPClientConnection
from ktcpvs.model import exchange as life
from ktcpvs.protocols import messages
from ktcpvs.protocols.framing import Chunked
from ktcpvs.protocols.upgrades import accepted
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.streams.lingering_close import close_gracefully


class Upgrading(HTTPClientConnection):
    """What an answer with status 101 does."""

    __slots__ = ()

    def _switch_protocols(self, message: messages.Request, answer: messages.Response, rest: bytes) -> None:
        protocols = accepted(answer.upgrade, message.upgrades(self.service.config.upgrade))
        if self._held & TURN_IS_OVER:
            self._fail(502, "the server switched protocols while the request's body was still being read")
        elif protocols:
            self._upgrade(answer, b", ".join(protocols), rest)
        else:
            self._fail(502, "the server switched to a protocol that it was not asked for")

    def _upgrade(self, answer: messages.Response, protocols: bytes, rest: bytes) -> None:
        """From now on bytes go both ways, whatever they are; a body of the request that has not ended is among them."""
        server = self.server
        assert server is not None
        self._transition(life.UPGRADED)
        server.destination.latencies.count(answer.status, monotonic() - self._asked)
        added = self.choice.answer_lines if self.choice is not None else b""
        head = b"%b%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (answer.head, added, protocols)
        self.client.transport.write(head)
        self.bytes_out += len(head)
        if self.entry is not None:
            self.entry.answered(answer.status, len(head))
        self.client.transport.unregisterProducer()
        server.transport.unregisterProducer()
        server.lost = self._relay_server_lost
        relay = self.relay = CopyRelay(self.client, server, self.context.wheel, self._relay_finished)
        body, self._body = self._body, None
        waiting, self._pending = self._pending, b""
        if isinstance(body, Chunked):
            waiting = body.held + waiting
        self._held = 0
        relay.start(waiting)
        self.client.resume()
        if rest:
            relay.outward.received(rest)
        self._hand_over(relay, self._relay_finished)

    def _relay_finished(self) -> None:
        """Both directions have ended; what is buffered still goes out, as long as somebody takes it."""
        self._transition(life.FINISHED)
        self._set_timer(0)
        close_gracefully(self.client, self.context.wheel, self.context.settings)
        close_gracefully(self.server, self.context.wheel, self.context.settings)

    def _relay_server_lost(self, clean: bool) -> None:
        self.service.pool.closed()
        if self.state != life.CLOSED:
            self._transition(life.RESET)
        self._set_timer(0)
        close_gracefully(self.client, self.context.wheel, self.context.settings, clean)
        self._maybe_over()
