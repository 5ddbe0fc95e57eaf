"""Puts a prepared change in force, in this process and in all others. That cannot fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ktcpvs.director.preparation import Preparation
from ktcpvs.director.running_table import RunningTable
from ktcpvs.director.serving_processes import ServingProcesses
from ktcpvs.runtime.context import Context
from ktcpvs.services.running import RunningService

Follower = tuple[str, Callable[[], object]]
"""The name of a step for the log, and a function that is called whenever other services run."""


class Committer:
    """Starts, changes and stops services. `Context.steps` runs each step: it logs an exception, and continues with the
    others."""

    def __init__(
        self,
        context: Context,
        running: RunningTable,
        processes: ServingProcesses,
        followers: Sequence[Follower],
        is_ending: Callable[[], bool],
    ) -> None:
        """followers: called in this order, once this process runs the new table. is_ending: returns whether this daemon
        ends; other processes that cannot be reached are replaced otherwise."""
        self._context = context
        self._running = running
        self._processes = processes
        self._followers = followers
        self._is_ending = is_ending

    async def put_in_force(self, preparation: Preparation) -> None:
        """Start, change and stop services. Never raises. Returns when all processes run the table."""
        steps = self._context.steps
        self._commit(preparation)
        await steps.wait("listeners before", self._wait_for_retired_listeners, preparation)
        is_sent = await steps.wait("other processes", self._processes.send, preparation.commands)
        if not is_sent and not self._is_ending():
            steps.run("replace other processes", self._processes.replace_all)

    def _commit(self, preparation: Preparation) -> None:
        new, changes, run = preparation.table, preparation.changes, self._context.steps.run
        running, services = self._running, self._running.services
        running.table = new
        if changes.settings:
            self._context.apply_settings(new.settings)
        for service in [services[config.ident] for config in changes.stop if config.ident in services]:
            run(f"service {service.ident}: stop", self._stop, service)
        for service, prepared in preparation.ready:
            services[prepared.config.ident] = service
            run(f"service {service.ident}: change", service.adopt, prepared)
            if prepared.listens_anew:
                run(f"service {service.ident}: listen", self._processes.listen, service, prepared.socks)
        if changes.settings:
            for ident, service in services.items():
                run(f"service {ident}: settings", service.settings_changed)
        for ident in [ident for ident in services if ident not in new.services]:
            service = services.pop(ident)
            run(f"service {ident}: delete", service.delete)
            running.draining.add(service)
        running.draining = {service for service in running.draining if service.has_living}
        for name, follow in self._followers:
            run(name, follow)

    def _stop(self, service: RunningService) -> None:
        service.stop()
        self._processes.stop(service)

    async def _wait_for_retired_listeners(self, preparation: Preparation) -> None:
        """Return when all sockets are closed whose address no service has any more."""
        for service, prepared in preparation.ready:
            for retired in service.retired if prepared.socks else ():
                await retired
