"""What the status page and its readers are told, as plain data. Named one by one: what is not named here stays inside.

Settings are not among it, and with them no secret.
"""

from __future__ import annotations

from typing import Any

from ktcpvs.model.latency import BUCKETS
from ktcpvs.system.processes import Usage

_OF_SERVICE = ("ident", "running", "scheduler", "listen", "maxclients", "stats")
_OF_SERVER = ("address", "name", "weight", "maxconn", "stats", "health")
_OF_RULE = ("pattern", "match", "servers")


def summary(stats: dict[str, Any], now: float, started: float, processes: dict[str, Usage | None]) -> dict[str, Any]:
    """stats: the view of that name. now, started: seconds since 1970. processes: name -> what it uses."""
    return {
        "version": stats["version"],
        "time": now,
        "started": started,
        "buckets": list(BUCKETS),
        "processes": [
            {"name": name, "cpu": used.cpu, "memory": used.memory, "descriptors": used.descriptors}
            for name, used in processes.items()
            if used is not None
        ],
        "services": [_service(service) for service in stats["services"]],
    }


def _service(service: dict[str, Any]) -> dict[str, Any]:
    told = _chosen(service, _OF_SERVICE)
    told["servers"] = [_chosen(server, _OF_SERVER) for server in service["servers"]]
    told["rules"] = [_chosen(rule, _OF_RULE) for rule in service["rules"]]
    if service["redirect"] is not None:
        told["redirect"] = {"address": service["redirect"], "stats": service["redirect_stats"]}
    return told


def _chosen(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names}
