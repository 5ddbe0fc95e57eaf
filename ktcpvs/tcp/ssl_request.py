"""The SSLRequest to a server of PostgreSQL: asks on a new connection whether TLS may follow."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from ktcpvs.errors import shorten
from ktcpvs.protocols.postgresql import ACCEPT, DENY, SSL_REQUEST
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
    """One request, until it is answered. It is a part of connecting, and can be cancelled as that can."""

    __slots__ = ("_agreed", "_failed", "_stream", "_timeout")

    def __init__(
        self,
        stream: Stream,
        wheel: TimerWheel,
        timeout: int,
        agreed: Callable[[Stream], object],
        failed: Callable[[Failure], object],
    ) -> None:
        """stream: open. timeout: seconds for the answer. agreed: called with the stream when a ClientHello may be sent
        on it. failed: called when the stream was closed, with SSLRequestFailed, or with CancelledError when it is
        cancelled."""
        self._agreed = agreed
        self._failed = failed
        self._timeout = timeout
        self._stream: Stream | None = stream  # None: it is over
        stream.dataReceived = self._answered
        stream.ended = self._ended
        stream.lost = self._lost
        stream.timer = wheel.after(timeout, self._timed_out)

    def begin(self) -> None:
        """Send the request."""
        if self._stream is not None:
            self._stream.write(SSL_REQUEST)

    def cancel(self) -> None:
        """Stop, and fail with CancelledError."""
        self._fail(CancelledError())

    def _answered(self, data: bytes) -> None:
        if data != ACCEPT:
            self._fail(SSLRequestFailed(_meaning(data)))
        elif (stream := self._leave()) is not None:
            self._agreed(stream)

    def _ended(self) -> None:
        self._fail(SSLRequestFailed("the server has ended the connection"))

    def _lost(self, clean: bool) -> None:
        self._fail(SSLRequestFailed("the server has reset the connection"))

    def _timed_out(self) -> None:
        self._fail(SSLRequestFailed(f"no answer within {self._timeout} seconds"))

    def _fail(self, error: Exception) -> None:
        stream = self._leave()
        if stream is not None:
            stream.abort()
            self._failed(Failure(error))

    def _leave(self) -> Stream | None:
        """Return the stream, which calls this attempt no more; None: the attempt was over before."""
        stream, self._stream = self._stream, None
        if stream is not None:
            if stream.timer is not None:
                stream.timer.cancel()
                stream.timer = None
            stream.dataReceived = stream.ended = stream.lost = nothing
        return stream


def _meaning(answer: bytes) -> str:
    """The text of an answer that does not allow TLS."""
    if answer == DENY:
        return "the server does not speak TLS (ssl = off in postgresql.conf)"
    if answer.startswith(ACCEPT):
        return "the server sends more than its answer"
    return f"the server answers {shorten(repr(answer)[1:], 40)}, and not S or N"
