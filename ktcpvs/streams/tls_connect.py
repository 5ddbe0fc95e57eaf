"""Make TLS on a connection to a server."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_buffers import buffers_of
from ktcpvs.streams.tls_handshake import Handshake, HandshakeFailed
from ktcpvs.streams.transport import nothing
from ktcpvs.system.tls_contexts import ClientTLS


class TLSFailed(ConnectError):
    """No TLS with a server; str() is the reason, such as `TLS: certificate has expired`.

    is_untrusted: the server speaks TLS, but its certificate was not accepted.
    """

    def __init__(self, reason: str, is_untrusted: bool = False) -> None:
        super().__init__(string=reason)  # type: ignore[no-untyped-call]
        self.reason = reason
        self.is_untrusted = is_untrusted

    def __str__(self) -> str:
        return f"TLS: {self.reason}"


class TLSAttempt:
    """One attempt to connect `stream` by TLS. connected: fires with it when the handshake is complete; cancelling it
    stops the attempt."""

    def __init__(
        self,
        reactor: Any,
        connect: Callable[[Stream], Deferred[Stream]],
        timeout: float,
        stream: Stream,
        tls: ClientTLS,
        session: ssl.SSLSession | None = None,
        session_kept: Callable[[ssl.SSLSession], object] = nothing,
    ) -> None:
        """connect: connects the stream below; its Deferred fires with that stream, and cancelling it stops the attempt.
        timeout: seconds for the handshake. session, session_kept: as for a `Handshake`."""
        self.connected: Deferred[Stream] = Deferred(lambda _: self._cancel())
        self._timeout = timeout
        self._stream = stream
        self._below = below = Stream()
        self._reactor = reactor
        self._late: Any = None
        self._handshake = Handshake(
            below,
            buffers_of(reactor),
            tls.context,
            server_side=False,
            server_name=tls.name,
            session=session,
            session_kept=session_kept,
        )
        self._connecting: Deferred[Stream] | None = connect(below)
        self._connecting.addCallbacks(self._opened, self._not_connected)

    def _opened(self, below: Stream) -> None:
        self._connecting = None
        below.dataReceived = self._feed
        below.ended = self._ended
        below.lost = self._lost
        self._late = self._reactor.callLater(self._timeout, self._too_late)
        self._feed(b"")

    def _not_connected(self, why: Failure) -> None:
        self._connecting = None
        if not self.connected.called:
            self.connected.errback(why)

    def _feed(self, data: bytes) -> None:
        try:
            rest = self._handshake.feed(data)
        except HandshakeFailed as error:
            if error.alert:
                self._below.write(error.alert)
            self._below.close()
            self._failed(str(error), error.is_untrusted)
            return
        if rest is not None:
            self._stop()
            self._handshake.open(self._stream, rest)
            self.connected.callback(self._stream)

    def _ended(self) -> None:
        self._below.abort()
        self._failed("the server has ended the connection in the handshake")

    def _lost(self, clean: bool) -> None:
        self._failed("the server has reset the connection in the handshake")

    def _too_late(self) -> None:
        self._late = None
        self._below.abort()
        self._failed(f"the handshake was not complete within {self._timeout:g} seconds")

    def _failed(self, reason: str, is_untrusted: bool = False) -> None:
        self._stop()
        if not self.connected.called:
            self.connected.errback(Failure(TLSFailed(reason, is_untrusted)))

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        below = self._below
        below.dataReceived = below.ended = below.lost = nothing

    def _cancel(self) -> None:
        if self._connecting is not None:
            self._connecting.addErrback(lambda _: None).cancel()
        self._stop()
        self._below.abort()
