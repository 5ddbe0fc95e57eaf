"""The servers on demand of running services, as what starts them needs to know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from twisted.internet.defer import Deferred

from ktcpvs.health.active_checks import ActiveChecks, NoChecks
from ktcpvs.model.address import Address
from ktcpvs.model.check import OFF, TCP, parse_check
from ktcpvs.model.destination import Destination
from ktcpvs.model.settings import Settings
from ktcpvs.services.running import RunningService
from ktcpvs.services.server_starter import ServerStarter, Started


class _StartedServer:
    """One of them. Provides Started."""

    def __init__(self, owner: StartedServers, service: RunningService, destination: Destination, program: str) -> None:
        self.program = program
        self._owner = owner
        self._service = service
        self._destination = destination

    @property
    def settings(self) -> Settings:
        return self._service.traffic.settings

    def probe(self) -> Deferred[object]:
        service, destination = self._service, self._destination
        check = parse_check(service.config.check if service.config.check != OFF else TCP)
        connector = service.check_connector(destination, check)
        timeout = service.config.check_timeout
        passed: Deferred[object] = self._owner.checks.probe(check, destination, connector, timeout)
        return passed.addTimeout(timeout, service.context.reactor)

    def active(self) -> int:
        return self._owner.active(self._destination.address)

    def changed(self) -> None:
        self._owner.changed(self._destination.address)


class StartedServers:
    """Tells a ServerStarter of the servers in the table, and the checks of those that run."""

    def __init__(
        self,
        starter: ServerStarter,
        services: Mapping[str, RunningService],
        running: Callable[[], Iterable[str]],
        checks: ActiveChecks | NoChecks,
        follow_checks: Callable[[], object],
    ) -> None:
        """services, running: as for CheckedServers. follow_checks: has those servers checked that may be checked."""
        assert isinstance(checks, ActiveChecks)  # the process that checks servers also starts them
        self.checks = checks
        self._starter = starter
        self._services = services
        self._running = running
        self._follow_checks = follow_checks

    def follow(self) -> None:
        """The table has changed."""
        self._starter.follow(self._wanted())

    def _wanted(self) -> Iterator[tuple[Address, Started]]:
        for ident in self._running():
            service = self._services[ident]
            for server in service.config.servers:
                if server.start is not None:
                    destination = service.destinations[server.address]
                    yield server.address, _StartedServer(self, service, destination, server.start)

    def active(self, address: Address) -> int:
        """Return the number of connections to a server, of all services and processes."""
        found = [
            known.get(address)
            for service in self._services.values()
            for known in (service.destinations, service.leaving)
        ]
        return sum(destination.active for destination in found if destination is not None)

    def changed(self, address: Address) -> None:
        """A server runs, or does so no more: checks of one that does not run say nothing."""
        if self._starter.state(address) is not None:
            for service in self._services.values():
                destination = service.destinations.get(address)
                if destination is not None:
                    service.health.forget_checks(destination, "it is started on demand")
        self._follow_checks()
