"""The lines that a daemon logs when it begins to serve: its services, where they listen, and its certificates."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ktcpvs.director.director import Director
from ktcpvs.inspect.certificates import describe_certificates
from ktcpvs.model.service import AUTO
from ktcpvs.model.table import Table
from ktcpvs.services.running import RunningService
from ktcpvs.system.log import ANNOUNCE, EventLog

MAX_SERVICES = 20
"""The most services that have a line of their own."""


def log_start(director: Director, *, is_kept: bool = True) -> None:
    """Write a line for each of the first services, and one about the others. is_kept: False where the next start knows
    nothing of the table."""
    log: EventLog = director.context.log
    for line in start_lines(director, is_kept=is_kept):
        log.event(ANNOUNCE, "{line}", line=line)


def log_serving(log: EventLog, workers: int) -> None:
    """Write that clients are served from now on. workers: the number of processes that serve; 0: this process serves.

    For workers that is later than `log_start`: they take seconds to start, while clients wait in the backlog.
    """
    log.event(ANNOUNCE, "{line}", line=serving_line(workers))


def serving_line(workers: int) -> str:
    """Return the line of `log_serving`."""
    if not workers:
        return "this process serves, without workers"
    return f"{workers} workers serve" if workers > 1 else "1 worker serves"


def start_lines(director: Director, *, is_kept: bool = True) -> Iterator[str]:
    """Yield the lines of `log_start`."""
    table, expanded = director.effective, director.expanded
    shown = list(director.services.values())[:MAX_SERVICES]
    for live in shown:
        yield describe_service(live)
    if left := len(director.services) - len(shown):
        yield f"{left} more services listen; 'tcpvsadm --list' shows them all"
    yield from _stopped_lines(table, expanded)
    yield from certificate_lines(director)
    if not is_kept:
        yield "changes are not kept: no --state; 'ktcpvs --state FILE' has them at its next start"


def describe_service(live: RunningService) -> str:
    """Return "service web listens on 127.0.0.1:8080 (wlc, 3 servers; relay splice: for bulk)"."""
    config, relay = live.config, live.traffic.relay
    where = ", ".join(f"{listener.address}{' with TLS' if listener.is_tls else ''}" for listener in config.listen)
    count = f"{len(config.servers)} server{'' if len(config.servers) == 1 else 's'}"
    why = relay.reason or ("chosen by auto" if config.relay == AUTO else "as configured")
    if relay.waits_for_bulk and not relay.reason:
        why += ", for connections with much at once"
    return f"service {live.ident} listens on {where} ({config.scheduler_name}, {count}; relay {relay.engine}: {why})"


def _stopped_lines(table: Table, expanded: Table) -> Iterator[str]:
    """Yield a line about services that are stopped, and one about those that only other nodes run."""
    elsewhere = [ident for ident in table.services if ident in table.running - expanded.running]
    stopped = [ident for ident in table.services if ident not in table.running]
    for names, begin, end in (
        (stopped, "stopped", "; 'tcpvsadm --start -i ID' starts one"),
        (elsewhere, "running on other nodes only", ""),
    ):
        if names:
            more = f" and {len(names) - MAX_SERVICES} more" if len(names) > MAX_SERVICES else ""
            yield f"{begin}: {', '.join(names[:MAX_SERVICES])}{more}{end}"
    if not table.services:
        yield "the table has no services: 'tcpvsadm -f FILE --start' loads some"


def certificate_lines(director: Director) -> Iterator[str]:
    """Yield a line with the number of certificates and the one that expires first, if there are any."""
    rows = [row for row in describe_certificates(director, None) if row["not_after"] is not None]
    if not rows:
        return
    waiting = [row for row in rows if row["acme"] is not None and row["issuer"] == row["subject"]]
    for row in waiting[:MAX_SERVICES]:
        yield (f"{', '.join(row['names'][:3])} ({row['file']}): self-signed until the CA has issued a certificate")
    rows = [row for row in rows if row not in waiting]
    if not rows:
        return
    first = min(rows, key=lambda row: row["not_after"])
    names = ", ".join(first["names"][:3]) or first["subject"] or first["kind"]
    when = time.strftime("%Y-%m-%d", time.gmtime(first["not_after"]))
    count = f"{len(rows)} certificate{'' if len(rows) == 1 else 's'}"
    yield f"{count}; the first to expire is {names} ({first['file']}) on {when}"
