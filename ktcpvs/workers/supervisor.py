"""The supervisor: it owns the table, the control connection and the listening sockets; workers serve.

It carries an edit out as a switch alone does, schedulers bound and sockets opened before anything is changed, but
instead of listening it hands the sockets down and says the same edit to every worker. Done is what all have done.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.python.failure import Failure

from ktcpvs.control.edit_commands import CommandCall, commands_for
from ktcpvs.errors import Refusal
from ktcpvs.inspect.views import Views
from ktcpvs.model import edits
from ktcpvs.model.address import Address
from ktcpvs.model.destination import Destination
from ktcpvs.model.expansion import Resolution
from ktcpvs.model.health import DOWN
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.services.director import Director
from ktcpvs.services.running import RunningService
from ktcpvs.system import log as levels
from ktcpvs.system.shared import SharedTable
from ktcpvs.system.sockets import close_listener, release_listener
from ktcpvs.workers import commands, merged
from ktcpvs.workers.shared_counters import Key, SharedCounters, SlotAllocator
from ktcpvs.workers.worker_processes import ANSWER_TIMEOUT, Worker, WorkerProcesses, first_of

ROWS_AT_ONCE = 64
"""How many rows one command names: with the longest names they fit into the 65,535 bytes of an AMP value."""


MARKS_AT_ONCE = 64
"""How many servers one command tells of."""


class Supervisor(Director):
    """listening: ident -> its sockets, one for each worker."""

    def __init__(self, context: Context, size: int, **others: Any) -> None:
        """size: how many workers there are. others: as for a Director."""
        super().__init__(context, **others)
        self.counts = SharedTable(size + 1)  # the last column is the supervisor's own, where it counts nothing
        self._book = SlotAllocator(self.counts)
        self._told: dict[Key, int] = {}  # the rows that all workers know
        context.counters = SharedCounters(self.counts, size, self._book.rows)
        self.crew = WorkerProcesses(
            context.reactor, context.log, size, self._begun, self._gone, lambda: context.settings.worker_timeout
        )
        self.listening: dict[str, list[socket.socket]] = {}
        self._handed: list[str] = []  # idents of what listens anew and has not been handed down
        self._views = Views(self)
        self._awaited: Deferred[None] | None = None  # fires when all workers are ready

    def start(self) -> None:
        """Time begins, and the workers do."""
        super().start()
        self.crew.start()

    # Edits, as far as they are others than those of a switch alone.

    async def _prepare(self, old: Table, new: Table) -> Any:
        self._book.follow(new, old)
        return await super()._prepare(old, new)

    def sockets_of(self, ident: str) -> list[socket.socket]:
        return self.listening.get(ident, [])

    def _open(self, address: Address, backlog: int, closing: list[socket.socket]) -> list[socket.socket]:
        return self.context.sockets.open_shared(address, backlog, len(self.crew.workers), closing)

    def _listen(self, live: RunningService, socks: list[socket.socket]) -> None:
        self._close(live.ident)
        self.listening[live.ident] = socks
        self._handed.append(live.ident)

    def _stop(self, live: RunningService) -> None:
        live.stop()
        self._close(live.ident)

    def _close(self, ident: str) -> None:
        """The workers have the sockets still, and take in who waits there before they close them."""
        for sock in self.listening.pop(ident, []):
            self.context.steps.run(f"service {ident}: close a socket", close_listener, sock)

    def _words(self, edit: edits.Edit) -> Sequence[CommandCall] | None:
        if isinstance(edit, edits.Confirm):
            return None
        if isinstance(edit, edits.Load):
            edit = evolve(edit, confirm=0)  # the trial is the supervisor's
        return commands_for(edit)

    def _words_of_names(self, found: Resolution) -> Sequence[CommandCall]:
        return _named(found)

    async def _spread(self, words: Sequence[CommandCall] | None) -> None:
        """Say these commands to all workers, behind all that they need for them. None: they are told nothing."""
        if words is None:
            return
        new = {key: row for key, row in self._book.rows.items() if self._told.get(key) != row}
        self._told = dict(self._book.rows)
        handed, self._handed = self._handed, []

        def before(worker: Worker) -> list[Deferred[Any]]:
            return [*self._name_rows(worker, new), *(self._hand(worker, ident) for ident in handed)]

        await self.crew.tell(words, before)

    def _replace_others(self) -> None:
        for worker in self.crew.ready():
            worker.end("it may not have been told of an edit")

    def _name_rows(self, worker: Worker, rows: dict[Key, int]) -> list[Deferred[Any]]:
        named = [{"ident": ident, "address": address, "row": row} for (ident, address), row in rows.items()]
        pages = [named[start : start + ROWS_AT_ONCE] for start in range(0, len(named), ROWS_AT_ONCE)]
        return [worker.ask(commands.Rows, rows=page) for page in pages]

    def _hand(self, worker: Worker, ident: str) -> Deferred[Any]:
        sock = self.listening[ident][worker.column]
        address = str(self.table.services[ident].listen)
        return worker.ask(commands.Listen, address=address, descriptor=sock.fileno())

    # What checks find.

    def _commit(self, new: Table, preparation: Any) -> None:
        super()._commit(new, preparation)
        for live in self.services.values():
            live.health.told = partial(self._mark, live)

    def _mark(self, live: RunningService, destination: Destination) -> None:
        for worker in self.crew.ready():
            self.crew.answered(worker, self._marks(worker, [(live, destination)]))

    def _marks(self, worker: Worker, found: list[tuple[RunningService, Destination]]) -> list[Deferred[Any]]:
        marks = [
            {
                "ident": live.ident,
                "address": str(destination.address),
                "is_up": destination.health.state != DOWN,
                "why": destination.health.reason,
            }
            for live, destination in found
        ]
        pages = [marks[start : start + MARKS_AT_ONCE] for start in range(0, len(marks), MARKS_AT_ONCE)]
        return [worker.ask(commands.Marks, marks=page) for page in pages]

    # Workers.

    def _begun(self, worker: Worker) -> None:
        """A worker has been started: as soon as it responds, it is told all that there is, between two edits.

        Edits wait for it, but for no longer than worker_timeout.
        """
        pid = worker.pid
        Deferred.fromCoroutine(self._introduce(worker, pid)).addErrback(self._not_briefed, worker, pid)

    async def _introduce(self, worker: Worker, pid: int | None) -> None:
        responded: list[bool] = []
        answered = self.crew.answered(worker, [worker.ask(commands.Ping)]).addCallback(responded.append)

        async def brief() -> None:
            await first_of(self.context.reactor, answered, self.context.settings.worker_timeout or ANSWER_TIMEOUT)
            if responded == [True]:
                await self._brief(worker, pid)

        await self._lock.run(lambda: Deferred.fromCoroutine(brief()))
        if not responded:
            await answered
            await self._lock.run(lambda: Deferred.fromCoroutine(brief()))

    def _not_briefed(self, why: Failure, worker: Worker, pid: int | None) -> None:
        if why.check(CancelledError) is None:
            self.context.log.failure("worker {n} cannot be told the table", why, n=worker.number)
            if worker.pid == pid:
                worker.end("it cannot be told the table")

    async def _brief(self, worker: Worker, pid: int | None) -> None:
        if worker.pid != pid:
            return  # it has ended meanwhile; its successor's turn comes
        table, counts = self.table, self.counts
        answers = [
            worker.ask(
                commands.Begin,
                key=self.context.key,
                columns=counts.columns,
                column=worker.column,
                descriptor=counts.descriptor,
                holds=self.context.holds,
            )
        ]
        answers += self._name_rows(worker, self._book.rows)
        answers += [self._hand(worker, ident) for ident in self.listening]
        said = [*_named(self.resolution), *commands_for(edits.Load(table.services, table.settings))]
        for ident in table.services:
            if ident in table.running:
                said += commands_for(edits.StartService(ident))
        answers += [worker.ask(command, **arguments) for command, arguments in said]
        lives = self.services.values()
        down = [(live, one) for live in lives for one in live.down if one.health.state == DOWN]
        answers += self._marks(worker, down)
        if await self.crew.answered(worker, answers) and worker.pid == pid:
            worker.serves()
            self.context.log.event(levels.DAEMON, "worker {n} serves, process {pid}", n=worker.number, pid=pid)
        self._tell_ready()

    def _gone(self, worker: Worker) -> None:
        if self._awaited is not None:
            awaited, self._awaited = self._awaited, None
            awaited.errback(Refusal(f"worker {worker.number} cannot begin; the log tells more"))
        self.counts.clear_column(worker.column, self._book.used)

    def _tell_ready(self) -> None:
        if self._awaited is not None and all(worker.ready for worker in self.crew.workers):
            awaited, self._awaited = self._awaited, None
            awaited.callback(None)

    # Another process takes over.

    def ready(self) -> Deferred[None]:
        awaited: Deferred[None] = Deferred()
        self._awaited = awaited
        self._tell_ready()
        return awaited

    def answers(self) -> Deferred[bool]:
        ready = self.crew.ready()
        asked = [self.crew.answered(worker, [worker.ask(commands.Ping)]) for worker in ready]
        return gatherResults(asked).addCallback(lambda answered: bool(answered) and all(answered))

    def serves(self) -> str:
        return f"{len(self.crew.ready())} of {len(self.crew.workers)} workers serve"

    def serve(self) -> None:
        super().serve()
        for worker in self.crew.running():
            self.crew.answered(worker, [worker.ask(commands.Serve)])

    def hand_over(self, taken: Mapping[str, int]) -> None:
        self._ending = True
        for worker in self.crew.running():
            late = [ident for ident, count in taken.items() if count <= worker.column]
            self.crew.answered(worker, [worker.ask(commands.HandOver, late=late)])
        for ident in list(self.listening):
            for sock in self.listening.pop(ident):
                self.context.steps.run(f"service {ident}: release a socket", release_listener, sock)

    # Looks.

    def view(self, name: str, ident: str | None) -> Any:
        """The named view of all workers together. Raises BadValue for an unknown one, NoSuchService."""
        own = self._views.view(name, ident)
        if name == "stats":
            return Deferred.fromCoroutine(self._stats(ident, own))
        if name == "connections":
            return Deferred.fromCoroutine(self._connections(ident))
        return own

    async def _stats(self, ident: str | None, own: Any) -> Any:
        told = [stats for _, stats in await self._of_all("stats", ident)]
        return merged.stats(own, told)

    async def _connections(self, ident: str | None) -> Any:
        return merged.connections(await self._of_all("connections", ident))

    async def _of_all(self, name: str, ident: str | None) -> list[tuple[int, Any]]:
        """(number, what it sees) of each worker that answers."""
        workers = self.crew.ready()
        answers = await gatherResults([worker.look(name, ident) for worker in workers])
        return [(one.number, answer) for one, answer in zip(workers, answers, strict=True) if answer is not None]

    # The end.

    grace = 2.0

    def reopen_logs(self) -> None:
        super().reopen_logs()
        for worker in self.crew.running():
            self.crew.answered(worker, [worker.ask(commands.Reopen)])

    def end(self) -> None:
        super().end()
        self.crew.end()
        for ident in list(self.listening):
            self._close(ident)

    drains = "workers"

    def connections(self) -> int:
        """How many workers have not drained."""
        return len(self.crew.running())

    def end_all(self) -> None:
        self.crew.signal("KILL")


def _named(resolution: Resolution) -> list[CommandCall]:
    """What says what these names mean, a command for each: one may have a thousand addresses."""
    return [(commands.Name, {"host": host, "addresses": list(found)}) for host, found in resolution.items()]
