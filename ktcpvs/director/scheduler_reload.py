"""Loads scheduler plugins again while their services run: in this process first, then in all others."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from functools import partial

from attrs import frozen

from ktcpvs.director.running_table import RunningTable
from ktcpvs.director.scheduler_binding import SchedulerBinder
from ktcpvs.director.table_runner import TableRunner
from ktcpvs.errors import BadValue
from ktcpvs.model.edits import ReloadSchedulers
from ktcpvs.model.scheduler_words import name_of
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.system import log as levels
from ktcpvs.system.plugin_reload import NOT_TRIED
from ktcpvs.system.plugin_trial import Trial, try_plugins


@frozen
class Outcome:
    """The outcome of a reload. schedulers: name -> the file of its class, or where it is installed if it has none, for
    each that was loaded again. services: those that were bound anew. is_same: see Reloaded."""

    schedulers: Mapping[str, str]
    services: Sequence[str]
    is_same: bool


class SchedulerReload:
    """Carries out ReloadSchedulers. All services that use a scheduler which was loaded again are bound to it before
    anything changes; if one cannot be bound, or fails its tests, the former modules stay in use.

    last: the outcome of the last one that has changed anything; None: there was none yet.
    """

    def __init__(
        self, runner: TableRunner, context: Context, binder: SchedulerBinder, running: RunningTable, is_strict: bool
    ) -> None:
        """is_strict: run the tests of services, and log the outcome: this is no worker."""
        self._runner = runner
        self._context = context
        self._binder = binder
        self._running = running
        self._is_strict = is_strict
        self.last: Outcome | None = None

    async def carry_out(self, edit: ReloadSchedulers) -> Sequence[str]:
        """To be called within `between_edits`. Returns warnings, a line each. Raises a Refusal; then nothing has
        changed."""
        tried = await self._try(edit.scheduler) if self._is_strict else NOT_TRIED
        reloaded = self._binder.reload(edit.scheduler, tried)
        table = self._running.table
        users = [service for service in table if not reloaded.names.isdisjoint(scheduler_names(service))]
        running = [service.ident for service in users if service.ident in table.running]
        try:
            for service in users if self._is_strict else ():
                await self._binder.run_tests(service, table.settings)
        except BaseException:
            reloaded.undo()
            raise
        commands = partial(self._runner.processes.commands_for, edit)
        await self._runner.run_anew(lambda: None, reloaded.undo, commands, rebound=running)
        self._binder.mended(reloaded.names)
        names, packages = ", ".join(sorted(reloaded.names)), ", ".join(reloaded.packages)
        is_same = reloaded.is_same
        self.last = Outcome(reloaded.files, running, is_same)
        del reloaded  # which keeps the modules of before
        gc.collect()  # they are cycles, and may have files open
        if self._is_strict:
            self._context.log.event(
                levels.ANNOUNCE,
                "schedulers {names} are loaded again from {packages}{same}; services bound anew: {services}",
                names=names,
                packages=packages,
                same=", whose Python files are the same as those in use before" if is_same else "",
                services=", ".join(running) or "none",
            )
        warnings = []
        if is_same:
            warnings.append(
                f"the Python files of {names} are the same as those in use; if you have edited the source, run "
                "'pip install .' first; after a reload that was refused, the files of before are back"
            )
        if self._context.quorum is not None:
            warnings.append(
                f"only this node has loaded {names} again; the other nodes of the cluster have what they had"
            )
        return warnings

    async def _try(self, name: str | None) -> Mapping[str, str]:
        """Return what has been tried, see reload_schedulers. Raises BadValue for a plugin whose import would hold up
        this process, or end it."""
        try:
            trial = await try_plugins(self._context.reactor, self._binder.packages_of(name))
        except OSError as error:
            trial = Trial(f"the plugins cannot be tried in a process of their own: {error.strerror}")
        if trial.why is not None:
            raise BadValue(f"{trial.why}; what was loaded before stays in use")
        return trial.loaded


def scheduler_names(service: VirtualService) -> set[str]:
    """Return the names of all schedulers that a service uses."""
    of_rules = [rule.modifiers.balance for rule in service.rules if rule.modifiers.balance is not None]
    return {name_of(text) for text in (service.scheduler, service.balance, service.fallback, *of_rules)}
