"""The table: all virtual services, which of them run, and the settings. Immutable; edits make a new one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from attrs import evolve, field, frozen

from ktcpvs.errors import NoSuchService, ServiceExists, shorten
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings


def _by_ident(services: Iterable[VirtualService]) -> dict[str, VirtualService]:
    return {service.ident: service for service in services}


@frozen
class Table:
    """services: ident -> service, in the order in which they were added; never changed in place.
    running: the idents of the services that are started."""

    services: dict[str, VirtualService] = field(factory=dict, eq=lambda services: tuple(services.items()))
    running: frozenset[str] = frozenset()
    settings: Settings = field(factory=Settings)

    @classmethod
    def of(cls, services: Iterable[VirtualService], **others: Any) -> Table:
        """A table of these services. Raises ServiceExists when two have one ident."""
        services = tuple(services)
        by_ident = _by_ident(services)
        if len(by_ident) != len(services):
            raise ServiceExists("two services have one ident")
        return cls(by_ident, **others)

    def __iter__(self) -> Iterator[VirtualService]:
        return iter(self.services.values())

    def service(self, ident: str) -> VirtualService:
        """The service of that ident. Raises NoSuchService."""
        try:
            return self.services[ident]
        except KeyError:
            near = get_close_matches(ident, self.services, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise NoSuchService(f"no service {shorten(ident, 40)}{hint}") from None

    def with_service(self, service: VirtualService) -> Table:
        """The table with `service`, in the place of the one with its ident or at the end."""
        return evolve(self, services={**self.services, service.ident: service})

    def without_service(self, ident: str) -> Table:
        left = {known: service for known, service in self.services.items() if known != ident}
        return evolve(self, services=left, running=self.running - {ident})
