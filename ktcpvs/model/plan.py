"""The plan for a change of the table: the services to start, change and stop. The director carries it out."""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen

from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table


@frozen
class Plan:
    """The services that a changed table starts, changes and stops. start: services to start. change: (old, new) of
    services that keep running with another configuration. stop: services to stop. settings: whether any setting
    differs."""

    start: tuple[VirtualService, ...]
    change: tuple[tuple[VirtualService, VirtualService], ...]
    stop: tuple[VirtualService, ...]
    settings: bool


def plan(old: Table, new: Table, is_rekeyed: bool = False, rebound: Collection[str] = ()) -> Plan:
    """Return the plan that turns `old` into `new`. is_rekeyed: the secret for cookies changes, although it is no
    setting. rebound: services that change although their configuration does not."""
    rekeyed = is_rekeyed or old.settings.cookie_key != new.settings.cookie_key
    started, stopped = new.running - old.running, old.running - new.running
    return Plan(
        start=tuple(new.services[ident] for ident in new.services if ident in started),
        change=tuple(
            (old.services[ident], new.services[ident])
            for ident in new.services
            if ident in new.running
            and ident in old.running
            and (rekeyed or ident in rebound or old.services[ident] is not new.services[ident])
            and (rekeyed or ident in rebound or old.services[ident] != new.services[ident])
        ),
        stop=tuple(old.services[ident] for ident in old.services if ident in stopped),
        settings=old.settings != new.settings,
    )
