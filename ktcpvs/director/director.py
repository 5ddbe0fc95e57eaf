"""The director carries edits out. Each takes effect as a whole, or is refused without any effect.

The director takes one edit at a time. It makes the new table and has it checked (EditChecks); has everything prepared
that can fail (Preparer); saves the table; and only then has the services that differ started, changed or drained
(Committer).

A saved edit can no longer be refused. `Context.steps` runs everything from then on: it logs an exception in one step,
and continues with the others.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock

from ktcpvs.director.certificate_issuer import CertificateIssuer, NoIssuer
from ktcpvs.director.checked_servers import CheckedServers
from ktcpvs.director.commit import Committer, Follower
from ktcpvs.director.confirmation import Confirmation, PendingConfirmation
from ktcpvs.director.cookie_secret import CookieSecret
from ktcpvs.director.edit_checks import EditChecks
from ktcpvs.director.edit_log import log_changes, log_edit
from ktcpvs.director.preparation import Preparation, Preparer, StagesOf, no_stages
from ktcpvs.director.process_challenges import ProcessChallenges
from ktcpvs.director.resolver import Resolver
from ktcpvs.director.response_files import ResponseFiles
from ktcpvs.director.running_table import RunningTable
from ktcpvs.director.scheduler_binding import SchedulerBinder
from ktcpvs.director.scheduler_reload import SchedulerReload
from ktcpvs.director.server_names import MakeResolver, ServerNames
from ktcpvs.director.serving_processes import ServingProcesses, SingleProcess
from ktcpvs.director.shared_limits import SharedLimits
from ktcpvs.director.started_servers import StartedServers
from ktcpvs.director.tls_file_reload import TLSFileReload
from ktcpvs.director.tls_file_users import TLSFileUsers
from ktcpvs.director.withdrawals import Withdrawals
from ktcpvs.errors import Busy, NoSuchServer
from ktcpvs.health.active_checks import ActiveChecks, NoChecks
from ktcpvs.model.address import Address
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.edits import (
    Confirm,
    Edit,
    Load,
    ReloadCertificates,
    ReloadSchedulers,
    RenewCertificate,
    StartService,
    Unload,
    nowhere,
)
from ktcpvs.model.expansion import Resolution, expanded
from ktcpvs.model.language.scheduler_places import PlaceOf
from ktcpvs.model.local_edits import Local, LocalEdit, localized, settled
from ktcpvs.model.placement import KnownNodes, Placer, is_here
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.sharing import divided
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.running import RunningService
from ktcpvs.services.server_starter import ServerStarter
from ktcpvs.services.tls_file_store import TLSFiles, TLSFileStore
from ktcpvs.system.plugins import Schedulers, find_schedulers

T = TypeVar("T")

CarryOut = Callable[[Edit], Awaitable[Sequence[str]]]
"""Carries an edit out; returns warnings about it, a line each. Raises a Refusal."""


async def _save_nowhere(table: Table) -> None:
    return None


class Director:
    """Owns the table, and makes the running services match it.

    table: as configured. effective: the table after the edits that hold on this node of a cluster only. names: of
    servers, with their addresses. services: ident -> running service, including stopped ones that drain.
    confirmation: of a table on trial; a node of a cluster puts the cluster's in its place. files: those that TLS
    needs. issuer: obtains certificates from a CA. local_dropped: called with edits that do not hold on this node any
    more, and why. challenges, cookie_secret, shared_limits, withdrawals, checked_servers: see there. is_ending: it
    accepts neither edits nor clients any more.
    """

    def __init__(
        self,
        context: Context,
        save: Callable[[Table], Awaitable[None]] = _save_nowhere,
        unload: Callable[[], object] = lambda: None,
        *,
        processes: ServingProcesses | None = None,
        checks: Callable[[Context], ActiveChecks | NoChecks] = ActiveChecks,
        resolver: MakeResolver = Resolver,
        is_strict: bool = True,
        stages_of: StagesOf = no_stages,
        files: TLSFiles | None = None,
        search: Callable[[], Schedulers] = find_schedulers,
        nodes: Callable[[], KnownNodes] | None = None,
        starter: ServerStarter | None = None,
    ) -> None:
        """save: writes the table to the disk; raises CannotSave. unload: called after an Unload. processes: those that
        serve; None: this one alone. checks, resolver: factories of the active checks and of the resolver; NoChecks,
        NoResolver: another process does that. is_strict: refuse edits that this machine cannot carry out, for example
        with an access log that cannot be written or a relay that is not supported. stages_of: returns the stages of a
        service's preamble. files: those that TLS needs; None: they are read with the rights of this process. search:
        finds all installed schedulers. nodes: returns what is known of the cluster; None: this switch is in none.
        starter: starts servers on demand; None: this process starts none."""
        self.context = context
        self.table = self.effective = Table()
        self.is_ending = False
        self._running = running = RunningTable()
        self.services = services = running.services
        self.local_dropped: Callable[[Sequence[tuple[LocalEdit, str]]], object] = lambda dropped: None
        self.processes = processes or SingleProcess(context)
        self.checks = checks(context)
        self.files = files if files is not None else TLSFileStore(context)
        self.issuer: CertificateIssuer = NoIssuer()
        self.starter = starter
        self._pending = PendingConfirmation(context.reactor, context.log, self._undo_unconfirmed)
        self.confirmation: Confirmation = self._pending
        self._save = save
        self._unload = unload
        self._is_strict = is_strict
        self._forward: CarryOut | None = None
        self._lock: DeferredLock = DeferredLock()

        self.names = ServerNames(self, context, running, resolver)
        self.challenges = ProcessChallenges(self, context, running)
        self.cookie_secret = CookieSecret(self, context)
        self.shared_limits = SharedLimits(self)
        self.withdrawals = Withdrawals(self)
        self.checked_servers = CheckedServers(services, running.idents)

        self._placer = placer = Placer(context.node)
        self._binder = binder = SchedulerBinder(context, search, is_strict, self.processes.most_seconds_to_bind)
        self.scheduler_reload = SchedulerReload(self, context, binder, running, is_strict)
        self._file_reload = TLSFileReload(self, context, running, self.files)
        self._response_files = response_files = ResponseFiles(running, context.log)
        known_nodes = nodes or (lambda: KnownNodes(context.node))
        self._edit_checks = EditChecks(context, placer, known_nodes, binder, response_files, starter)
        file_users = TLSFileUsers(self.files, services, running.idents, context.steps)
        self._preparer = Preparer(
            context, running, self.processes, binder, stages_of, self.files, file_users, response_files
        )
        if starter is not None:
            context.starter = starter
        followers = self._followers(file_users)
        self._committer = Committer(context, running, self.processes, followers, lambda: self.is_ending)

    def _followers(self, file_users: TLSFileUsers) -> Sequence[Follower]:
        """Return what follows the table that runs, in the order of the calls."""
        running, started = self._running, []
        if self.starter is not None:
            servers = StartedServers(self.starter, running.services, running.idents, self.checks, self._follow_checks)
            started = [("servers on demand", servers.follow)]
        return (
            ("files of TLS", self._file_reload.follow),
            ("certificates", lambda: self.issuer.follow()),  # which is replaced after this director is made
            ("hosts of TLS", file_users.follow_hosts),
            *started,
            ("checks", self._follow_checks),
            ("health updates", lambda: self.processes.watch_health(running.services.values())),
        )

    def _follow_checks(self) -> None:
        self.checks.follow(self._running.running())

    @property
    def expanded(self) -> Table:
        """The table that runs, see RunningTable."""
        return self._running.table

    @property
    def draining(self) -> set[RunningService]:
        """Deleted services that drain."""
        return self._running.draining

    def start(self) -> None:
        """The reactor runs: start timers and other processes."""
        self._binder.start()
        self.context.start()
        if self.starter is not None:
            self.starter.begin()
        self.files.start()
        self.processes.start()

    def stop(self) -> None:
        """Stop all periodic jobs and timers."""
        run = self.context.steps.run
        run("confirmation", self.confirmation.end)
        run("checks", self.checks.stop)
        run("names", self.names.stop)
        run("files of TLS", self.files.stop)
        run("certificates", self.issuer.stop)
        self.context.stop()

    # Schedulers.

    def schedulers(self) -> Schedulers:
        """Search for all installed schedulers."""
        return self._binder.find_all()

    def scheduler_units(self) -> Mapping[str, str]:
        """See SchedulerBinder.units."""
        return self._binder.units()

    def stand_in(self, units: Mapping[str, str]) -> None:
        """See SchedulerBinder.stand_in."""
        self._binder.stand_in(units)

    async def bind(
        self, service: RunningService, config: VirtualService, settings: Settings, is_dry_run: bool = False
    ) -> Prepared:
        """See SchedulerBinder.bind."""
        return await self._binder.bind(service, config, settings, is_dry_run)

    def missing_schedulers(self) -> Mapping[str, str]:
        """See SchedulerBinder.missing."""
        return self._binder.missing()

    def check_schedulers(self, config: VirtualService) -> None:
        """See SchedulerBinder.check."""
        self._binder.check(config)

    async def run_tests(self, config: VirtualService, settings: Settings) -> None:
        """See SchedulerBinder.run_tests."""
        await self._binder.run_tests(config, settings)

    # Edits.

    def submit(self, edit: Edit) -> Deferred[Sequence[str]]:
        """Carry `edit` out.

        Fires with the warnings about it, a line each, when it is in force and saved. Fails with a Refusal; then nothing
        has changed.
        """
        return self.between_edits(lambda: self.carry_out(edit))

    def load_initial(
        self,
        initial: Sequence[Edit],
        *,
        is_strict: bool,
        resolution: Resolution | None = None,
        units: Mapping[str, str] = MappingProxyType({}),
    ) -> Deferred[None]:
        """Carry out the edits that make the daemon's first table, without saving it.

        is_strict: as for the constructor; False for a table that ran before, which is applied as far as possible.
        resolution: the known addresses of its host names. units: name -> unit of the schedulers that it used; the
        fallback chooses for those of them that cannot be loaded or bound.
        """

        async def carry_out_all() -> None:
            self.names.add(resolution or {})
            self._binder.stand_in(units)
            for edit in initial:
                await self._carry_out(edit, is_strict=is_strict, is_saved=False)
            self._binder.end_loading()

        return self.between_edits(carry_out_all)

    def between_edits(self, work: Callable[[], Awaitable[T]]) -> Deferred[T]:
        """Run `work` between two edits; further edits wait until it is done. Fires with its result."""

        async def awaited() -> T:
            return await work()

        return self._lock.run(lambda: Deferred.fromCoroutine(awaited()))

    async def carry_out(self, edit: Edit) -> Sequence[str]:
        """As `submit`; to be called within `between_edits`."""
        if self._forward is not None:
            return await self._forward(edit)
        return await self._carry_out(edit, is_strict=self._is_strict)

    async def check(self, edit: Edit, before: Table) -> tuple[Table, Sequence[str]]:
        """Check an edit of another table than the one in force, as far as that is possible without carrying it out.

        Returns the table after it, and the warnings about it. To be called within `between_edits`. Raises a Refusal.
        """
        if self.is_ending:
            raise Busy("the daemon is ending")
        self.confirmation.admit(edit)
        after = edit.apply(before)
        await self._edit_checks.check_services(edit, before, after, self._is_strict)
        self._edit_checks.check_table(before, after)
        return after, self.warnings(edit, before, after)

    async def adopt(self, edit: Adopt) -> None:
        """Put in force what another node of a cluster has changed. To be called within `between_edits`. Raises a
        Refusal; then nothing has changed."""
        await self._carry_out(edit, is_strict=self._is_strict)

    def _undo_unconfirmed(self) -> Deferred[None]:
        async def carry_out(edit: Edit) -> Sequence[str]:
            return await self._carry_out(edit, is_strict=self._is_strict)

        return self.between_edits(lambda: self._pending.undo(carry_out, lambda: self.table.running))

    async def _carry_out(self, edit: Edit, *, is_strict: bool, is_saved: bool = True) -> Sequence[str]:
        if self.is_ending:
            raise Busy("the daemon is ending")
        if isinstance(edit, ReloadCertificates | ReloadSchedulers | RenewCertificate):
            log_edit(self.context.log, edit)
            return await self._carry_out_beside(edit)
        self.confirmation.admit(edit)
        old = self.table
        try:
            new = edit.apply(old)
        except NoSuchServer as refusal:
            raise NoSuchServer(f"{refusal}{self.names.hint(edit)}") from None
        new, dropped = settled(new)
        effective = localized(new)
        await self._edit_checks.check_services(edit, self.effective, effective, is_strict)
        if is_strict and not isinstance(edit, Adopt):  # what another node has stored concerns this one where it listens
            self._edit_checks.check_table(old, new)  # a local edit meets others only here, where it listens
        warnings: Sequence[str] = ()
        if is_strict:
            warnings = self.warnings(edit.edit if isinstance(edit, Local) else edit, self.effective, effective)
        preparation = await self._preparer.prepare(self._table_to_run(effective), is_strict=is_strict)
        try:
            preparation.commands = self._commands_for(edit, old, new, effective)
            # Services stop with the daemon, and run again after its next start: an Unload is not saved.
            is_final = new != old and not getattr(edit, "confirm", 0) and not isinstance(edit, Unload)
            if is_saved and (is_final or isinstance(edit, Confirm)):
                await self._save(new)
        except BaseException:
            preparation.abandon()
            raise
        steps = self.context.steps
        self.table, self.effective = new, effective
        await self._committer.put_in_force(preparation)
        steps.run("names", self.names.follow)
        steps.run("confirmation", self.confirmation.carried_out, edit, old)
        if dropped:
            steps.run("local edits", self.local_dropped, dropped)
        if isinstance(edit, Load):
            steps.run("files of responses", self._response_files.read_again)
            if is_strict and is_saved:
                steps.run("log", log_changes, self.context.log, old, new)
        steps.run("log", log_edit, self.context.log, edit)
        if isinstance(edit, Unload):
            steps.run("end", self._unload)
        return [*warnings, *preparation.warnings]

    async def _carry_out_beside(self, edit: Edit) -> Sequence[str]:
        """Carry out an edit that leaves the table as it is."""
        if isinstance(edit, ReloadSchedulers):
            return await self.scheduler_reload.carry_out(edit)
        if isinstance(edit, RenewCertificate):
            await self.issuer.renew(edit.host)
            return ()
        await self._file_reload.reload_all()
        return ()

    def _commands_for(self, edit: Edit, old: Table, new: Table, effective: Table) -> Any:
        """Return the commands with which other processes follow. They know nothing of local edits, and run the table
        after them."""
        if not (old.local or new.local):
            return self.processes.commands_for(edit)
        adopt = Adopt.between(self.effective, effective)
        return None if adopt is None else self.processes.commands_for(adopt)

    def warnings(self, edit: Edit, before: Table, new: Table) -> Sequence[str]:
        """See EditChecks.warnings."""
        return self._edit_checks.warnings(edit, before, new)

    def is_here(self, service: VirtualService) -> bool:
        """Whether a service is for this node."""
        return is_here(service, self.context.node)

    def _table_to_run(self, table: Table) -> Table:
        """Return what this node runs of a table."""
        runs = divided(expanded(self._placer.placed(table), self.names.resolution), table, self.shared_limits.live)
        return self.withdrawals.current.applied_to(runs)

    @property
    def has_files(self) -> bool:
        """Whether a running service has TLS with files."""
        return any(True for _ in self.files)

    # Changes of what runs that are none of the table.

    @property
    def decides(self) -> bool:
        """See TableRunner."""
        return not self.is_ending and self._forward is None

    async def run_anew(
        self,
        change: Callable[[], object],
        undo: Callable[[], object],
        commands: Callable[[], Any],
        *,
        is_rekeyed: bool = False,
        rebound: Collection[str] = (),
    ) -> None:
        """See TableRunner."""
        preparation: Preparation | None = None
        change()
        try:
            runs = self._table_to_run(self.effective)
            preparation = await self._preparer.prepare(runs, is_rekeyed=is_rekeyed, rebound=rebound)
            preparation.commands = commands()
        except BaseException:
            if preparation is not None:
                preparation.abandon()
            undo()
            raise
        await self._committer.put_in_force(preparation)

    # Takeover.

    def sockets_of(self, ident: str) -> Mapping[Address, list[socket.socket]]:
        """Return the sockets on which a service listens, by address."""
        return self.processes.sockets_of(self.services[ident])

    def pause_edits(self) -> Deferred[None]:
        """Let further edits wait until `resume_edits`. Fires when no edit is in progress."""
        return self._lock.acquire().addCallback(lambda _: None)

    def resume_edits(self) -> None:
        """Accept edits again."""
        self._lock.release()

    def start_accepting(self) -> None:
        """Accept clients, which have waited in the backlog until now."""
        self.context.start_accepting()
        for service in self.services.values():
            service.resume_listeners()  # does not raise
        self.processes.start_accepting()

    def hand_over(self, sockets_taken: Mapping[Address, int]) -> None:
        """Another daemon accepts clients from now on: accept neither edits nor clients, and let connections drain.

        sockets_taken: address -> number of the sockets there that the other daemon uses, if it does not use all; the
        others are closed a few seconds later.
        """
        self.is_ending = True
        self.context.steps.run("files of TLS", self.files.stop)
        self.context.steps.run("certificates", self.issuer.stop)
        if self.starter is not None:
            self.starter.hand_over()
        self.context.steps.run("other processes: hand over", self.processes.hand_over, sockets_taken)
        left_over = frozenset(address for address, count in sockets_taken.items() if count < 1)
        for ident, service in self.services.items():
            self.context.steps.run(f"service {ident}: hand over", service.hand_over, left_over)

    def forward_to(self, carry_out: CarryOut) -> None:
        """Let another daemon, which has taken over, carry out all further edits."""
        self._forward = carry_out

    # Signals and the end.

    def reopen_logs(self) -> None:
        """Reopen the files of access logs."""
        self.context.access_logs.reopen()
        self.processes.reopen_logs()

    def end(self) -> None:
        """Accept no more edits, close all listeners, and let connections drain. The saved table does not change."""
        if not self.context.is_accepting:
            self.hand_over({})  # the sockets still belong to the old daemon
        self.is_ending = True
        for ident, service in self.services.items():
            self.context.steps.run(f"service {ident}: stop", service.stop)
        self.processes.end()

    def count_clients(self) -> int:
        """Return the number of clients of all processes, those of services that drain included."""
        return sum(service.clients.in_all for service in self._running.with_connections())

    def count_draining(self) -> int:
        """Return the number of client connections, or of worker processes, that have not ended."""
        own = sum(service.living for service in self._running.with_connections())
        return own + self.processes.count_draining()

    def end_all(self) -> None:
        """End every connection now."""
        for service in self._running.with_connections():
            service.end_all()
        self.processes.end_all()


def edits_for(table: Table, place_of: PlaceOf = nowhere) -> list[Edit]:
    """Return the edits that turn an empty table into `table`, including which services run. place_of: see Load."""
    if table.local:  # in one step: some services may not run on this node
        return [Adopt(dict(table.services), table.running, table.settings, local=table.local)]
    start = [StartService(ident) for ident in table.services if ident in table.running]
    return [Load(table.services, table.settings, place_of=place_of), *start]
