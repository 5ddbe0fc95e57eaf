"""The director carries edits out. Each takes effect as a whole, or is refused without any effect.

The director takes one edit at a time. It makes the new table; tries everything that can fail (schedulers bound, sockets
opened); saves the table; and only then starts, changes or drains the services that differ.

A saved edit can no longer be refused. `Context.steps` runs everything from then on: it logs an exception in one step,
and continues with the others.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from attrs import Factory, define
from twisted.internet.defer import Deferred, DeferredLock

from ktcpvs.errors import BadValue, Busy, CannotListen, NoSuchServer, NoTLS, Refusal
from ktcpvs.health.active_checks import ActiveChecks, NoChecks
from ktcpvs.model.address import Address
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.difference import changes_between
from ktcpvs.model.edit_warnings import warnings_about_edit
from ktcpvs.model.edits import (
    Confirm,
    Edit,
    Load,
    ReloadCertificates,
    ReloadSchedulers,
    RenewCertificate,
    StartService,
    Unload,
)
from ktcpvs.model.expansion import Resolution, expanded, names_of
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.local_edits import Local, LocalEdit, localized, settled
from ktcpvs.model.placement import KnownNodes, Placer, first_conflict, first_program_conflict, is_here
from ktcpvs.model.plan import Plan, plan
from ktcpvs.model.service import AUTO, NO_LOG, TCP_ONLY, VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.sharing import divided
from ktcpvs.model.table import Table
from ktcpvs.model.tls_files import TLSFile
from ktcpvs.model.tracing import has_spans
from ktcpvs.model.warnings import warnings_about, warnings_without_cluster
from ktcpvs.relay.engines import NOT_TCP
from ktcpvs.runtime.challenges import PendingChallenges
from ktcpvs.runtime.context import Context
from ktcpvs.services.certificate_issuer import CertificateIssuer, NoIssuer
from ktcpvs.services.checked_servers import CheckedServers
from ktcpvs.services.confirmation import Confirmation, PendingConfirmation
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.resolver import NoResolver, Resolver, Unresolved
from ktcpvs.services.response_files import response_files
from ktcpvs.services.running import RunningService
from ktcpvs.services.scheduler_binding import SchedulerBinder
from ktcpvs.services.scheduler_reload import SchedulerReload
from ktcpvs.services.server_starter import ServerStarter
from ktcpvs.services.serving_processes import ServingProcesses, SingleProcess
from ktcpvs.services.shared_limits import SharedLimits
from ktcpvs.services.started_servers import StartedServers
from ktcpvs.services.tls_file_store import TLSFiles, TLSFileStore
from ktcpvs.services.tls_file_users import TLSFileUsers
from ktcpvs.services.withdrawals import Withdrawals
from ktcpvs.streams.preamble import Stage
from ktcpvs.system import log as levels
from ktcpvs.system.authorities import check_authorities
from ktcpvs.system.otlp_encoder import unavailable
from ktcpvs.system.otlp_exporter import https_unavailable
from ktcpvs.system.plugins import Schedulers, find_schedulers
from ktcpvs.system.response_files import ResponseFile
from ktcpvs.system.sockets import close_listener

T = TypeVar("T")

MAX_CHANGES = 20
"""The most changes of a configuration that is loaded for which the log has a line each."""

MAX_ERRORS = 10
"""The most files in the text of a refusal."""

CarryOut = Callable[[Edit], Awaitable[Sequence[str]]]
"""Carries an edit out; returns warnings about it, a line each. Raises a Refusal."""

StagesOf = Callable[[VirtualService, ListenAddress, str], Sequence[Stage]]
"""Returns the stages of the preamble that clients of a service go through who come to that listener. The third argument
is the unit of the service's scheduler. Raises a Refusal."""


@define
class _Preparation:
    """Everything that a change needs. `abandon` closes the sockets that were opened for it.

    changes: what differs. commands: those that other processes will be sent. ready: each service that starts or
    changes, with its next configuration. warnings: about files that were read for it, a line each.
    """

    changes: Plan
    commands: Any = None
    warnings: Sequence[str] = ()
    ready: list[tuple[RunningService, Prepared]] = Factory(list)

    def abandon(self) -> None:
        for _, prepared in self.ready:
            for sock in chain.from_iterable(prepared.socks.values()):
                close_listener(sock)


def no_stages(config: VirtualService, listener: ListenAddress, unit: str) -> Sequence[Stage]:
    """Return no stages: clients are served as they come."""
    return ()


async def _save_nowhere(table: Table) -> None:
    return None


class Director:
    """Owns the table, and makes the running services match it.

    table: as configured. effective: the table after the edits that hold on this node of a cluster only. resolution: the
    addresses of host names in it. expanded: the table that runs: the services and listeners that are for this node,
    with a server for each address of a name; other services are stopped in it. services: ident -> running service,
    including stopped ones that drain. draining: deleted services that drain. confirmation: of a table on trial; a node
    of a cluster puts the cluster's in its place. files: those that TLS needs. issuer: obtains certificates from a CA.
    local_dropped: called with edits that do not hold on this node any more, and why. shared_limits, withdrawals,
    checked_servers: see there.
    is_ending: it accepts neither edits nor clients any more.
    """

    def __init__(
        self,
        context: Context,
        save: Callable[[Table], Awaitable[None]] = _save_nowhere,
        unload: Callable[[], object] = lambda: None,
        *,
        processes: ServingProcesses | None = None,
        checks: Callable[[Context], ActiveChecks | NoChecks] = ActiveChecks,
        resolver: Callable[[Context, Callable[[Resolution], Deferred[None]]], Resolver | NoResolver] = Resolver,
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
        self.table = self.effective = self.expanded = Table()
        self.local_dropped: Callable[[Sequence[tuple[LocalEdit, str]]], object] = lambda dropped: None
        self.resolution: Resolution = {}
        self.services: dict[str, RunningService] = {}
        self.draining: set[RunningService] = set()
        self.processes = processes or SingleProcess(context)
        self.checks = checks(context)
        self._pending = PendingConfirmation(context.reactor, context.log, self._undo_unconfirmed)
        self.confirmation: Confirmation = self._pending
        self._resolver = resolver(context, self.resolved)
        self._binder = SchedulerBinder(context, search, logs_broken=is_strict)
        self._scheduler_reload = SchedulerReload(self, context, self._binder, is_strict)
        self._save = save
        self._unload = unload
        self._is_strict = is_strict
        self._stages_of = stages_of
        self._placer = Placer(context.node)
        self._nodes = nodes or (lambda: KnownNodes(context.node))
        self.files = files if files is not None else TLSFileStore(context)
        self.files.changed = self._files_changed
        self.issuer: CertificateIssuer = NoIssuer()
        self._file_users = TLSFileUsers(self.files, self.services, self._running_idents, context.steps)
        self._forward: CarryOut | None = None
        self.is_ending = False
        self.shared_limits = SharedLimits(self)
        self.withdrawals = Withdrawals(self)
        self.checked_servers = CheckedServers(self.services, self._running_idents)
        self.starter = starter
        self._started_servers: StartedServers | None = None
        if starter is not None:
            context.starter = starter
            self._started_servers = StartedServers(
                starter, self.services, self._running_idents, self.checks, self._follow_checks
            )
        self._lock: DeferredLock = DeferredLock()

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
        run("names", self._resolver.stop)
        run("files of TLS", self.files.stop)
        run("certificates", self.issuer.stop)
        self.context.stop()

    # Schedulers.

    def schedulers(self) -> Schedulers:
        """Search for all installed schedulers."""
        return self._binder.find_all()

    async def bind(
        self, service: RunningService, config: VirtualService, settings: Settings, is_dry_run: bool = False
    ) -> Prepared:
        """See SchedulerBinder.bind."""
        return await self._binder.bind(service, config, settings, is_dry_run)

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
        self, initial: Sequence[Edit], *, is_strict: bool, resolution: Resolution | None = None
    ) -> Deferred[None]:
        """Carry out the edits that make the daemon's first table, without saving it.

        is_strict: as for the constructor; False for a table that ran before, which is applied as far as possible.
        resolution: the known addresses of its host names.
        """

        async def carry_out_all() -> None:
            self.resolution = {**self.resolution, **(resolution or {})}
            for edit in initial:
                await self._carry_out(edit, is_strict=is_strict, is_saved=False)

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
        await self._check(before, after, self._is_strict)
        _check_settings(before.settings, after.settings)
        self._check_addresses(before, after)
        return after, self.warnings(edit, after)

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
            self.context.log.event(levels.CONFIGURATION, "{edit}", edit=_described(edit))
            return await self._carry_out_beside(edit)
        self.confirmation.admit(edit)
        old = self.table
        try:
            new = edit.apply(old)
        except NoSuchServer as refusal:
            raise NoSuchServer(f"{refusal}{self._hint_at_name(edit)}") from None
        new, dropped = settled(new)
        before, effective = self.effective, localized(new)
        await self._check(before, effective, is_strict)
        if is_strict and not isinstance(edit, Adopt):  # what another node has stored concerns this one where it listens
            _check_settings(old.settings, new.settings)
            self._check_addresses(old, new)  # a local edit meets others only here, where it listens
        warnings = self.warnings(edit.edit if isinstance(edit, Local) else edit, effective) if is_strict else ()
        runs = self._running_table(effective, self.resolution)
        preparation = await self._prepare(self.expanded, runs, is_strict)
        try:
            preparation.commands = self._commands_for(edit, old, new, effective)
            is_final = new != old and not getattr(edit, "confirm", 0)
            if is_saved and (is_final or isinstance(edit, Confirm)):
                await self._save(new)
        except BaseException:
            preparation.abandon()
            raise
        steps = self.context.steps
        self.table, self.effective = new, effective
        await self._put_in_force(runs, preparation)
        steps.run("names", self._follow_names)
        steps.run("confirmation", self.confirmation.carried_out, edit, old)
        if dropped:
            steps.run("local edits", self.local_dropped, dropped)
        if isinstance(edit, Load):
            steps.run("files of responses", self._read_response_files)
            if is_strict and is_saved:
                steps.run("log", self._log_changes, old, new)
        steps.run("log", lambda: self.context.log.event(levels.CONFIGURATION, "{edit}", edit=_described(edit)))
        if isinstance(edit, Unload):
            steps.run("end", self._unload)
        return [*warnings, *preparation.warnings]

    async def _carry_out_beside(self, edit: Edit) -> Sequence[str]:
        """Carry out an edit that leaves the table as it is."""
        if isinstance(edit, ReloadSchedulers):
            return await self._scheduler_reload.carry_out(edit, lambda: self.expanded)
        if isinstance(edit, RenewCertificate):
            await self.issuer.renew(edit.host)
            return ()
        return await self._reload_certificates()

    def _log_changes(self, old: Table, new: Table) -> None:
        """Log what a configuration that was loaded has changed."""
        lines = changes_between(old, new)
        log, more = self.context.log, len(lines) - MAX_CHANGES
        for line in lines[:MAX_CHANGES] if more > 1 else lines:
            log.event(levels.ANNOUNCE, "loaded: {line}", line=line)
        if more > 1:
            log.event(levels.ANNOUNCE, "loaded: {n} more changes", n=more)
        if not lines:
            log.event(levels.ANNOUNCE, "loaded: nothing has changed")

    def _commands_for(self, edit: Edit, old: Table, new: Table, effective: Table) -> Any:
        """Return the commands with which other processes follow. They know nothing of local edits, and run the table
        after them."""
        if not (old.local or new.local):
            return self.processes.commands_for(edit)
        adopt = Adopt.between(self.effective, effective)
        return None if adopt is None else self.processes.commands_for(adopt)

    def warnings(self, edit: Edit, new: Table) -> Sequence[str]:
        """Return warnings about options in `edit` without effect, a line each. new: the table after it. Never
        raises."""
        try:
            alone = warnings_without_cluster(edit, new.services) if self.context.quorum is None else []
            found = warnings_about(edit, new.services, self._binder.plugins_of, self._binder.installed, self._nodes())
            return [*warnings_about_edit(edit, new), *found, *alone]
        except Refusal as refusal:  # the cluster has a service that this node cannot run, and that may be mended here
            return [str(refusal)]
        except KeyboardInterrupt:
            raise
        except BaseException:  # a plugin raises, or has wrong attributes
            self.context.log.failure("cannot determine warnings about {name}", name=edit.name)
            return ()

    def is_here(self, service: VirtualService) -> bool:
        """Whether a service is for this node."""
        return is_here(service, self.context.node)

    def _running_table(self, table: Table, resolution: Resolution) -> Table:
        """Return what this node runs of a table."""
        runs = divided(expanded(self._placer.placed(table), resolution), table, self.shared_limits.live)
        return self.withdrawals.current.applied_to(runs)

    def _running_idents(self) -> Collection[str]:
        return self.expanded.running

    async def _put_in_force(self, runs: Table, preparation: _Preparation) -> None:
        """Start, change and stop services. Never raises. runs: the table that must run."""
        steps = self.context.steps
        self._commit(runs, preparation)
        await steps.wait("listeners before", self._wait_for_retired_listeners, preparation)
        is_sent = await steps.wait("other processes", self.processes.send, preparation.commands)
        if not is_sent and not self.is_ending:
            steps.run("replace other processes", self.processes.replace_all)

    # Files of responses.

    def _response_files(self, config: VirtualService, *, is_strict: bool) -> Mapping[str, ResponseFile]:
        """Return the files that a service responds with. is_strict: raise BadValue for one that cannot be used, unless
        the service has it already."""
        service = self.services.get(config.ident)
        known = service.traffic.own_responses.files if service is not None else {}
        return response_files(
            config, known, lambda text: self.context.log.warn("{text}", text=text), is_strict=is_strict
        )

    def _read_response_files(self) -> None:
        """Read the files of services again that a load has not changed."""
        for ident in self.expanded.running:
            service = self.services[ident]
            if service.traffic.own_responses.files:
                service.traffic.own_responses.files = self._response_files(service.config, is_strict=False)

    # Files of TLS.

    @property
    def has_files(self) -> bool:
        """Whether a running service has TLS with files."""
        return any(True for _ in self.files)

    async def _reload_certificates(self) -> Sequence[str]:
        """Read all files of TLS again. Raises NoTLS for those that cannot be used; the others are in use then."""
        errors = await self._reload_files()
        if errors:
            more = f"; and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
            raise NoTLS(f"{'; '.join(errors[:MAX_ERRORS])}{more}; what was read before stays in use")
        return ()

    def _files_changed(self, files: Collection[TLSFile]) -> Deferred[None]:
        """Read files again that have changed, between two edits."""

        async def reload() -> None:
            if not self.is_ending:
                await self._reload_files(files)

        return self.between_edits(reload)

    async def _reload_files(self, files: Collection[TLSFile] | None = None) -> Sequence[str]:
        """Have all processes use files as they are now. Returns errors, a line each. files: None: all."""
        update, errors = await self.files.reload(files)
        if update:
            await self.context.steps.wait("files of TLS", self.processes.replace_files, update)
        return errors

    def _follow_files(self) -> None:
        table = self.expanded
        update = self.files.follow(table.services[ident] for ident in table.running)
        if update:
            self.processes.pass_files(update)

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
        preparation = None
        change()
        try:
            runs = self._running_table(self.effective, self.resolution)
            preparation = await self._prepare(self.expanded, runs, is_rekeyed=is_rekeyed, rebound=rebound)
            preparation.commands = commands()
        except BaseException:
            if preparation is not None:
                preparation.abandon()
            undo()
            raise
        await self._put_in_force(runs, preparation)

    # Host names of servers.

    def _hint_at_name(self, edit: Any) -> str:
        """Return a hint for an edit of a server that is only one address of a configured name; "" for other edits."""
        service = self.expanded.services.get(getattr(edit, "ident", ""))
        address = getattr(edit, "address", None)
        if service is None or address is None:
            return ""
        for server in service.servers:
            if server.name is not None and server.address == service.complete(address):
                return f": it is one address of {server.name}, which can be changed as a whole"
        return ""

    def _follow_names(self) -> None:
        """Look up the host names in the table, and forget all others."""
        names = names_of(service for service in self.effective if self.is_here(service))
        self.resolution = {host: addresses for host, addresses in self.resolution.items() if host in names}
        self._resolver.follow(names, self.resolution)

    @property
    def unresolved(self) -> Mapping[str, Unresolved]:
        """The names of servers that have no addresses, since no look-up has found any yet."""
        return self._resolver.unresolved()

    def resolved(self, found: Resolution) -> Deferred[None]:
        """Put new addresses of host names in force. Fires when that is done; fails with a Refusal."""
        return self.between_edits(lambda: self._resolve(found))

    async def _resolve(self, found: Resolution) -> None:
        if not self.decides:
            return
        resolution = {**self.resolution, **found}
        runs = self._running_table(self.effective, resolution)
        commands = self.processes.commands_for_names(found)
        preparation = await self._prepare(self.expanded, runs)
        preparation.commands = commands
        self.resolution = resolution
        await self._put_in_force(runs, preparation)

    # The secret of cookies.

    async def use_cookie_secret(self, secret: bytes) -> None:
        """Sign cookies with another secret, unless the settings have one. To be called within `between_edits`. Raises a
        Refusal; then nothing has changed."""
        context = self.context
        former = context.cookie_secret
        if self.decides and secret != former:

            def use(which: bytes) -> None:
                context.cookie_secret = which

            commands = partial(self.processes.commands_for_cookie_secret, secret)
            await self.run_anew(partial(use, secret), partial(use, former), commands, is_rekeyed=True)

    # Challenges of ACME.

    def use_challenges(self, pending: PendingChallenges) -> Deferred[None]:
        """Have all processes answer these challenges, and no others. Fires when they do; they do not if this daemon is
        ending, or another one has taken over."""
        return self.between_edits(lambda: self._use_challenges(pending))

    async def _use_challenges(self, pending: PendingChallenges) -> None:
        if self.is_ending:
            return
        self.put_challenges(pending)
        await self.context.steps.wait("challenges", self.processes.replace_challenges, pending.challenges)

    def put_challenges(self, pending: PendingChallenges) -> None:
        """Have this process alone answer these challenges, and no others. Workers that begin later do too."""
        self.context.challenges = pending
        for ident, service in self.services.items():
            self.context.steps.run(f"service {ident}: challenges", service.follow_challenges)

    # Checks and preparation: all that can fail. Nothing is changed yet.

    async def _check(self, old: Table, new: Table, is_strict: bool) -> None:
        """Raise a Refusal if `new` needs something that this switch does not have."""
        runs_before, runs_after = self._placer.placed(old), self._placer.placed(new)
        for service in new:
            before = old.services.get(service.ident)
            if before is None or _scheduler_names(before) != _scheduler_names(service):
                self._binder.plugins_of(service)
            if not is_strict:
                continue
            if self.is_here(service):  # or else files, addresses and the kernel are those of other machines
                was_here = before is not None and self.is_here(before)
                runs = runs_before.services[service.ident] if was_here else None
                self._check_machine(runs, runs_after.services[service.ident])
            if before != service:
                await self.run_tests(service, new.settings)

    def _check_machine(self, before: VirtualService | None, service: VirtualService) -> None:
        """Raise a Refusal if this machine does not have what the service needs. before: what has run here; None:
        nothing."""
        if service.access_log not in (NO_LOG, before and before.access_log):
            self.context.access_logs.check(service.access_log)
        if before is None or (before.trace, before.otlp_endpoint) != (service.trace, service.otlp_endpoint):
            _check_tracing(service)
        known = {server.start for server in before.servers} if before is not None else set()
        for server in service.servers:
            if server.start not in known and server.start is not None:
                if self.starter is None:
                    raise BadValue(
                        f"service {service.ident}: server {server.address} start {server.start}: this daemon starts no "
                        "servers; start it with --start-folder"
                    )
                self.starter.check(server.start)
        if before is None or (before.relay, before.listen) != (service.relay, service.listen):
            self._check_relay(service)
        if before is None or before.rules is not service.rules or before.error_page != service.error_page:
            self._response_files(service, is_strict=True)

    def _check_addresses(self, old: Table, new: Table) -> None:
        """Raise CannotListen if two running services would listen on the same address of one node, and BadValue if two
        would start different programs for the same server."""
        conflict = first_conflict(old, new, self._nodes())
        if conflict is not None:
            raise CannotListen(str(conflict))
        programs = first_program_conflict(old, new, self._nodes())
        if programs is not None:
            raise BadValue(str(programs))

    def _check_relay(self, service: VirtualService) -> None:
        """Raise BadValue if the relay that the service names is not possible."""
        why = self.context.relays.refusal(service.relay)
        if why is None and service.relay in TCP_ONLY and not service.has_tcp_listener:
            why = NOT_TCP
        if why is not None:
            form = f"service {service.ident}: relay = {service.relay}: {why}"
            raise BadValue(f"{form}; relay = {AUTO} takes what there is")

    async def _prepare(
        self,
        old: Table,
        new: Table,
        is_strict: bool = False,
        is_rekeyed: bool = False,
        rebound: Collection[str] = (),
    ) -> _Preparation:
        self.processes.prepare(old, new)
        changes = plan(old, new, is_rekeyed, rebound)
        leaving = [(before, set(before.addresses).difference(config.addresses)) for before, config in changes.change]
        leaving += [(config, set(config.addresses)) for config in changes.stop]
        closing = [
            sock
            for service, addresses in leaving
            for address, socks in (self.sockets_of(service.ident).items() if addresses else ())
            for sock in socks
            if address in addresses
        ]
        preparation = _Preparation(changes)
        starting = [(None, config) for config in changes.start]
        preparation.warnings = await self.files.prepare(
            (config for _, config in (*starting, *changes.change)), is_strict=is_strict
        )
        try:
            for before, config in (*starting, *changes.change):
                service = self.services.get(config.ident) or RunningService(self.context, config)
                prepared = await self.bind(service, config, new.settings)
                unit = prepared.factory.unit
                prepared.stages = {one.address: self._stages_of(config, one, unit) for one in config.listen}
                prepared.connection_options = self._file_users.connection_options(config, unit)
                prepared.response_files = self._response_files(config, is_strict=is_strict)
                prepared.listens_anew = before is None or before.addresses != config.addresses
                preparation.ready.append((service, prepared))
                known = before.addresses if before is not None else ()
                for address in config.addresses:
                    if address not in known:
                        prepared.socks[address] = self.processes.open(address, new.settings.max_backlog, closing)
        except BaseException:
            preparation.abandon()
            raise
        return preparation

    # The change itself, which cannot fail.

    def _commit(self, new: Table, preparation: _Preparation) -> None:
        changes, run = preparation.changes, self.context.steps.run
        self.expanded = new
        if changes.settings:
            self.context.apply_settings(new.settings)
        for service in [self.services[config.ident] for config in changes.stop if config.ident in self.services]:
            run(f"service {service.ident}: stop", self._stop, service)
        for service, prepared in preparation.ready:
            self.services[prepared.config.ident] = service
            run(f"service {service.ident}: change", service.adopt, prepared)
            if prepared.listens_anew:
                run(f"service {service.ident}: listen", self.processes.listen, service, prepared.socks)
        if changes.settings:
            for ident, service in self.services.items():
                run(f"service {ident}: settings", service.settings_changed)
        for ident in [ident for ident in self.services if ident not in new.services]:
            service = self.services.pop(ident)
            run(f"service {ident}: delete", service.delete)
            self.draining.add(service)
        self.draining = {service for service in self.draining if service.living}
        run("files of TLS", self._follow_files)
        run("certificates", self.issuer.follow)
        run("hosts of TLS", self._file_users.follow_hosts)
        if self._started_servers is not None:
            run("servers on demand", self._started_servers.follow)
        run("checks", self._follow_checks)
        run("health updates", self.processes.watch_health, self.services.values())

    def _stop(self, service: RunningService) -> None:
        service.stop()
        self.processes.stop(service)

    async def _wait_for_retired_listeners(self, preparation: _Preparation) -> None:
        """Return when all sockets are closed whose address no service has any more."""
        for service, prepared in preparation.ready:
            for retired in service.retired if prepared.socks else ():
                await retired

    def _follow_checks(self) -> None:
        self.checks.follow(self.services[ident] for ident in self.expanded.services if ident in self.expanded.running)

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
        return sum(service.clients.in_all for service in (*self.services.values(), *self.draining))

    def count_draining(self) -> int:
        """Return the number of client connections, or of worker processes, that have not ended."""
        own = sum(service.living for service in (*self.services.values(), *self.draining))
        return own + self.processes.count_draining()

    def end_all(self) -> None:
        """End every connection now."""
        for service in (*self.services.values(), *self.draining):
            service.end_all()
        self.processes.end_all()


def edits_for(table: Table) -> list[Edit]:
    """Return the edits that turn an empty table into `table`, including which services run."""
    if table.local:  # in one step: some services may not run on this node
        return [Adopt(dict(table.services), table.running, table.settings, local=table.local)]
    start = [StartService(ident) for ident in table.services if ident in table.running]
    return [Load(table.services, table.settings), *start]


def _check_settings(old: Settings, new: Settings) -> None:
    """Raise BadValue if the file of a setting that changes cannot be used on this machine."""
    if new.acme_ca not in ("", old.acme_ca):
        check_authorities(new.acme_ca, "acme_ca")


def _check_tracing(service: VirtualService) -> None:
    """Raise BadValue if this installation cannot send the spans that the service wants."""
    if has_spans(service.trace):
        why = unavailable()
        if not why and service.otlp_endpoint.startswith("https:"):
            why = https_unavailable()
        if why:
            raise BadValue(f"service {service.ident}: trace = {service.trace}: {why}")


def _scheduler_names(service: VirtualService) -> tuple[str, str, str, frozenset[str | None]]:
    of_rules = frozenset([rule.modifiers.balance for rule in service.rules])
    return service.scheduler, service.balance, service.fallback, of_rules


def _described(edit: Edit) -> str:
    if isinstance(edit, Load | Adopt):
        return f"{edit.name}: {len(edit.services)} services"
    if isinstance(edit, Local):
        return f"{'force-local' if edit.is_forced else edit.name}: {_described(edit.edit)}"
    return f"{edit.name}: {edit}"
