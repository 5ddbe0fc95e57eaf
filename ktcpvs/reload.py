"""SIGHUP: load the configuration file and the certificates of services and of control connections again."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from twisted.internet.defer import Deferred

from ktcpvs.control.control_listeners import ControlListeners
from ktcpvs.control.server import limit_warnings
from ktcpvs.director.director import Director
from ktcpvs.errors import Refusal
from ktcpvs.model import edits
from ktcpvs.model.table import Table
from ktcpvs.service_manager import ServiceManager
from ktcpvs.state import read_configuration
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.names import service_port

MAX_IDENTS = 10
"""The most services that a line of the log names."""


class Reload:
    """Reloads the files that the daemon has read at its start."""

    def __init__(
        self,
        director: Director,
        control: ControlListeners,
        service_manager: ServiceManager,
        config: str | None,
        has_state_file: bool,
        is_in_cluster: bool = False,
    ) -> None:
        """config: the configuration file; None: there is none. has_state_file: services that were stopped by hand stay
        stopped. is_in_cluster: the table is the cluster's, so `config` is not loaded."""
        self._director = director
        self._control = control
        self._service_manager = service_manager
        self._config = None if is_in_cluster else config
        self._has_no_effect = is_in_cluster and config is not None
        self._start = edits.START_NEW if has_state_file else edits.START_ALL
        self._log: EventLog = director.context.log

    def begin(self) -> None:
        """Reload everything, and report the outcome to the log and to the service manager."""
        if not self._director.context.is_accepting:
            self._log.warn("SIGHUP: nothing is changed: this daemon has not taken over yet")
            return
        self._control.reload_certificates()
        has_certificates = self._control.has_tls() or self._director.has_files
        if self._has_no_effect:
            self._log.warn(
                "SIGHUP: --config is not loaded, since the table is the cluster's; 'tcpvsadm -f FILE' loads it on all "
                "nodes"
            )
        elif self._config is None and not has_certificates:
            self._log.warn("SIGHUP: there is no --config to load again")
        if self._config is None and not has_certificates:
            return
        Deferred.fromCoroutine(self._reload(self._config))

    async def _reload(self, config: str | None) -> None:
        self._service_manager.reloading()
        outcome = await self._read_certificates()
        if config is not None:
            outcome = await self._load(config)
        self._service_manager.reloaded(outcome)

    async def _read_certificates(self) -> str:
        """Read the certificates of services again. Returns the outcome in one line; the log has each error already."""
        try:
            await self._director.submit(edits.ReloadCertificates())
        except Refusal as refusal:
            return str(refusal)
        return "certificates are read again"

    async def _load(self, config: str) -> str:
        """Load the configuration file again. Returns the outcome in one line, and logs it."""
        try:
            edit = read_configuration(config, service_port, allow_empty=False)
            running = self._director.expanded.running
            warnings = await self._director.submit(evolve(edit, start=self._start))
        except Exception as error:
            outcome = f"nothing is changed: {error}"
            self._log.warn("SIGHUP: {outcome}", outcome=outcome)
        else:
            outcome = f"{config} is loaded{_started(self._director.expanded, running)}"
            self._log.event(ANNOUNCE, "SIGHUP: {outcome}", outcome=outcome)
            log_warnings(self._log, warnings)
        return outcome


def log_warnings(log: EventLog, warnings: Sequence[str]) -> None:
    """Log warnings about an edit, a line each."""
    for line in limit_warnings(warnings):
        log.warn("warning: {line}", line=line)


def _started(table: Table, before: frozenset[str]) -> str:
    """Return the services that have started, for the log; "": none. before: those that ran before."""
    started = [ident for ident in table.services if ident in table.running - before]
    more = f" and {len(started) - MAX_IDENTS} more" if len(started) > MAX_IDENTS else ""
    return f"; started: {', '.join(started[:MAX_IDENTS])}{more}" if started else ""
