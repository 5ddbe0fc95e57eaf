"""Finds what needs an administrator's attention in the data of the status page: servers, certificates, nodes, workers.

The page adds what only a comparison of two updates shows, such as the share of errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from ktcpvs.model.health import DOWN, EJECTED, UNRESOLVED, UP
from ktcpvs.model.service import NO_FALLBACK
from ktcpvs.model.unserved import USABLE, label_of, unserved_rows

CRITICAL, WARNING = "critical", "warning"
"""Severities. CRITICAL: clients are not served, or soon will not be."""

MAX_TROUBLE = 200
"""The most rows that are returned; the gravest come first."""

MAX_SERVERS_NAMED = 3
"""Servers of one service in the same state that get a row each; more of them share one row."""

MAX_RULES_NAMED = 3
"""Rules of one service without a server that get a row each."""

MAX_FAILURES = 5
"""Connections or requests in a row that a server may fail without being reported, while it counts as up."""

MAX_DESCRIPTOR_SHARE = 0.9
"""The share of its file descriptors from which on a process is short of them."""

RESTART_ATTENTION = 300.0
"""Seconds for which the restart of a worker is reported."""

_VERBS = {
    DOWN: ("is down", "are down"),
    EJECTED: ("is ejected", "are ejected"),
    UNRESOLVED: ("is not resolved", "are not resolved"),
}

Row = dict[str, Any]
"""kind: of the trouble, for programs. severity: CRITICAL or WARNING. text: one sentence, without the service. service,
server, node: what is concerned, or None. since: seconds since 1970; None: not known."""


def find_trouble(snapshot: dict[str, Any]) -> tuple[list[Row], int]:
    """Return the rows about a snapshot of `summarize`, the gravest first, and the number of those that are left out."""
    rows = [*_of_switch(snapshot), *_of_certificates(snapshot)]
    if snapshot["cluster"] is not None:
        rows += _of_cluster(snapshot["cluster"])
    for service in snapshot["services"]:
        if service["running"] and service["here"]:
            rows += _of_service(service)
    rows.sort(key=itemgetter("severity"))  # CRITICAL comes first
    return rows[:MAX_TROUBLE], max(len(rows) - MAX_TROUBLE, 0)


def _row(kind: str, severity: str, text: str, **concerned: Any) -> Row:
    return {
        "kind": kind,
        "severity": severity,
        "text": text,
        **dict.fromkeys(("service", "server", "node", "since")),
        **concerned,
    }


def _of_switch(snapshot: dict[str, Any]) -> Iterator[Row]:
    if snapshot["trial"] is not None:
        text = f"the table is on trial: it is undone in {snapshot['trial']} s unless 'tcpvsadm --confirm' is run"
        yield _row("trial", WARNING, text)
    for process in snapshot["processes"]:
        limit = process["max_descriptors"]
        if limit is not None and process["descriptors"] >= limit * MAX_DESCRIPTOR_SHARE:
            text = f"process '{process['name']}' has {process['descriptors']} of {limit} file descriptors open"
            yield _row("descriptors", WARNING, text)
    workers = snapshot["workers"]
    if workers is not None:
        recent = workers["since_restart"] is not None and workers["since_restart"] < RESTART_ATTENTION
        if workers["ready"] < workers["configured"]:
            severity = WARNING if workers["ready"] else CRITICAL
            yield _row("workers", severity, f"{workers['ready']} of {workers['configured']} workers serve")
        elif recent:
            text = f"a worker has ended and was replaced; {workers['restarts']} since the start: see the log"
            yield _row("restart", WARNING, text, since=snapshot["time"] - workers["since_restart"])


def _of_certificates(snapshot: dict[str, Any]) -> Iterator[Row]:
    seen = set()
    for one in snapshot["certificates"]:
        has_expired = one["not_after"] is not None and one["not_after"] <= snapshot["time"]
        has_failed = one["acme"] is not None and one["acme"]["error"]  # which is why it is self-signed, or old
        for kind, text in (("certificate_stale", one["error"]), ("certificate", "" if has_failed else one["warning"])):
            if text and (kind, text) not in seen:
                seen.add((kind, text))
                service = one["services"][0] if len(one["services"]) == 1 else None
                is_grave = kind == "certificate" and has_expired
                yield _row(kind, CRITICAL if is_grave else WARNING, text, service=service)
        yield from _of_order(one, has_expired)


def _of_order(certificate: Row, has_expired: bool) -> Iterator[Row]:
    """The failed order of a certificate that the switch obtains from a CA. Clients do not trust one that is self-signed
    until then."""
    order = certificate["acme"]
    if order is None or not order["error"]:
        return
    service = certificate["services"][0] if len(certificate["services"]) == 1 else None
    is_trusted = not has_expired and certificate["issuer"] != certificate["subject"]
    often = f" {order['failures']} times" if order["failures"] > 1 else ""
    text = f"the certificate for {', '.join(order['names'])} could not be obtained{often}: {order['error']}"
    yield _row("certificate_order", WARNING if is_trusted else CRITICAL, text, service=service)


def _of_cluster(cluster: dict[str, Any]) -> Iterator[Row]:
    if not cluster["connected"]:
        why = cluster["problem"] or "it does not reach etcd"
        yield _row("cluster", CRITICAL, f"this node does not follow the cluster: {why}", node=cluster["node"])
    for node in cluster["nodes"]:
        name, state, errors = node["node"], node["state"], "; ".join(node["errors"])
        if state == "gone":
            text = "is gone: it does not report to etcd any more"
        elif state == "behind":
            text = f"is behind: it runs revision {node['revision']}, the table is at {cluster['revision']}"
        elif errors:
            text = f"cannot be read: {errors}" if state == "unknown" else f"could not carry out the table: {errors}"
        else:
            continue
        yield _row("node", WARNING, f"node {name} {text}", node=name, since=None)


def _of_service(service: dict[str, Any]) -> Iterator[Row]:
    ident, stats = service["ident"], service["stats"]
    if stats["paused_listeners"]:
        yield _row("no_descriptors", CRITICAL, "accepts no clients: no file descriptors are free", service=ident)
    if stats["waiting_streams"]:
        text = f"{stats['waiting_streams']} requests of HTTP/2 wait for a file descriptor"
        yield _row("no_descriptors", WARNING, text, service=ident)
    if 0 < service["maxclients"] <= stats["active"]:
        text = f"is full: {stats['active']} of {service['maxclients']} clients (maxclients); further ones wait"
        yield _row("service_full", WARNING, text, service=ident)
    if stats["scheduler_failing"]:
        has_none, count = service["fallback"] == NO_FALLBACK, stats["scheduler_failures"]
        often = {0: "", 1: ", once so far"}.get(count, f", {count} times so far")  # a missing one: before the first
        instead = "there is no fallback" if has_none else f"the fallback {service['fallback']} chooses"
        text = f"scheduler {service['scheduler']} fails{often}: {instead}; see the log"
        yield _row("scheduler_failing", CRITICAL if has_none else WARNING, text, service=ident)
    servers = service["servers"]
    states = [server["health"]["state"] for server in servers]
    is_unusable = bool(servers) and USABLE.isdisjoint(states)
    if is_unusable:
        instead = ": clients are sent to the redirect address" if "redirect" in service else ""
        yield _row("no_servers", CRITICAL, f"has no server that can be used{instead}", service=ident)
    yield from _of_rules(service)
    for state in (DOWN, EJECTED, UNRESOLVED):
        severity = CRITICAL if is_unusable and state == DOWN else WARNING
        found = [server for server, own in zip(servers, states, strict=True) if own == state]
        yield from _of_servers(f"server_{state}", severity, ident, found, _VERBS[state])
    failing = [server for server, own in zip(servers, states, strict=True) if own == UP and _failures(server)]
    for server in failing[:MAX_SERVERS_NAMED]:
        error = server["last_error"]
        text = f"{_name(server)} has failed {error['in_a_row']} times in a row: {error['reason']}"
        yield _row("server_failing", WARNING, text, service=ident, server=server["address"])
    if len(failing) > MAX_SERVERS_NAMED:
        text = f"{len(failing) - MAX_SERVERS_NAMED} more servers have failed several times in a row"
        yield _row("server_failing", WARNING, text, service=ident)
    full = [server for server in servers if 0 < server["maxconn"] <= server["stats"]["active"]]
    for server in full[:MAX_SERVERS_NAMED]:
        text = f"{_name(server)} is full: {server['stats']['active']} of {server['maxconn']} (maxconn)"
        yield _row("server_full", WARNING, text, service=ident, server=server["address"])
    if len(full) > MAX_SERVERS_NAMED:
        text = f"{len(full) - MAX_SERVERS_NAMED} more servers are full"
        yield _row("server_full", WARNING, text, service=ident)
    if stats["queued"]:
        yield _row("queue", WARNING, f"{stats['queued']} clients wait for a server with room", service=ident)


def _of_rules(service: dict[str, Any]) -> Iterator[Row]:
    """The rules none of whose servers can be used."""
    rows = unserved_rows(service)
    for severity, is_all in ((CRITICAL, True), (WARNING, False)):
        found = [rule for rule, takes_all in rows if takes_all is is_all]
        for rule in found[:MAX_RULES_NAMED]:
            text = f"rule '{label_of(rule)}' has no server that can be used: what it takes is refused"
            yield _row("rule_without_servers", severity, text, service=service["ident"])
        if len(found) > MAX_RULES_NAMED:
            text = f"{len(found) - MAX_RULES_NAMED} more rules have no server that can be used"
            yield _row("rule_without_servers", severity, text, service=service["ident"])


def _of_servers(
    kind: str, severity: str, ident: str, servers: list[dict[str, Any]], verbs: tuple[str, str]
) -> Iterator[Row]:
    if len(servers) > MAX_SERVERS_NAMED:
        first = min(servers, key=lambda server: server["health"]["since"])
        text = f"{len(servers)} servers {verbs[1]}, {_name(first)} first{_reason(first)}"
        yield _row(kind, severity, text, service=ident, since=first["health"]["since"] or None)
        return
    for server in servers:
        text = f"{_name(server)} {verbs[0]}{_reason(server)}"
        since = server["health"]["since"] or None
        yield _row(kind, severity, text, service=ident, server=server["address"], since=since)


def _failures(server: dict[str, Any]) -> bool:
    """Whether the server has failed too often in a row to be fine."""
    return server["last_error"] is not None and server["last_error"]["in_a_row"] >= MAX_FAILURES


def _name(server: dict[str, Any]) -> str:
    return f"{server['name']} ({server['address']})" if server["name"] else str(server["address"])


def _reason(server: dict[str, Any]) -> str:
    return f": {server['health']['reason']}" if server["health"]["reason"] else ""
