"""The data of the status page and the metrics.

Only the fields that are named here are published: no settings, and so no secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict

from ktcpvs.model.latency import BUCKETS
from ktcpvs.model.rule import MAX_LABEL
from ktcpvs.model.unserved import label_of
from ktcpvs.system.processes import Usage

_OF_SERVICE = (
    "ident",
    "running",
    "here",
    "on",
    "scheduler",
    "fallback",
    "unit",
    "listen",
    "listeners",
    "maxclients",
    "stats",
)
_OF_SERVER = (
    "address",
    "name",
    "weight",
    "maxconn",
    "max_pending",
    "priority",
    "labels",
    "stats",
    "health",
    "last_error",
)
_OF_RULE = ("pattern", "match", "name", "servers", "weights", "action", "modifiers")
_OF_CLUSTER = ("node", "connected", "problem", "revision", "applied", "requests")
_OF_NODE = ("node", "state", "drain", "revision", "version", "connections", "since", "errors")
_OF_CERTIFICATE = (
    "use",
    "file",
    "names",
    "subject",
    "issuer",
    "kind",
    "not_after",
    "services",
    "error",
    "warning",
    "acme",
)


def summarize(
    stats: dict[str, Any],
    certificates: list[dict[str, Any]],
    now: float,
    started: float,
    processes: dict[str, Usage | None],
    nodes: dict[str, Any] | None = None,
    workers: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Return the data as one snapshot.

    stats, certificates: the views of these names. now, started: seconds since 1970. processes: name -> usage. nodes:
    the view of this name; None: this daemon is in no cluster. workers: see Switch.worker_counts in
    ktcpvs.status.server; None: one process serves.
    """
    return {
        "version": stats["version"],
        "time": now,
        "started": started,
        "buckets": list(BUCKETS),
        "trial": stats["trial"],
        "processes": [{"name": name, **asdict(used)} for name, used in processes.items() if used is not None],
        "workers": workers,
        "certificates": [_select(certificate, _OF_CERTIFICATE) for certificate in certificates],
        "cluster": _summarize_cluster(nodes) if nodes is not None else None,
        "traces": stats.get("traces", {}),
        "services": [_summarize_service(service) for service in stats["services"]],
    }


def _summarize_cluster(nodes: dict[str, Any]) -> dict[str, Any]:
    data = _select(nodes, _OF_CLUSTER)
    data["nodes"] = [{name: node.get(name) for name in _OF_NODE} for node in nodes["nodes"]]
    return data


def _summarize_service(service: dict[str, Any]) -> dict[str, Any]:
    data = _select(service, _OF_SERVICE)
    data["servers"] = [_select(server, _OF_SERVER) for server in service["servers"] if service["here"]]
    data["rules"] = [_summarize_rule(rule) for rule in service["rules"]]
    if service["redirect"] is not None and service["here"]:
        data["redirect"] = {"address": service["redirect"], "stats": service["redirect_stats"]}
    return data


def _summarize_rule(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule, with its label in the counts of its service: `stats.rules` and `stats.responses`."""
    return _select(rule, _OF_RULE) | {"label": label_of(rule, MAX_LABEL)}


def _select(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names}
