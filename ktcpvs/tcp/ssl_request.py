"""Connect a stream to a server of PostgreSQL that is to speak TLS next: the SSLRequest and its answer."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from ktcpvs.errors import shorten
from ktcpvs.protocols.postgresql import ACCEPT, DENY, SSL_REQUEST
from ktcpvs.streams.connect import Connecting
from ktcpvs.streams.connector import Connector
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.system.timer_wheel import TimerWheel


class SSLRequestFailed(ConnectError):
    """The server does not speak TLS; str() is the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(string=reason)  # type: ignore[no-untyped-call]
        self.reason = reason

    def __str__(self) -> str:
        return f"SSLRequest: {self.reason}"


class SSLRequestAttempt:
    """An attempt to connect, and to get the server's consent to TLS."""

    __slots__ = ("_connected", "_connecting", "_failed", "_stream", "_timeout", "_wheel")

    def __init__(
        self,
        wheel: TimerWheel,
        connected: Callable[[Stream], object],
        failed: Callable[[Failure], object],
    ) -> None:
        """Calls `connected` with the stream when a ClientHello may be sent on it, or `failed` with ConnectError and the
        like, in a later turn; or `failed` with CancelledError when the attempt is cancelled."""
        self._wheel = wheel
        self._connected = connected
        self._failed = failed
        self._connecting: Connecting | None = None
        self._stream: Stream | None = None  # while the answer is awaited
        self._timeout = 0.0

    def begin(self, connector: Connector, poller: SocketPoller | None) -> SSLRequestAttempt:
        """Connect to the server. Its timeout applies to the connection, and once more to the answer."""
        self._timeout = connector.timeout
        self._connecting = connector.begin(Stream(), self._opened, self._not_connected, poller)
        return self

    def cancel(self) -> None:
        """Stop, and fail with CancelledError."""
        if self._stream is not None:
            self._end(CancelledError())
        elif self._connecting is not None:
            self._connecting.cancel()

    def _opened(self, stream: Stream) -> None:
        self._connecting = None
        self._stream = stream
        stream.dataReceived = self._answered
        stream.ended = self._ended
        stream.lost = self._lost
        stream.timer = self._wheel.after(self._timeout, self._timed_out)
        stream.write(SSL_REQUEST)

    def _not_connected(self, why: Failure) -> None:
        self._connecting = None
        self._failed(why)

    def _answered(self, data: bytes) -> None:
        stream = self._stream
        if data != ACCEPT or stream is None:
            self._end(SSLRequestFailed(_meaning(data)))
            return
        self._leave(stream)
        self._connected(stream)

    def _ended(self) -> None:
        self._end(SSLRequestFailed("the server has ended the connection"))

    def _lost(self, clean: bool) -> None:
        self._end(SSLRequestFailed("the server has reset the connection"))

    def _timed_out(self) -> None:
        self._end(SSLRequestFailed(f"no answer within {self._timeout:g} seconds"))

    def _leave(self, stream: Stream) -> None:
        self._stream = None
        if stream.timer is not None:
            stream.timer.cancel()
            stream.timer = None
        stream.dataReceived = stream.ended = stream.lost = nothing

    def _end(self, error: Exception) -> None:
        stream = self._stream
        if stream is not None:
            self._leave(stream)
            stream.abort()
            self._failed(Failure(error))


def _meaning(answer: bytes) -> str:
    """What an answer that does not allow TLS says."""
    if answer == DENY:
        return "the server does not speak TLS (ssl = off in postgresql.conf)"
    if answer.startswith(ACCEPT):
        return "the server sends more than its answer"
    return f"the server answers {shorten(repr(answer)[1:], 40)}, and not S or N"
