"""The supervisor: it owns the table, the control connections and the listening sockets, and its workers serve.

Its director carries an edit out as in a switch of one process: it binds schedulers and opens sockets before anything
changes. Then, instead of listening, it sends the sockets and the edit to every worker. The edit is done when all
workers have answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ktcpvs.director.director import Director
from ktcpvs.director.preparation import StagesOf
from ktcpvs.inspect.views import Views
from ktcpvs.model.placement import KnownNodes
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.services.server_starter import ServerStarter
from ktcpvs.services.tls_file_store import TLSFiles
from ktcpvs.system import log as levels
from ktcpvs.workers import commands
from ktcpvs.workers.merged_views import MergedViews
from ktcpvs.workers.shared_counters import SlotAllocator
from ktcpvs.workers.supervised_workers import SupervisedWorkers
from ktcpvs.workers.worker_processes import ANSWER_TIMEOUT, WorkerProcess, WorkerProcesses, wait_at_most


class Supervisor:
    """Starts workers, and introduces each to the table. director: its own. workers: all of them. views: of all workers
    together. use_tickets: as that of SupervisedWorkers."""

    def __init__(
        self,
        context: Context,
        size: int,
        slots: SlotAllocator,
        save: Callable[[Table], Awaitable[None]],
        unload: Callable[[], object],
        stages_of: StagesOf,
        files: TLSFiles,
        nodes: Callable[[], KnownNodes] | None = None,
        starter: ServerStarter | None = None,
    ) -> None:
        """size: the number of workers. slots: those in which `context.counters` counts too. save, unload, stages_of,
        files, nodes, starter: as for a Director; clients go through the stages of the workers, which are passed the
        files."""
        self._context = context
        self.workers = WorkerProcesses(
            context.reactor,
            context.log,
            size,
            self._worker_started,
            self._worker_ended,
            lambda: context.settings.worker_timeout,
            lambda address: context.starter.want(address),
        )
        self._processes = SupervisedWorkers(context, self.workers, slots)
        self.director = Director(
            context, save, unload, processes=self._processes, stages_of=stages_of, files=files, nodes=nodes,
            starter=starter,
        )  # fmt: skip
        self.use_tickets = self._processes.use_tickets
        self.views = MergedViews(Views(self.director), self.workers)

    def _worker_started(self, worker: WorkerProcess) -> None:
        """Introduce the worker between two edits, as soon as it responds.

        Edits wait for its first response, but no longer than worker_timeout.
        """
        pid = worker.pid
        Deferred.fromCoroutine(self._await_and_introduce(worker, pid)).addErrback(self._not_introduced, worker, pid)

    async def _await_and_introduce(self, worker: WorkerProcess, pid: int | None) -> None:
        responses: list[bool] = []
        answered = self.workers.all_answered(worker, [worker.call(commands.Ping)]).addCallback(responses.append)

        async def introduce_if_responding() -> None:
            timeout = self._context.settings.worker_timeout or ANSWER_TIMEOUT
            await wait_at_most(self._context.reactor, answered, timeout)
            if responses == [True]:
                await self._introduce(worker, pid)

        await self.director.between_edits(introduce_if_responding)
        if not responses:
            await answered
            await self.director.between_edits(introduce_if_responding)

    async def _introduce(self, worker: WorkerProcess, pid: int | None) -> None:
        if worker.pid != pid:
            return  # it has ended meanwhile; its replacement has a turn of its own
        director, checked = self.director, self.director.checked_servers
        introduced = self._processes.introduce(
            worker,
            director.effective,
            director.names.resolution,
            checked.down(),
            checked.weighed(),
            director.scheduler_units(),
            director.missing_schedulers(),
        )
        if await introduced and worker.pid == pid:
            worker.mark_ready()
            self._context.log.event(levels.DAEMON, "worker {n} serves, process {pid}", n=worker.number, pid=pid)
        self._processes.worker_is_ready()

    def _not_introduced(self, why: Failure, worker: WorkerProcess, pid: int | None) -> None:
        if why.check(CancelledError) is None:
            self._context.log.failure("worker {n} cannot be sent the table", why, n=worker.number)
            if worker.pid == pid:
                worker.kill("it cannot be sent the table")

    def _worker_ended(self, worker: WorkerProcess) -> None:
        self._processes.worker_has_ended(worker)
