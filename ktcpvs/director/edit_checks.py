"""Checks of an edit before anything is prepared: what this switch and this machine do not have, and warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from ktcpvs.director.response_files import ResponseFiles
from ktcpvs.director.scheduler_binding import SchedulerBinder
from ktcpvs.errors import BadValue, BrokenTest, CannotListen, Refusal
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.edit_warnings import warnings_about_edit, warnings_about_rules
from ktcpvs.model.edits import Edit, Load
from ktcpvs.model.expectation import CHANGED_IN_FILES
from ktcpvs.model.language.scheduler_places import located
from ktcpvs.model.placement import KnownNodes, Placer, first_conflict, first_program_conflict, is_here
from ktcpvs.model.service import AUTO, NO_LOG, TCP_ONLY, VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.model.tracing import has_spans
from ktcpvs.model.unserved import warnings_about_unserved
from ktcpvs.model.warnings import warnings_about, warnings_without_cluster
from ktcpvs.relay.engines import NOT_TCP
from ktcpvs.runtime.context import Context
from ktcpvs.services.server_starter import ServerStarter
from ktcpvs.system.authorities import check_authorities
from ktcpvs.system.otlp_packages import https_unavailable, unavailable
from ktcpvs.system.plugin_errors import raise_interrupt


class EditChecks:
    """Raises a Refusal for what cannot be carried out. Changes nothing."""

    def __init__(
        self,
        context: Context,
        placer: Placer,
        nodes: Callable[[], KnownNodes],
        binder: SchedulerBinder,
        response_files: ResponseFiles,
        starter: ServerStarter | None,
    ) -> None:
        """nodes: returns what is known of the cluster. starter: starts servers on demand; None: nothing does."""
        self._context = context
        self._placer = placer
        self._nodes = nodes
        self._binder = binder
        self._response_files = response_files
        self._starter = starter

    async def check_services(self, edit: Edit, old: Table, new: Table, is_strict: bool) -> None:
        """Raise a Refusal if a service of `new`, the table after `edit`, needs something that this switch does not
        have.

        is_strict: and if this machine does not have it, or a test of the service fails.
        """
        runs_before, runs_after = self._placer.placed(old), self._placer.placed(new)
        for service in new:
            before = old.services.get(service.ident)
            if before is None or _scheduler_names(before) != _scheduler_names(service):
                with _located(service.ident, edit):
                    if is_strict:
                        known = _scheduler_texts(before) if before is not None else set()
                        self._binder.check(service, _scheduler_texts(service) - known)
                    else:
                        self._binder.plugins_of(service)
            if not is_strict:
                continue
            if self._is_here(service):  # or else files, addresses and the kernel are those of other machines
                was_here = before is not None and self._is_here(before)
                runs = runs_before.services[service.ident] if was_here else None
                self._check_machine(runs, runs_after.services[service.ident])
            if before != service:
                await self._run_tests(edit, service, new.settings)

    async def _run_tests(self, edit: Edit, service: VirtualService, settings: Settings) -> None:
        """Raise a Refusal if a test of the service fails. An edit that brings no tests is told how they are changed."""
        try:
            await self._binder.run_tests(service, settings)
        except BrokenTest as broken:
            raise broken if isinstance(edit, Load) else BrokenTest(f"{broken}; {CHANGED_IN_FILES}") from None

    def check_table(self, old: Table, new: Table) -> None:
        """Raise BadValue if the file of a setting that changes cannot be used on this machine or two services start
        different programs for one server, and CannotListen if two running services would listen on the same address of
        one node."""
        if new.settings.acme_ca not in ("", old.settings.acme_ca):
            check_authorities(new.settings.acme_ca, "acme_ca")
        conflict = first_conflict(old, new, self._nodes())
        if conflict is not None:
            raise CannotListen(str(conflict))
        programs = first_program_conflict(old, new, self._nodes())
        if programs is not None:
            raise BadValue(str(programs))

    def warnings(self, edit: Edit, before: Table, new: Table) -> Sequence[str]:
        """Return warnings about what `edit` leaves out, and about options in it without effect, a line each. before,
        new: the table before and after it. Never raises."""
        try:
            alone = warnings_without_cluster(edit, new.services) if self._context.quorum is None else []
            binder, nodes = self._binder, self._nodes()
            found = warnings_about(edit, before.services, new.services, binder.plugins_of, binder.installed, nodes)
            about_rules = warnings_about_rules(edit, before.services, new.services, binder.installed)
            unserved = warnings_about_unserved(edit, before.services, new.services, binder.installed)
            return [*warnings_about_edit(edit, before, new), *found, *about_rules, *unserved, *alone]
        except Refusal as refusal:  # the cluster has a service that this node cannot run, and that may be mended here
            return [str(refusal)]
        except BaseException as error:  # a plugin raises, or has wrong attributes
            raise_interrupt(error)
            self._context.log.failure("cannot determine warnings about {name}", name=edit.name)
            return ()

    def _is_here(self, service: VirtualService) -> bool:
        return is_here(service, self._context.node)

    def _check_machine(self, before: VirtualService | None, service: VirtualService) -> None:
        """Raise a Refusal if this machine does not have what the service needs. before: what has run here; None:
        nothing."""
        if service.access_log not in (NO_LOG, before and before.access_log):
            self._context.access_logs.check(service.access_log, service.ident)
        if before is None or (before.trace, before.otlp_endpoint) != (service.trace, service.otlp_endpoint):
            _check_tracing(service)
        self._check_started_servers(before, service)
        if before is None or (before.relay, before.listen) != (service.relay, service.listen):
            self._check_relay(service)
        if before is None or before.rules is not service.rules or before.error_page != service.error_page:
            self._response_files.of(service, is_strict=True)

    def _check_started_servers(self, before: VirtualService | None, service: VirtualService) -> None:
        known = {server.start for server in before.servers} if before is not None else set()
        for server in service.servers:
            if server.start not in known and server.start is not None:
                if self._starter is None:
                    raise BadValue(
                        f"service {service.ident}: server {server.address} start {server.start}: this daemon starts no "
                        "servers; start it with --start-folder"
                    )
                self._starter.check(server.start)

    def _check_relay(self, service: VirtualService) -> None:
        """Raise BadValue if the relay that the service names is not possible."""
        why = self._context.relays.refusal(service.relay)
        if why is None and service.relay in TCP_ONLY and not service.has_tcp_listener:
            why = NOT_TCP
        if why is not None:
            form = f"service {service.ident}: relay = {service.relay}: {why}"
            raise BadValue(f"{form}; relay = {AUTO} takes what there is")


def _located(ident: str, edit: Edit) -> AbstractContextManager[None]:
    """Within it, a refusal of a scheduler of a service says where it is, if the edit does not name the service."""
    if isinstance(edit, Load):
        return located(ident, edit.place_of)
    return located(ident, lambda *_: "the table") if isinstance(edit, Adopt) else nullcontext()


def _check_tracing(service: VirtualService) -> None:
    """Raise BadValue if this installation cannot send the spans that the service wants."""
    if has_spans(service.trace):
        why = unavailable()
        if not why and service.otlp_endpoint.startswith("https:"):
            why = https_unavailable()
        if why:
            raise BadValue(f"service {service.ident}: trace = {service.trace}: {why}")


def _scheduler_texts(service: VirtualService) -> set[str]:
    """Return the texts that name schedulers of a service."""
    of_rules = [rule.modifiers.balance for rule in service.rules if rule.modifiers.balance is not None]
    return {service.scheduler, service.balance, service.fallback, *of_rules}


def _scheduler_names(service: VirtualService) -> tuple[str, str, str, frozenset[str | None]]:
    of_rules = frozenset([rule.modifiers.balance for rule in service.rules])
    return service.scheduler, service.balance, service.fallback, of_rules
