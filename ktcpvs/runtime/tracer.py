"""The spans of this process on their way to collectors: limits, queues, batches, retries."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from random import uniform
from typing import TYPE_CHECKING, Any

from attrs import asdict, define
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.python.failure import Failure

from ktcpvs.model.settings import DEFAULT_SETTINGS, Settings
from ktcpvs.model.spans import Span, Value
from ktcpvs.system.log import EventLog
from ktcpvs.system.otlp_encoder import OTLPEncoder, encoder
from ktcpvs.system.otlp_packages import unavailable
from ktcpvs.version import __version__

if TYPE_CHECKING:
    from ktcpvs.system.otlp_exporter import OTLPExporter, SendResult

MAX_BATCH_SPANS = 512
"""The most spans of one request to a collector, as in OpenTelemetry's exporters."""

MAX_BATCH_BYTES = 1 << 20
"""The most bytes of these spans, unless one alone is longer; collectors accept 4 MiB or more."""

FIRST_RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 60.0
"""Seconds until a batch is sent again after a failure, and the most: each further failure doubles the delay."""

UNUSED_TIMEOUT = 3600.0
"""Seconds without a span for a collector after which its queue and its connection are given up."""

FLUSH_TIMEOUT = 1.5
"""Seconds that a process which ends has to send what is in its queues."""


@define
class SpanCounts:
    """Counts since the start of this process.

    sent: spans that a collector has accepted. rejected: spans that it has refused, or that it could not read.
    queue_full: spans that were dropped because the queue or the memory was full. lost: spans in the queue when the
    process ended, or when their collector had been out of use for UNUSED_TIMEOUT.
    limited: requests that were sampled and not recorded, because of `trace_limit`. failures: requests to collectors
    that have failed.
    """

    sent: int = 0
    rejected: int = 0
    queue_full: int = 0
    lost: int = 0
    limited: int = 0
    failures: int = 0


class _Sender:
    """The queue of spans for one collector. One batch is on its way at a time, so batches keep their order.

    size: of all spans in the queue, in bytes. last_added: when it got its last span.
    """

    def __init__(
        self,
        exporter: OTLPExporter,
        log: EventLog,
        counts: SpanCounts,
        encode: OTLPEncoder,
        now: Callable[[], float],
    ) -> None:
        """now: returns monotonic seconds."""
        self._now = now
        self.exporter = exporter
        self.queue: deque[bytes] = deque()
        self.size = 0
        self.last_sent = self.last_added = 0.0
        self._log = log
        self._counts = counts
        self._encode = encode
        self._delay = 0.0
        self._not_before = 0.0
        self.in_flight: Deferred[None] | None = None

    def add(self, span: bytes) -> None:
        """Queue an encoded span."""
        self.queue.append(span)
        self.size += len(span)
        self.last_added = self._now()

    def is_due(self, now: float, interval: float) -> bool:
        """Return whether a batch is to be sent now. now: monotonic seconds. interval: between two batches."""
        if not self.queue or self.in_flight is not None or now < self._not_before:
            return False
        return len(self.queue) >= MAX_BATCH_SPANS or now - self.last_sent >= interval

    def send(self, now: float) -> Deferred[None]:
        """Send the next batch. Fires when the collector has responded, or has not. To be called while nothing is on
        its way."""
        batch = self._next_batch()
        self.last_sent = now
        self.in_flight = sent = self.exporter.send(self._encode.batch(batch)).addCallback(self._sent, len(batch))
        sent.addErrback(self._failed)
        if sent.called:  # as in tests
            self.in_flight = None
        return sent

    def _next_batch(self) -> Sequence[bytes]:
        batch: list[bytes] = []
        size = 0
        for span in islice(self.queue, MAX_BATCH_SPANS):
            size += len(span)
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(span)
        return batch

    def _sent(self, result: SendResult, count: int) -> None:
        self.in_flight = None
        counts = self._counts
        if result.is_sent:
            rejected = min(self._encode.rejected(result.body), count)
            counts.sent += count - rejected
            counts.rejected += rejected
            self._delay = self._not_before = 0.0
        elif not result.is_retryable:
            counts.rejected += count
        if not result.is_sent:
            counts.failures += 1
            self._log.fault("traces: {ident}: {reason}", self.exporter.endpoint, result.reason)
        if result.is_sent or not result.is_retryable:
            for _ in range(count):
                self.size -= len(self.queue.popleft())
        else:
            self._delay = min(max(2 * self._delay, FIRST_RETRY_DELAY), MAX_RETRY_DELAY)
            # From the response on: a collector that responds late would else be asked again at once.
            self._not_before = self._now() + max(result.retry_after, uniform(self._delay / 2, self._delay))

    def _failed(self, failure: Failure) -> None:
        self.in_flight = None
        self._log.failure("internal error: spans cannot be sent", failure)
        self.clear()

    def clear(self) -> None:
        """Drop all that is queued."""
        self.queue.clear()
        self.size = 0


class Tracer:
    """Decides how many requests are recorded, and sends their spans. counts: see SpanCounts."""

    def __init__(
        self,
        reactor: Any,
        log: EventLog,
        node: Callable[[], str],
        make_exporter: Callable[[str], OTLPExporter] | None = None,
    ) -> None:
        """node: returns the name of this switch; "": it has none. make_exporter: of an endpoint; None: the real one."""
        self.counts = SpanCounts()
        self._reactor = reactor
        self._log = log
        self._node = node
        self._make = make_exporter or self._make_exporter
        self._settings = DEFAULT_SETTINGS
        self._senders: dict[str, _Sender] = {}
        self._encoder: OTLPEncoder | None = None
        self._second = -1
        self._left = 0

    def configure(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    def may_record(self) -> bool:
        """Return whether one more request may be recorded in this second, and count it."""
        second = int(self._reactor.seconds())
        if second != self._second:
            self._second, self._left = second, self._settings.trace_limit
        if not self._left:
            self.counts.limited += 1
            return False
        self._left -= 1
        return True

    def record(self, endpoint: str, spans: Iterable[Span]) -> None:
        """Queue the spans of a request that has ended. endpoint: of the collector."""
        if self._encoder is None:
            if unavailable():  # the director has refused that; the package has been removed since
                self._log.fault("traces: {reason}", "", unavailable())
                return
            self._encoder = encoder(tuple(self._resource().items()), __version__)
        sender = self._senders.get(endpoint)
        if sender is None:
            parts = self._make(endpoint), self._log, self.counts, self._encoder, self._reactor.seconds
            sender = self._senders[endpoint] = _Sender(*parts)
        room = (self._settings.trace_memory << 10) - sum(one.size for one in self._senders.values())
        for span in spans:
            encoded = self._encoder.span(span) if room > 0 and len(sender.queue) < self._settings.trace_queue else None
            if encoded is None or len(encoded) > room:
                self.counts.queue_full += 1
            else:
                sender.add(encoded)
                room -= len(encoded)

    @property
    def queued(self) -> int:
        """The spans that wait for being sent, or for the response of their collector."""
        return sum(len(sender.queue) for sender in self._senders.values())

    def describe(self) -> dict[str, int]:
        """Return the counts, and `queued`, by name."""
        return {**asdict(self.counts), "queued": self.queued}

    def tick(self) -> None:
        """Send the batches that are due. To be called once a second."""
        now = self._reactor.seconds()
        for endpoint, sender in list(self._senders.items()):
            if sender.in_flight is None and now - sender.last_added >= UNUSED_TIMEOUT:
                self._give_up(endpoint)
            elif sender.is_due(now, self._settings.trace_interval):
                sender.send(now)

    def _give_up(self, endpoint: str) -> None:
        sender = self._senders.pop(endpoint)
        self._count_lost(len(sender.queue))
        sender.exporter.close()

    def flush(self) -> Deferred[None]:
        """Send what is queued, before this process ends. Fires when that is done, or has failed, after FLUSH_TIMEOUT at
        the latest."""
        if not self.queued:
            return succeed(None)
        deadline = self._reactor.seconds() + FLUSH_TIMEOUT
        flushed = DeferredList([Deferred.fromCoroutine(self._flush(one, deadline)) for one in self._senders.values()])
        done: Deferred[None] = Deferred()

        def finished(_: object = None) -> None:
            if timer.active():
                timer.cancel()
            if not done.called:
                done.callback(None)

        timer = self._reactor.callLater(FLUSH_TIMEOUT, finished)
        flushed.addBoth(finished)
        return done.addCallback(lambda _: self._count_lost(self.queued))

    async def _flush(self, sender: _Sender, deadline: float) -> None:
        if sender.in_flight is not None:
            await _wait(sender.in_flight)
        while sender.queue and self._reactor.seconds() < deadline:
            before = self.counts.failures
            await _wait(sender.send(self._reactor.seconds()))
            if self.counts.failures != before:
                return

    def _count_lost(self, lost: int) -> None:
        self.counts.lost += lost
        if lost:
            self._log.warn("traces: {lost} spans are lost, which no collector has accepted", lost=lost)

    def close(self) -> None:
        """Close the connections to collectors."""
        for sender in self._senders.values():
            sender.exporter.close()

    def _make_exporter(self, endpoint: str) -> OTLPExporter:
        from ktcpvs.system.otlp_exporter import OTLPExporter  # an HTTP client takes 3 MiB, and few send spans

        return OTLPExporter(self._reactor, endpoint, __version__)

    def _resource(self) -> dict[str, Value]:
        """Return the attributes of this process (OpenTelemetry's semantic conventions for resources)."""
        host, node = socket.gethostname(), self._node()
        return {
            "service.name": "ktcpvs",
            "service.version": __version__,
            "service.instance.id": f"{node or host}:{os.getpid()}",
            "host.name": host,
            "process.pid": os.getpid(),
            **({"ktcpvs.node": node} if node else {}),
        }


def _wait(deferred: Deferred[None]) -> Deferred[None]:
    """Return a Deferred that fires when another one does, which goes on to be of use to others."""
    waiting: Deferred[None] = Deferred()

    def fired(result: Any) -> Any:
        waiting.callback(None)
        return result

    deferred.addBoth(fired)
    return waiting
