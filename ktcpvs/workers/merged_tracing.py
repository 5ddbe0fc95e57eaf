"""Live traces of a switch with workers: each worker traces its own clients, and the supervisor reads all of them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from ktcpvs.control.trace_session import TraceSession
from ktcpvs.director.director import Director
from ktcpvs.inspect.live_tracing import TraceReader, check_query
from ktcpvs.model.live_trace import TIME_OVER, TraceQuery
from ktcpvs.runtime.live_traces import TraceBuffer, check_room
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.workers.worker_processes import WorkerProcess, WorkerProcesses

FOLLOW_INTERVAL = 0.5
"""Seconds until a worker that has just started is traced too."""


class MergedTracing:
    """The live traces of all workers together."""

    def __init__(self, director: Director, workers: WorkerProcesses) -> None:
        self._director = director
        self._workers = workers
        self._running: list[MergedTrace] = []

    def trace(self, query: TraceQuery) -> Deferred[TraceSession]:
        """As LiveTracing.trace; fires when all workers trace."""
        check_query(self._director, query)
        self._running = [trace for trace in self._running if not trace.is_over]
        check_room(len(self._running))
        trace = MergedTrace(self._director, self._workers, query)
        self._running.append(trace)
        return trace.start().addCallback(lambda _: trace)


class MergedTrace(TraceReader):
    """One live trace of all workers, and its reader."""

    def __init__(self, director: Director, workers: WorkerProcesses, query: TraceQuery) -> None:
        context = director.context
        self._buffer = TraceBuffer(query.count)
        super().__init__(context, self._buffer)
        self._query = query
        self._workers = workers
        self._log = context.log
        self._followed: dict[int, tuple[WorkerProcess, int | None]] = {}  # by pid, with the trace's number there
        # Later than those of the workers, which have seen the last requests.
        self._timer = context.wheel.after(query.seconds + 1, lambda: self._buffer.end(TIME_OVER))
        self._job = PeriodicJob(context.reactor, self._follow_new_workers, self._failed, FOLLOW_INTERVAL)

    def start(self) -> Deferred[Any]:
        """Trace all workers. Fires when they do."""
        self._job.start(FOLLOW_INTERVAL)
        return DeferredList(self._follow_workers())

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return bool(self._buffer.ended)

    def _failed(self, why: Failure) -> None:
        self._log.failure("workers cannot be traced", why)

    def _changed(self) -> None:
        if self.is_over:
            self._timer.cancel()
            self._job.stop()
            followed, self._followed = self._followed, {}
            for worker, number in followed.values():
                if number is not None:
                    worker.end_trace(number)
        super()._changed()

    def _follow_new_workers(self) -> float:
        self._follow_workers()
        return FOLLOW_INTERVAL

    def _follow_workers(self) -> list[Deferred[None]]:
        """Trace the workers that are not traced yet. Each of the results fires when that worker does."""
        new = [worker for worker in self._workers.ready() if worker.pid not in self._followed]
        return [Deferred.fromCoroutine(self._begin(worker)).addErrback(self._failed) for worker in new]

    async def _begin(self, worker: WorkerProcess) -> None:
        pid = worker.pid
        if pid is None:
            return
        self._followed[pid] = worker, None
        number = await worker.begin_trace(self._query)
        if number is None:
            self._followed.pop(pid, None)  # it does not know the service yet, or is gone: try again
        elif self.is_over:
            worker.end_trace(number)
        else:
            self._followed[pid] = worker, number
            Deferred.fromCoroutine(self._follow(worker, number)).addErrback(self._failed)

    async def _follow(self, worker: WorkerProcess, number: int) -> None:
        dropped = 0
        while not self.is_over:
            batch = await worker.read_trace(number)
            if batch is None:  # the worker is gone
                return
            for entry in batch.entries.splitlines(keepends=True):
                self._buffer.add(entry)
            for _ in range(batch.dropped - dropped):
                self._buffer.add(None)
            dropped = batch.dropped
            if batch.ended:
                return
