"""Moves connections of a service off servers with more than their share, and reports what moves: --rebalance."""

from __future__ import annotations

from typing import Any

from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue
from ktcpvs.interfaces import USES_BALANCE, IUsesOptions
from ktcpvs.model.rebalancing import check_percent
from ktcpvs.model.scheduler_words import name_of
from ktcpvs.model.service import VirtualService
from ktcpvs.services.rebalancing import UNLEVELLED


def check_rebalance(director: Director, ident: str, percent: int) -> None:
    """Check the arguments of `rebalance`. Raises NoSuchService or BadValue."""
    check_percent(percent)
    service = director.expanded.service(ident)
    if ident not in director.expanded.running:
        raise BadValue(f"service {ident} does not run here, so no connection can move")
    choosers = _choosers(director, service)
    if choosers.issubset(UNLEVELLED):
        raise BadValue(
            f"service {ident}: scheduler {min(choosers)} fills one server before the next, so no server has a share; "
            "use one such as wlc"
        )


def _choosers(director: Director, service: VirtualService) -> set[str]:
    """Return the names of the schedulers that choose among the servers of a service, or of its rules."""
    scheduler: Any = director.schedulers().named(service.scheduler_name)
    if not (IUsesOptions.providedBy(scheduler) and USES_BALANCE in scheduler.uses):
        return {service.scheduler_name}
    texts = {rule.modifiers.balance or service.balance for rule in service.rules} or {service.balance}
    return {name_of(text) for text in texts}


def rebalance(director: Director, ident: str, percent: int, resets: bool) -> dict[str, Any]:
    """Begin to move connections of a service of this process. Return what moves, as plain data.

    percent: the most of a server's connections. resets: also reset those that have no other way. Raises NoSuchService
    or BadValue.
    """
    check_rebalance(director, ident, percent)
    live = director.services[ident]
    moves = live.rebalancing.begin(percent, resets)
    return {
        "service": ident,
        "percent": percent,
        "seconds": live.config.settings_from(director.context.settings).drain_spread,
        "servers": [
            {
                "address": str(server.address),
                "name": server.name,
                "active": row.active,
                "over": row.over,
                "moving": row.moving,
                "held": row.held,
                "uncloseable": row.uncloseable,
            }
            for server, row in sorted(moves.items(), key=lambda pair: str(pair[0].address))
        ],
    }
