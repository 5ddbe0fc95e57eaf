"""The table: all virtual services, which of them run, and the settings. It is immutable; edits make a new one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import evolve, field, frozen

from ktcpvs.errors import NoSuchService, ServiceExists, did_you_mean, shorten
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import DEFAULT_SETTINGS, Settings


def _by_ident(services: Iterable[VirtualService]) -> dict[str, VirtualService]:
    return {service.ident: service for service in services}


@frozen
class Table:
    """All services, those of them that run, and the settings. services: ident -> service, in the order in which they
    were added; never changed in place. running: the idents of the services that are started. local: the edits that hold
    on this node of a cluster only (see `local_edits`), which are not carried out in it."""

    services: dict[str, VirtualService] = field(factory=dict, eq=lambda services: tuple(services.items()))
    running: frozenset[str] = frozenset()
    settings: Settings = DEFAULT_SETTINGS
    local: tuple[Any, ...] = ()

    @classmethod
    def of(cls, services: Iterable[VirtualService], **others: Any) -> Table:
        """Make a table of these services. Raises ServiceExists if two of them have the same ident."""
        services = tuple(services)
        by_ident = _by_ident(services)
        if len(by_ident) != len(services):
            raise ServiceExists("two services have the same ident")
        return cls(by_ident, **others)

    @property
    def drain_timeout(self) -> int:
        """The longest drain timeout of the switch and its services, in seconds."""
        settings = self.settings
        return max(settings.drain_timeout, *(one.settings_from(settings).drain_timeout for one in self), 0)

    def __iter__(self) -> Iterator[VirtualService]:
        return iter(self.services.values())

    def service(self, ident: str) -> VirtualService:
        """Return the service with that ident. Raises NoSuchService."""
        try:
            return self.services[ident]
        except KeyError:
            hint = did_you_mean(ident, self.services)
            raise NoSuchService(f"no service {shorten(ident, 40)}{hint}") from None

    def with_service(self, service: VirtualService) -> Table:
        """Return the table with `service`, which replaces the one with its ident or is appended."""
        return evolve(self, services={**self.services, service.ident: service})

    def without_service(self, ident: str) -> Table:
        left = {known: service for known, service in self.services.items() if known != ident}
        return evolve(self, services=left, running=self.running - {ident})
