"""Begins live traces of the services of this process, ends them, and lets them be read."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from ktcpvs.control.trace_session import TraceSession
from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.live_trace import STOPPED, TIME_OVER, TraceBatch, TraceQuery
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.live_traces import LiveTrace, TraceBuffer
from ktcpvs.schedulers.content import SEEN

READ_TIMEOUT = 1.0
"""Seconds after which a batch is empty, if nothing has come."""


class TraceReader:
    """Reads one buffer. Provides TraceSession."""

    def __init__(self, context: Context, buffer: TraceBuffer) -> None:
        self._reactor = context.reactor
        self._buffer = buffer
        self._waiting: Deferred[TraceBatch] | None = None
        buffer.changed = self._changed

    def read(self) -> Deferred[TraceBatch]:
        """See TraceSession. A reader that is still waiting gets an empty batch."""
        self._answer()
        if self._buffer.has_news:
            return succeed(self._buffer.take())
        waiting = self._waiting = Deferred()
        call = self._reactor.callLater(READ_TIMEOUT, self._answer)
        return waiting.addBoth(lambda result: call.cancel() if call.active() else None).addCallback(
            lambda _: self._buffer.take()
        )

    def _changed(self) -> None:
        if self._buffer.has_news:
            self._answer()

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(TraceBatch())

    def close(self) -> None:
        """See TraceSession."""
        self._buffer.end(STOPPED)


class LiveTracing:
    """The live traces of this process."""

    def __init__(self, director: Director) -> None:
        self._director = director

    def trace(self, query: TraceQuery) -> TraceSession:
        """Begin a trace. Raises NoSuchService, a Refusal for conditions that cannot be read, or that the scheduler of
        the service does not see, and Busy."""
        check_query(self._director, query)
        return _Running(self._director, LiveTrace(query))


class _Running(TraceReader):
    """A trace that runs in this process, and its reader."""

    def __init__(self, director: Director, trace: LiveTrace) -> None:
        context = director.context
        context.live_traces.add(trace)
        self._director = director
        self._trace = trace
        self._timer = context.wheel.after(trace.query.seconds, lambda: trace.buffer.end(TIME_OVER))
        super().__init__(context, trace.buffer)
        self._let_services_follow()

    def _changed(self) -> None:
        if self._trace.buffer.ended:
            self._timer.cancel()
            # Not within the request that was the last one: its service would change while it is being served.
            self._reactor.callLater(0, self._remove)
        super()._changed()

    def _remove(self) -> None:
        self._director.context.live_traces.remove(self._trace)
        self._let_services_follow()

    def _let_services_follow(self) -> None:
        director, ident = self._director, self._trace.query.ident
        for service in (*director.services.values(), *director.draining):
            if ident in (None, service.ident):
                director.context.steps.run(f"service {service.ident}: live trace", service.follow_traces)


def check_query(director: Director, query: TraceQuery) -> None:
    """Raise NoSuchService, or a Refusal for conditions that cannot be read or that no request of the service meets."""
    conditions = query.conditions
    if query.ident is None:
        return
    config = director.expanded.service(query.ident)
    live = director.services.get(query.ident)
    if live is None:
        return
    seen = SEEN[live.traffic.unit]
    for condition in conditions:
        if condition.kind not in seen:
            raise BadValue(
                f"service {config.ident}: trace '{shorten(query.text, 60)}': scheduler {config.scheduler_name} does "
                f"not see {condition.kind}: it knows {', '.join(sorted(seen))}"
            )
