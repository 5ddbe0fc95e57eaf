"""The servers of running services, for the results of checks that another process or other nodes have made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from ktcpvs.model.health import DOWN
from ktcpvs.model.options import OFF
from ktcpvs.model.quorum import Key
from ktcpvs.services.running import RunningService


class CheckedServers:
    """Applies such results, and tells those of this process."""

    def __init__(self, services: Mapping[str, RunningService], running: Callable[[], Iterable[str]]) -> None:
        """services: by ident, including stopped ones that drain. running: returns the idents of those that run."""
        self._services = services
        self._running = running

    def set_health(self, ident: str, address: str, is_up: bool, why: str, weight: str = "") -> None:
        """Mark a server as up, or as down. why: the reason in words. weight: as its checks ask for it; "": they do
        not."""
        service = self._services.get(ident)
        if service is None:
            return
        for destination in service.usable:
            if str(destination.address) == address:
                service.health.mark(destination, is_up, why, weight)

    def keys(self) -> set[Key]:
        """Return the servers that are checked: ident of the service, address."""
        return {
            (service.ident, str(destination.address))
            for service in map(self._services.__getitem__, self._running())
            if service.config.check != OFF
            for destination in service.checked_servers
        }

    def decide(self, keys: Collection[Key] | None) -> None:
        """The results of other nodes' checks of these servers have changed: take the verdicts. keys: None: all."""
        idents = self._services if keys is None else {ident for ident, _ in keys}
        for service in [self._services[ident] for ident in idents if ident in self._services]:
            for destination in service.checked_servers:
                if keys is None or (service.ident, str(destination.address)) in keys:
                    service.health.decide(destination)

    def down(self) -> list[tuple[str, str, str]]:
        """Return the servers that checks have found down: ident of the service, address, reason."""
        return [
            (service.ident, str(destination.address), destination.health.reason)
            for service in self._services.values()
            for destination in service.down
            if destination.health.state == DOWN
        ]

    def weighed(self) -> list[tuple[str, str, str]]:
        """Return the servers whose checks ask for a weight: ident of the service, address, weight."""
        return [
            (service.ident, str(destination.address), service.health.weight_of(destination))
            for service in self._services.values()
            for destination in service.health.weighed
        ]
