"""The workers, for the supervisor's director: sends them edits, and opens listening sockets for them."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from math import inf
from types import MappingProxyType
from typing import Any

from attrs import asdict, evolve
from twisted.internet.defer import Deferred, gatherResults

from ktcpvs.control.edit_commands import CommandCall, commands_for
from ktcpvs.control.pages import split_pages
from ktcpvs.director.director import edits_for
from ktcpvs.errors import Refusal
from ktcpvs.health.service_health import ServiceHealth
from ktcpvs.model import edits
from ktcpvs.model.address import Address
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.challenges import Challenge
from ktcpvs.model.destination import Destination
from ktcpvs.model.expansion import Resolution
from ktcpvs.model.health import DOWN
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.settings import Settings
from ktcpvs.model.srv import without_host
from ktcpvs.model.table import Table
from ktcpvs.model.tls_files import TLSFile
from ktcpvs.model.withdrawal import Withdrawal
from ktcpvs.runtime.context import Context
from ktcpvs.services.running import RunningService
from ktcpvs.services.tls_file_store import Update
from ktcpvs.system.sockets import close_listener, release_listener
from ktcpvs.system.tls_files import Contents, encode
from ktcpvs.workers import commands
from ktcpvs.workers.adopt_commands import adopt_commands, withdraw_commands
from ktcpvs.workers.commands import DropFile
from ktcpvs.workers.shared_counters import CounterKey, SlotAllocator
from ktcpvs.workers.worker_processes import WorkerProcess, WorkerProcesses

SLOTS_PER_COMMAND = 64
"""The most slots that one command assigns: with the longest names they fit into the 65,535 bytes of an AMP value."""

NODES_PER_COMMAND = 16
"""The most nodes that one command names: each may have 32 labels of 63 characters."""

CHALLENGES_PER_COMMAND = 32
"""The most challenges of ACME that one command names: each may have 1.5 KB."""

SERVERS_PER_COMMAND = 64
"""The most servers whose health one command updates."""


SCHEDULERS_PER_COMMAND = 64
"""The most schedulers whose units one command names."""


class SupervisedWorkers:
    """The workers serve, each with its own switch; the director's own process does not listen.

    It provides ServingProcesses. A service has a listening socket for each worker and address. An edit is sent to all
    workers that are ready; a worker that is not gets the whole table by `introduce`, later.
    """

    draining_unit = "workers"
    extra_drain_time = 2.0

    def __init__(self, context: Context, workers: WorkerProcesses, slots: SlotAllocator) -> None:
        self._context = context
        self._workers = workers
        self._slots = slots
        self._sent_slots: dict[CounterKey, int] = {}
        self._listening: dict[str, dict[Address, list[socket.socket]]] = {}  # ident -> a socket for each worker
        self._new: list[tuple[str, Address]] = []  # those whose sockets are to be sent with the next edit
        self._files: dict[TLSFile, Contents] = {}
        self._new_files: dict[TLSFile, Contents] = {}  # those to be passed with the next edit
        self._dropped_files: list[TLSFile] = []
        self._tickets: CommandCall | None = None  # passes the secrets of session tickets
        self._ready: Deferred[None] | None = None
        self._have_served = False  # all workers, at one time
        self._withdrawal = Withdrawal()
        self._live_nodes: Sequence[CommandCall] = ()  # tells them, once they are known

    def start(self) -> None:
        self._workers.start()

    # An edit.

    def prepare(self, old: Table, new: Table) -> None:
        self._slots.allocate(new, old)

    def open(self, address: Address, backlog: int, closing: Iterable[socket.socket]) -> list[socket.socket]:
        return self._context.sockets.open_shared(address, backlog, len(self._workers.all), closing)

    def most_seconds_to_bind(self, settings: Settings) -> float:
        return settings.worker_timeout / 2 or inf  # a worker may take longer than this process

    def commands_for(self, edit: edits.Edit) -> Sequence[CommandCall] | None:
        if isinstance(edit, edits.Confirm | edits.Unload):  # workers end when their links are closed
            return None
        if isinstance(edit, edits.Load):
            edit = evolve(edit, confirm=0)  # only the supervisor waits for the confirmation
        return adopt_commands(edit) if isinstance(edit, Adopt) else commands_for(edit)

    def commands_for_names(self, found: Resolution) -> Sequence[CommandCall]:
        """One command for each name, since one may have a thousand addresses, or targets without their names."""
        return [
            (commands.SetAddresses, {"host": host, "addresses": [without_host(one) for one in addresses]})
            for host, addresses in found.items()
        ]

    def commands_to_share(self, live: Collection[NodeIdentity]) -> Sequence[CommandCall]:
        nodes = [{"name": node.name, "labels": sorted(node.labels)} for node in live]
        pages = list(_pages(nodes, NODES_PER_COMMAND))
        self._live_nodes = [
            (commands.ShareAmong, {"nodes": page, "is_first": page is pages[0], "is_last": page is pages[-1]})
            for page in pages
        ]
        return self._live_nodes

    def commands_to_withdraw(self, withdrawal: Withdrawal) -> Sequence[CommandCall]:
        self._withdrawal = withdrawal
        return withdraw_commands(withdrawal)

    def commands_for_cookie_secret(self, secret: bytes) -> Sequence[CommandCall]:
        return [(commands.UseCookieSecret, {"secret": secret})]

    def pass_files(self, update: Update) -> None:
        self._files |= update.contents
        self._new_files |= update.contents
        for file in update.dropped:
            self._files.pop(file, None)
        self._dropped_files += update.dropped

    def listen(self, service: RunningService, socks: Mapping[Address, list[socket.socket]]) -> None:
        ident, addresses = service.ident, service.config.addresses
        known = self._listening.get(ident, {})
        for address, leaving in known.items():
            if address in socks or address not in addresses:
                self._close_all(ident, leaving)
        known = {**known, **socks}
        self._listening[ident] = {address: known[address] for address in addresses if address in known}
        self._new += [(ident, address) for address in socks]

    def stop(self, service: RunningService) -> None:
        self._close(service.ident)

    def _close(self, ident: str) -> None:
        """The workers still have the sockets, and accept the clients in their backlogs before they close them."""
        for socks in self._listening.pop(ident, {}).values():
            self._close_all(ident, socks)

    def _close_all(self, ident: str, socks: Iterable[socket.socket]) -> None:
        for sock in socks:
            self._context.steps.run(f"service {ident}: close a socket", close_listener, sock)

    def watch_health(self, services: Iterable[RunningService]) -> None:
        for service in services:
            service.health.observe_checks(partial(self._send_health, service.ident, service.health))

    def _send_health(self, ident: str, health_of_service: ServiceHealth, destination: Destination) -> None:
        health, weight = destination.health, health_of_service.weight_of(destination)
        update = _health_update(ident, str(destination.address), health.state != DOWN, health.reason, weight)
        for worker in self._workers.ready():
            self._call(worker, commands.UpdateHealth, servers=[update])

    async def send(self, commands: Sequence[CommandCall] | None) -> None:
        """Send the commands to all workers that are ready, after the slots, files and sockets that they need."""
        if commands is None:
            return
        new_slots = {key: slot for key, slot in self._slots.slots.items() if self._sent_slots.get(key) != slot}
        self._sent_slots = dict(self._slots.slots)
        new_listeners, self._new = self._new, []
        files, self._new_files = _file_calls(self._new_files), {}
        dropped, self._dropped_files = self._dropped_files, []

        def prepare(worker: WorkerProcess) -> list[Deferred[Any]]:
            answers = self._send_slots(worker, new_slots)
            answers += [worker.call(command, **arguments) for command, arguments in files]
            return answers + [self._send_socket(worker, ident, address) for ident, address in new_listeners]

        drops = [(DropFile, {"use": file.use, "path": file.path}) for file in dropped]
        await self._workers.broadcast([*commands, *drops], prepare)

    async def replace_files(self, update: Update) -> None:
        self._files |= update.contents
        await self._workers.broadcast(_file_calls(update.contents), lambda worker: [])

    async def replace_challenges(self, challenges: Sequence[Challenge]) -> None:
        await self._workers.broadcast(_challenge_calls(challenges), lambda worker: [])

    def use_tickets(self, current: bytes, previous: bytes | None) -> None:
        """Have all workers derive the keys of session tickets from these secrets. previous: None: there is none."""
        self._tickets = commands.UseTickets, {"current": current, "previous": previous or b""}
        for worker in self._workers.running():
            self._call(worker, self._tickets[0], **self._tickets[1])

    def replace_all(self) -> None:
        for worker in self._workers.ready():
            worker.kill("it may have missed an edit")

    def _send_slots(self, worker: WorkerProcess, slots: Mapping[CounterKey, int]) -> list[Deferred[Any]]:
        assigned = [{"ident": ident, "address": address, "slot": slot} for (ident, address), slot in slots.items()]
        return [worker.call(commands.AssignSlots, slots=page) for page in _pages(assigned, SLOTS_PER_COMMAND)]

    def _send_socket(self, worker: WorkerProcess, ident: str, address: Address) -> Deferred[Any]:
        sock = self._listening[ident][address][worker.index]
        return worker.call(commands.PassListener, address=str(address), descriptor=sock.fileno())

    def _call(self, worker: WorkerProcess, command: Any, **arguments: Any) -> Deferred[bool]:
        """Send one command. Fires with True when the worker has answered; a worker that does not answer is killed."""
        return self._workers.all_answered(worker, [worker.call(command, **arguments)])

    # A new worker.

    def introduce(
        self,
        worker: WorkerProcess,
        table: Table,
        resolution: Resolution,
        down: Sequence[tuple[str, str, str]],
        weighed: Sequence[tuple[str, str, str]] = (),
        units: Mapping[str, str] = MappingProxyType({}),
        missing: Mapping[str, str] = MappingProxyType({}),
    ) -> Deferred[bool]:
        """Send the whole table to a worker that has just started. down: from CheckedServers.down. weighed: from
        CheckedServers.weighed. units: name -> unit of the schedulers that the supervisor has loaded.
        missing: the same of those in whose place the fallback chooses.

        Fires with True when it has answered; a worker that does not answer is killed.
        """
        counts = self._slots.table
        answers = [
            worker.call(
                commands.Begin,
                key=self._context.key,
                processes=counts.columns,
                index=worker.index,
                descriptor=counts.descriptor,
                is_accepting=self._context.is_accepting,
                node=self._context.node.name,
                labels=sorted(self._context.node.labels),
            )
        ]
        if self._withdrawal != Withdrawal():  # before the edits, for whose services there are no sockets
            asked = withdraw_commands(self._withdrawal)
            answers += [worker.call(command, **arguments) for command, arguments in asked]
        # At the start, and in a takeover, a worker that cannot bind what the supervisor can refuses the table.
        known = [{"name": name, "unit": unit} for name, unit in (units if self._have_served else missing).items()]
        pages = _pages(known, SCHEDULERS_PER_COMMAND)
        answers += [worker.call(commands.StandIn, schedulers=page) for page in pages]
        answers += self._send_slots(worker, self._slots.slots)
        passed = [*_file_calls(self._files), *([] if self._tickets is None else [self._tickets])]
        passed += self.commands_for_cookie_secret(self._context.cookie_secret)
        passed += _challenge_calls(self._context.challenges.challenges)
        answers += [worker.call(command, **arguments) for command, arguments in passed]
        answers += [
            self._send_socket(worker, ident, address) for ident, known in self._listening.items() for address in known
        ]
        said = [
            *self._live_nodes,
            *self.commands_for_names(resolution),
            *(asked for edit in edits_for(table) for asked in commands_for(edit)),
        ]
        answers += [worker.call(command, **arguments) for command, arguments in said]
        reasons = {(ident, address): why for ident, address, why in down}
        weights = {(ident, address): weight for ident, address, weight in weighed}
        updates = [
            _health_update(*key, key not in reasons, reasons.get(key, ""), weights.get(key, ""))
            for key in {**reasons, **weights}
        ]
        answers += [worker.call(commands.UpdateHealth, servers=page) for page in _pages(updates, SERVERS_PER_COMMAND)]
        return self._workers.all_answered(worker, answers)

    def worker_is_ready(self) -> None:
        """One more worker has the table."""
        if not all(worker.is_ready for worker in self._workers.all):
            return
        self._have_served = True
        if self._ready is not None:
            ready, self._ready = self._ready, None
            ready.callback(None)

    def worker_has_ended(self, worker: WorkerProcess) -> None:
        """A worker has ended. If all workers are awaited, they cannot be ready."""
        if self._ready is not None:
            ready, self._ready = self._ready, None
            ready.errback(Refusal(f"worker {worker.number} cannot begin; see the log"))
        self._slots.clear(worker.index)

    # State.

    def sockets_of(self, service: RunningService) -> Mapping[Address, list[socket.socket]]:
        return self._listening.get(service.ident, {})

    def ready(self) -> Deferred[None]:
        ready: Deferred[None] = Deferred()
        self._ready = ready
        self.worker_is_ready()
        return ready

    def ping(self) -> Deferred[bool]:
        asked = [self._call(worker, commands.Ping) for worker in self._workers.ready()]
        return gatherResults(asked).addCallback(lambda answered: bool(answered) and all(answered))

    def describe(self) -> str:
        return f"{len(self._workers.ready())} of {len(self._workers.all)} workers serve"

    def count_draining(self) -> int:
        return len(self._workers.running())

    # Signals, takeover, end.

    def reopen_logs(self) -> None:
        for worker in self._workers.running():
            self._call(worker, commands.ReopenLogs)

    def start_accepting(self) -> None:
        for worker in self._workers.running():
            self._call(worker, commands.StartAccepting)

    def hand_over(self, sockets_taken: Mapping[Address, int]) -> None:
        for worker in self._workers.running():
            left_over = [str(address) for address, count in sockets_taken.items() if count <= worker.index]
            self._call(worker, commands.HandOver, left_over=left_over)
        for ident in list(self._listening):
            for sock in chain.from_iterable(self._listening.pop(ident).values()):
                self._context.steps.run(f"service {ident}: release a socket", release_listener, sock)

    def end(self) -> None:
        self._workers.drain()
        for ident in list(self._listening):
            self._close(ident)

    def end_all(self) -> None:
        self._workers.signal_all("KILL")


def _file_calls(files: Mapping[TLSFile, Contents]) -> list[CommandCall]:
    """The commands that pass these files to a worker."""
    calls: list[CommandCall] = []
    for file, contents in files.items():
        found = split_pages(json.dumps(encode(contents)))
        for number, page in enumerate(found):
            where = {"is_first": number == 0, "is_last": number == len(found) - 1}
            calls.append((commands.PassFile, {"use": file.use, "path": file.path, "page": page, **where}))
    return calls


def _challenge_calls(challenges: Sequence[Challenge]) -> list[CommandCall]:
    """The commands that have a worker answer these challenges, and no others."""
    described = [asdict(challenge) for challenge in challenges]
    pages = list(_pages(described, CHALLENGES_PER_COMMAND)) or [()]
    return [
        (commands.UseChallenges, {"challenges": page, "is_first": number == 0, "is_last": number == len(pages) - 1})
        for number, page in enumerate(pages)
    ]


def _health_update(ident: str, address: str, is_up: bool, why: str, weight: str) -> dict[str, Any]:
    return {"ident": ident, "address": address, "is_up": is_up, "why": why, "weight": weight}


def _pages(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
