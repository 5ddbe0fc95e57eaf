"""Sends batches of spans to one collector, by OTLP over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectionLost, DNSLookupError
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    RequestGenerationFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http_headers import Headers

from ktcpvs.errors import shorten
from ktcpvs.protocols.retry_after import parse_retry_after
from ktcpvs.system.network_errors import network_reason
from ktcpvs.system.otlp_encoder import CONTENT_TYPE, TRACES_PATH
from ktcpvs.system.web_client import BytesBody, QuietPool

REQUEST_TIMEOUT = 10.0
"""Seconds until a request counts as failed, as in OpenTelemetry's exporters."""

CONNECT_TIMEOUT = 5.0
"""Seconds."""

MAX_RESPONSE = 1 << 16
"""The most bytes of a response that are read."""

RETRYABLE = frozenset((429, 502, 503, 504))
"""The statuses after which the same batch is sent again (OTLP specification, "Retryable Response Codes")."""

MAX_RETRY_AFTER = 300.0
"""The most seconds of a Retry-After that are honoured."""

_NETWORK_ERRORS = (
    ConnectError, ConnectionLost, DNSLookupError, RequestGenerationFailed, ResponseFailed, TimeoutError,
    CancelledError, OSError,
)  # fmt: skip


@frozen
class SendResult:
    """The fate of a batch. is_sent: the collector has it. is_retryable: it may be sent again; else it is lost.
    reason: why it was not sent. retry_after: seconds that the collector asks for; 0: none. body: of its response."""

    is_sent: bool
    is_retryable: bool = False
    reason: str = ""
    retry_after: float = 0.0
    body: bytes = b""


class _Reader(Protocol):
    """Reads the body of a response, MAX_RESPONSE bytes of it at most. done: fires with it; with b"" if it was cut.
    Cancelling it closes the connection."""

    def __init__(self, abort: Callable[[], None]) -> None:
        """abort: closes the connection at once."""
        self._abort = abort
        self._received = b""
        self.done: Deferred[bytes] = Deferred(lambda _: abort())

    def dataReceived(self, data: bytes) -> None:
        self._received += data[: MAX_RESPONSE - len(self._received)]
        if len(self._received) == MAX_RESPONSE:
            self._abort()

    def connectionLost(self, reason: Failure | None = None) -> None:
        if not self.done.called:
            is_whole = reason is not None and reason.check(ResponseDone)
            self.done.callback(self._received if is_whole else b"")


class OTLPExporter:
    """The way to one collector, over a connection that is kept."""

    def __init__(self, reactor: Any, endpoint: str, version: str, now: Callable[[], float] = time.time) -> None:
        """endpoint: a URL, without the path of OTLP. version: of the program. now: returns seconds since 1970."""
        self._now = now
        self.endpoint = endpoint
        self._reactor = reactor
        self._url = (endpoint.rstrip("/") + TRACES_PATH).encode("ascii")
        self._headers = Headers(
            {b"Content-Type": [CONTENT_TYPE], b"User-Agent": [f"OTel-OTLP-Exporter-ktcpvs/{version}".encode("ascii")]}
        )
        self._pool: Any = QuietPool(reactor)
        self._pool.maxPersistentPerHost = 1
        self._agent = Agent(reactor, connectTimeout=CONNECT_TIMEOUT, pool=self._pool)

    def send(self, batch: bytes) -> Deferred[SendResult]:
        """Send a batch. Fires with what became of it; never fails because of the network."""
        return Deferred.fromCoroutine(self._send(batch))

    async def _send(self, batch: bytes) -> SendResult:
        request: Any = self._agent.request(b"POST", self._url, self._headers, BytesBody(batch))
        try:
            response = await request.addTimeout(REQUEST_TIMEOUT, self._reactor)
        except _NETWORK_ERRORS as error:
            return SendResult(False, is_retryable=True, reason=_why(error))
        reader = _Reader(self._pool.abort)
        response.deliverBody(reader)
        # The status decides: after 200 the collector has the batch, also if the rest of its response never comes.
        body = await reader.done.addTimeout(REQUEST_TIMEOUT, self._reactor, onTimeoutCancel=lambda *_: b"")
        if 200 <= response.code < 300:
            return SendResult(True, body=body)
        why = f"status {response.code}"
        return SendResult(False, response.code in RETRYABLE, why, _retry_after(response.headers, self._now()))

    def close(self) -> None:
        """Close the kept connection."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        closed.addErrback(lambda _: None)


def _retry_after(headers: Headers, now: float) -> float:
    """Return the seconds of a Retry-After, MAX_RETRY_AFTER at most; 0: there is none. now: seconds since 1970."""
    value = (headers.getRawHeaders(b"Retry-After") or [b""])[0].decode("latin-1")
    return min(parse_retry_after(value, now) or 0.0, MAX_RETRY_AFTER)


def _why(error: Exception) -> str:
    """Return an error of the network in words."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _why(reasons[0].value)
    if isinstance(error, TimeoutError | CancelledError):
        return f"no response within {REQUEST_TIMEOUT:g} seconds"
    return shorten(network_reason(error), 200)
