"""The preparation of a change of what runs: all that can fail. Nothing has changed afterwards."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from attrs import Factory, define

from ktcpvs.director.response_files import ResponseFiles
from ktcpvs.director.running_table import RunningTable
from ktcpvs.director.scheduler_binding import SchedulerBinder
from ktcpvs.director.serving_processes import ServingProcesses
from ktcpvs.director.tls_file_users import TLSFileUsers
from ktcpvs.errors import CannotListen
from ktcpvs.model.address import Address
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.plan import Plan, plan
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.running import RunningService
from ktcpvs.services.tls_file_store import TLSFiles
from ktcpvs.streams.preamble import Stage
from ktcpvs.system.listening_process import ListeningProcesses
from ktcpvs.system.sockets import close_listener, is_in_use, name_holder

StagesOf = Callable[[VirtualService, ListenAddress, str], Sequence[Stage]]
"""Returns the stages of the preamble that clients of a service go through who come to that listener. The third argument
is the unit of the service's scheduler. Raises a Refusal."""


def no_stages(config: VirtualService, listener: ListenAddress, unit: str) -> Sequence[Stage]:
    """Return no stages: clients are served as they come."""
    return ()


@define
class Preparation:
    """Everything that a change needs. `abandon` closes the sockets that were opened for it.

    table: the one that will run. changes: what differs. commands: those that other processes will be sent. ready: each
    service that starts or changes, with its next configuration. warnings: about files that were read for it, a line
    each.
    """

    table: Table
    changes: Plan
    commands: Any = None
    warnings: Sequence[str] = ()
    ready: list[tuple[RunningService, Prepared]] = Factory(list)

    def abandon(self) -> None:
        """Close what was opened for it: the change is not made."""
        for _, prepared in self.ready:
            for sock in chain.from_iterable(prepared.socks.values()):
                close_listener(sock)


class Preparer:
    """Prepares the services of this process, and the sockets of all."""

    def __init__(
        self,
        context: Context,
        running: RunningTable,
        processes: ServingProcesses,
        binder: SchedulerBinder,
        stages_of: StagesOf,
        files: TLSFiles,
        file_users: TLSFileUsers,
        response_files: ResponseFiles,
    ) -> None:
        self._context = context
        self._running = running
        self._processes = processes
        self._binder = binder
        self._stages_of = stages_of
        self._files = files
        self._file_users = file_users
        self._response_files = response_files
        self._listening = ListeningProcesses(context.monotonic)

    async def prepare(
        self, new: Table, *, is_strict: bool = False, is_rekeyed: bool = False, rebound: Collection[str] = ()
    ) -> Preparation:
        """Prepare that `new` runs. is_strict: refuse files that cannot be used. is_rekeyed, rebound: see
        TableRunner.run_anew. Raises a Refusal; then nothing has changed."""
        old = self._running.table
        self._processes.prepare(old, new)
        changes = plan(old, new, is_rekeyed, rebound)
        closing = list(self._closing(changes))
        preparation = Preparation(new, changes)
        changing = [*((None, config) for config in changes.start), *changes.change]
        preparation.warnings = await self._files.prepare((config for _, config in changing), is_strict=is_strict)
        try:
            for before, config in changing:
                service = self._running.services.get(config.ident) or RunningService(self._context, config)
                prepared = await self._prepared(service, config, new.settings, is_strict, config.ident in rebound)
                prepared.listens_anew = before is None or before.addresses != config.addresses
                preparation.ready.append((service, prepared))
                known = before.addresses if before is not None else ()
                for address in config.addresses:
                    if address not in known:
                        prepared.socks[address] = await self._open(address, new.settings.max_backlog, closing)
        except BaseException:
            preparation.abandon()
            raise
        return preparation

    async def _open(self, address: Address, backlog: int, closing: Iterable[socket.socket]) -> list[socket.socket]:
        """Return new sockets that listen on `address`. Raises CannotListen, with the process that does already."""
        try:
            return self._processes.open(address, backlog, closing)
        except CannotListen as refusal:
            if not is_in_use(refusal):
                raise
            raise name_holder(refusal, address, await self._listening.process_of(address)) from None

    async def _prepared(
        self, service: RunningService, config: VirtualService, settings: Settings, is_strict: bool, is_rebound: bool
    ) -> Prepared:
        prepared = await self._binder.bind(service, config, settings, is_rebound=is_rebound)
        unit = prepared.factory.unit
        prepared.stages = {one.address: self._stages_of(config, one, unit) for one in config.listen}
        prepared.connection_options = self._file_users.connection_options(config, unit)
        prepared.response_files = self._response_files.of(config, is_strict=is_strict)
        return prepared

    def _closing(self, changes: Plan) -> Iterator[socket.socket]:
        """Yield the sockets of addresses on which services will not listen any more."""
        leaving = [(before, set(before.addresses).difference(config.addresses)) for before, config in changes.change]
        leaving += [(config, set(config.addresses)) for config in changes.stop]
        for config, addresses in leaving:
            if addresses:
                for address, socks in self._processes.sockets_of(self._running.services[config.ident]).items():
                    yield from socks if address in addresses else ()
