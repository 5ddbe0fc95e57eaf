"""What --rebalance does and says: a service's connections move off servers with more than their share."""

from __future__ import annotations

from typing import Any

from ktcpvs.errors import BadValue
from ktcpvs.model.rebalancing import check_percent
from ktcpvs.services.director import Director
from ktcpvs.services.rebalancing import UNLEVELLED


def check_rebalance(director: Director, ident: str, percent: int) -> None:
    """Check the arguments of `rebalance`. Raises NoSuchService or BadValue."""
    check_percent(percent)
    service = director.expanded.service(ident)
    if ident not in director.expanded.running:
        raise BadValue(f"service {ident} does not run here, so no connection can move")
    if service.scheduler_name in UNLEVELLED:
        raise BadValue(
            f"service {ident}: scheduler {service.scheduler_name} fills one server before the next, so no server has a "
            "share; use one such as wlc"
        )


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
