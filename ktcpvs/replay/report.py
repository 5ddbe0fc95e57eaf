"""The result of a replay as text for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from ktcpvs.control.tcpvsadm.columns import align, wrap
from ktcpvs.control.tcpvsadm.output import escape, format_duration
from ktcpvs.replay.outcomes import Outcomes
from ktcpvs.replay.replay import Replayed
from ktcpvs.simulation.durations import Durations
from ktcpvs.simulation.moves import Moves

MAX_OTHER_SERVERS = 20
"""The most servers of the log that are listed although the configuration does not have them."""


def format_text(replayed: Replayed, width: int = 0) -> str:
    """Return the report as text. width: the most columns of a line; 0: no limit."""
    happened, simulated = replayed.happened, replayed.simulated
    rows: list[Sequence[str]] = [
        ("", "before", "", "", "", "replay", "", "", "", ""),
        ("server", "share", "p50", "p99", "failed", "share", "p50", "p99", "failed", "most"),
    ]
    others = [server for server in happened.counts if server not in replayed.servers]
    for server in (*replayed.servers, *others[:MAX_OTHER_SERVERS]):
        most = str(replayed.peaks[server]) if server in replayed.peaks else ""
        rows.append((escape(server), *_cells(happened, server), *_cells(simulated, server), most))
    rows.append(("all", *_all_cells(happened), *_all_cells(simulated), ""))
    return "".join(
        [
            *_wrapped(_heading(replayed), width),
            "\n",
            align(rows, "<>>>>>>>>>", width),
            "\n",
            *_wrapped(_remarks(replayed), width),
        ]
    )


def _wrapped(lines: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines of at most `width` columns, with their ends."""
    for line in lines:
        yield from (f"{part}\n" for part in (wrap(line, width) if width else (line,)))


def _heading(replayed: Replayed) -> list[str]:
    log, balance = replayed.log, ""
    if replayed.rules:
        balance = f", balance {replayed.balance}"
    name = "standard input" if log.name == "-" else log.name
    lines = [
        f"{replayed.simulated.requests} requests of {escape(name)}, {_time(replayed.began)} to {_time(replayed.ended)}",
        f"before: as it happened; replay: service {replayed.service}, scheduler {replayed.scheduler}{balance}",
        "times in ms; most: requests that a server had at once",
    ]
    if log.malformed and log.first_malformed is not None:
        number, why = log.first_malformed
        lines.append(f"malformed lines: {log.malformed}, the first is line {number}: {escape(why)}")
    lines += [f"lines passed over: {count} {why}" for why, count in replayed.skipped.items()]
    return lines


def _cells(outcomes: Outcomes, server: str) -> tuple[str, ...]:
    count, answered = outcomes.counts.get(server, 0), sum(outcomes.counts.values())
    durations = outcomes.servers.get(server)
    share = f"{count / answered:.1%}" if answered and count else "-"
    return share, *_times(durations), str(outcomes.failures.get(server, 0))


def _all_cells(outcomes: Outcomes) -> tuple[str, ...]:
    share = "100.0%" if outcomes.counts else "-"
    return share, *_times(outcomes.durations), str(outcomes.errors)


def _times(durations: Durations | None) -> tuple[str, str]:
    if durations is None:
        return "-", "-"
    return _milliseconds(durations.p50), _milliseconds(durations.p99)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _remarks(replayed: Replayed) -> list[str]:
    happened, simulated, waits = replayed.happened, replayed.simulated, replayed.waits
    lines = []
    if replayed.queued:
        longest = f", the longest {format_duration(waits.longest)}" if waits.count else ""
        lines.append(f"queued for room at a server: {replayed.queued} requests{longest}")
    else:
        lines.append("queued for room at a server: none")
    if replayed.retries:
        lines.append(f"sent to another server after one had failed: {replayed.retries} times")
    before = _moves(happened.moves) if happened.counts else "unknown"
    lines.append(
        f"requests at another server than the client's last: before {before}, replay {_moves(simulated.moves)}"
    )
    idle = [label for label, hits in replayed.rules.items() if not hits and not _is_unseen(label, replayed.unseen)]
    lines += [f"rule {escape(label)}: no request" for label in idle]
    lines += [f"rule '{escape(label)}': it looks at what a log does not have" for label in replayed.unseen]
    lines += [f"fault: {escape(fault)}" for fault in replayed.faults]
    if not happened.durations.count:
        lines.append("the log has no times: each request takes that of --seconds, and p50 and p99 say little")
    return lines


def _is_unseen(label: str, unseen: Sequence[str]) -> bool:
    return any(label.partition(" ")[2] == f"'{one}'" for one in unseen)


def _moves(moves: Moves) -> str:
    return f"{moves.moves / moves.repeats:.1%}" if moves.repeats else "none"


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def as_json(replayed: Replayed) -> dict[str, Any]:
    """Return the report as values of JSON. Times are seconds."""
    log, waits = replayed.log, replayed.waits
    others = [server for server in replayed.happened.counts if server not in replayed.servers]
    return {
        "log": log.name,
        "service": replayed.service,
        "scheduler": replayed.scheduler,
        "balance": replayed.balance,
        "began": _iso(replayed.began),
        "ended": _iso(replayed.ended),
        "lines": log.lines,
        "malformed": log.malformed,
        "first_malformed": None if log.first_malformed is None else list(log.first_malformed),
        "passed_over": replayed.skipped,
        "servers": [
            {
                "address": server,
                "configured": server in replayed.peaks,
                "happened": _server(replayed.happened, server),
                "replayed": {**_server(replayed.simulated, server), "most": replayed.peaks.get(server, 0)},
            }
            for server in (*replayed.servers, *others)
        ],
        "happened": _outcomes(replayed.happened),
        "replayed": {
            **_outcomes(replayed.simulated),
            "queued": replayed.queued,
            "queue_p50": _seconds(waits.p50),
            "queue_p99": _seconds(waits.p99),
            "queue_longest": _seconds(waits.longest),
            "retries": replayed.retries,
        },
        "rules": [
            {"rule": label, "requests": hits, "seen": not _is_unseen(label, replayed.unseen)}
            for label, hits in replayed.rules.items()
        ],
        "faults": list(replayed.faults),
    }


def _server(outcomes: Outcomes, server: str) -> dict[str, Any]:
    durations = outcomes.servers.get(server, Durations())
    return {
        "requests": outcomes.counts.get(server, 0),
        "failures": outcomes.failures.get(server, 0),
        "p50": _seconds(durations.p50),
        "p99": _seconds(durations.p99),
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _outcomes(outcomes: Outcomes) -> dict[str, Any]:
    durations, moves = outcomes.durations, outcomes.moves
    return {
        "requests": outcomes.requests,
        "errors": outcomes.errors,
        "p50": _seconds(durations.p50),
        "p99": _seconds(durations.p99),
        "repeats": moves.repeats,
        "moves": moves.moves,
        "clients": moves.keys,
        "moved_clients": moves.moved_keys,
    }


def _iso(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}Z"
