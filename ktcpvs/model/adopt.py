"""The edit by which a node of a cluster takes over what another node has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import evolve, frozen

from ktcpvs.model.edits import Edit
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table


@frozen
class Adopt(Edit):
    """Replace some services, as a whole. No administrator asks for it.

    services: ident -> the service as it is from now on; None: it is deleted. running: those of them that run. settings:
    None: unchanged. order: of all services; those that it does not name come last, in their order until now. local: the
    edits that hold on this node only; None: unchanged.
    """

    name: ClassVar[str] = "adopt"
    services: Mapping[str, VirtualService | None]
    running: frozenset[str] = frozenset()
    settings: Settings | None = None
    order: tuple[str, ...] = ()
    local: tuple[Any, ...] | None = None

    @classmethod
    def between(cls, old: Table, new: Table) -> Adopt | None:
        """Return the edit that turns `old` into `new`; None: they are equal."""
        changed: dict[str, VirtualService | None] = {ident: None for ident in old.services if ident not in new.services}
        for service in new:
            ident = service.ident
            if (ident in old.running) != (ident in new.running) or old.services.get(ident) != service:
                changed[ident] = service
        settings = new.settings if new.settings != old.settings else None
        adopt = cls(changed, new.running.intersection(changed), settings)
        if list(adopt.apply(old).services) != list(new.services):
            adopt = evolve(adopt, order=tuple(new.services))
        if new.local != old.local:
            adopt = evolve(adopt, local=new.local)
        return adopt if changed or settings is not None or adopt.order or adopt.local is not None else None

    def reusing(self, table: Table) -> Adopt:
        """Return the same edit with the rules of `table`, where it has equal ones: see `with_known_rules`."""
        services = {
            ident: service and with_known_rules(service, table.services.get(ident))
            for ident, service in self.services.items()
        }
        return evolve(self, services=services)

    def restricted_to(self, idents: frozenset[str]) -> Adopt:
        """Return the part about some services, without the settings and the local edits."""
        some = {ident: service for ident, service in self.services.items() if ident in idents}
        return Adopt(some, self.running.intersection(some), None, self.order)

    def apply(self, table: Table) -> Table:
        services = dict(table.services)
        for ident, service in self.services.items():
            if service is None:
                services.pop(ident, None)
            else:
                services[ident] = service
        if self.order:
            services = {ident: services[ident] for ident in (*self.order, *services) if ident in services}
        running = table.running.difference(self.services).union(self.running).intersection(services)
        local = table.local if self.local is None else self.local
        return Table(services, running, self.settings or table.settings, local)


def with_known_rules(service: VirtualService, before: VirtualService | None) -> VirtualService:
    """Return a service with the rules of the one before in place of equal ones, which need not be bound again. before:
    None: there was none."""
    if before is None or not before.rules:
        return service
    known = {rule: rule for rule in before.rules}
    return evolve(service, rules=tuple([known.get(rule, rule) for rule in service.rules]))
