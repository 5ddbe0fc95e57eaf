"""The status for Prometheus, in its text format (version 0.0.4). Every snapshot writes all series anew, so a deleted
service or server has none.

Written here and not by a library of metric objects: 9,000 servers are 34 MB of text, which takes half a second this way
and seven that way, with the interpreter held meanwhile.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATES = ("up", "down", "ejected", "draining")

GAUGE, COUNTER = "gauge", "counter"

_OF_SERVICE = (
    ("active", GAUGE, "active_connections", "Client connections now."),
    ("queued", GAUGE, "queued_connections", "Clients that wait for room at a server."),
    ("total", COUNTER, "connections_total", "Client connections accepted."),
    ("denied", COUNTER, "denied_total", "Clients turned away by their address."),
    ("limited", COUNTER, "limited_total", "Clients turned away since they came too often."),
    ("bytes_in", COUNTER, "received_bytes_total", "Bytes from clients."),
    ("bytes_out", COUNTER, "sent_bytes_total", "Bytes to clients."),
)
_OF_SERVER = (
    ("active", GAUGE, "active_connections", "Connections (or requests, one by one) at the server now."),
    ("kept", GAUGE, "idle_connections", "Kept connections that wait for a request."),
    ("total", COUNTER, "connections_total", "Connections (or requests, one by one) that the server was given."),
    ("failures", COUNTER, "failures_total", "Connections that could not be made, and requests not answered."),
    ("retries", COUNTER, "retries_total", "Connections and requests tried again after the server failed them."),
    ("reused", COUNTER, "reuses_total", "Requests that went on a kept connection."),
    ("bytes_in", COUNTER, "received_bytes_total", "Bytes from clients to the server."),
    ("bytes_out", COUNTER, "sent_bytes_total", "Bytes from the server to clients."),
)
_OF_PROCESS = (
    ("cpu", COUNTER, "cpu_seconds_total", "CPU time of a process of the switch."),
    ("memory", GAUGE, "resident_memory_bytes", "Memory of a process of the switch."),
    ("descriptors", GAUGE, "open_descriptors", "Descriptors that a process of the switch has open."),
)

ROWS = 100
"""About so many servers are written in one piece."""

_Row = tuple[str, dict[str, Any]]
"""The labels of a server, written; and what is known of it."""


def exposition(snapshot: dict[str, Any]) -> Iterator[bytes]:
    """The text of a snapshot, in pieces. snapshot: what `summary` makes."""
    services = snapshot["services"]
    version = _labels(version=snapshot["version"], python=platform.python_version())
    yield from _family("ktcpvs_build_info", GAUGE, "The program that runs.", [f"{{{version}}} 1\n"])
    yield from _family(
        "ktcpvs_start_time_seconds", GAUGE, "When it started, since 1970.", [f" {snapshot['started']!r}\n"]
    )
    processes = [(_labels(process=process["name"]), process) for process in snapshot["processes"]]
    for name, kind, metric, meaning in _OF_PROCESS:
        samples = (f"{{{labels}}} {process[name]!r}\n" for labels, process in processes)
        yield from _family(f"ktcpvs_process_{metric}", kind, meaning, samples)
    yield from _services(services)
    servers = [
        (_labels(service=service["ident"], server=row["address"], role="server"), row)
        for service in services
        for row in service["servers"]
    ]
    redirects = [
        (_labels(service=service["ident"], server=service["redirect"]["address"], role="redirect"), service["redirect"])
        for service in services
        if "redirect" in service
    ]
    yield from _configured(servers)
    yield from _counted(servers + redirects, snapshot["buckets"])


def _services(services: list[dict[str, Any]]) -> Iterator[bytes]:
    rows = [(_labels(service=service["ident"]), service) for service in services]
    yield from _family(
        "ktcpvs_service_running",
        GAUGE,
        "1: the service runs, 0: it is stopped.",
        (f"{{{labels},{_labels(scheduler=row['scheduler'])}}} {int(row['running'])}\n" for labels, row in rows),
    )
    yield from _family(
        "ktcpvs_service_refusals_total",
        COUNTER,
        "Requests and connections that the switch refused itself.",
        (
            f'{{{labels},code="{code}"}} {count}\n'
            for labels, row in rows
            for code, count in row["stats"]["refusals"].items()
        ),
    )
    yield from _family(
        "ktcpvs_service_relayed_connections_total",
        COUNTER,
        "Connections that each relay has carried.",
        (
            f"{{{labels},{_labels(relay=relay)}}} {count}\n"
            for labels, row in rows
            for relay, count in (row["stats"]["relay"] or {}).get("joined", {}).items()
        ),
    )
    for name, kind, metric, meaning in _OF_SERVICE:
        samples = (f"{{{labels}}} {row['stats'][name]}\n" for labels, row in rows)
        yield from _family(f"ktcpvs_service_{metric}", kind, meaning, samples)


def _configured(rows: Sequence[_Row]) -> Iterator[bytes]:
    for name, metric, meaning in (
        ("weight", "weight", "The configured weight."),
        ("maxconn", "max_connections", "Most connections at once, 0: no such limit."),
    ):
        samples = (f"{{{labels}}} {row[name]}\n" for labels, row in rows)
        yield from _family(f"ktcpvs_server_{metric}", GAUGE, meaning, samples)
    yield from _family(
        "ktcpvs_server_state",
        GAUGE,
        "1 for the state that the server is in, 0 for the others.",
        (
            f'{{{labels},state="{state}"}} {int(row["health"]["state"] == state)}\n'
            for labels, row in rows
            for state in STATES
        ),
    )


def _counted(rows: Sequence[_Row], buckets: list[float]) -> Iterator[bytes]:
    for name, kind, metric, meaning in _OF_SERVER:
        samples = (f"{{{labels}}} {row['stats'][name]}\n" for labels, row in rows)
        yield from _family(f"ktcpvs_server_{metric}", kind, meaning, samples)
    yield from _family(
        "ktcpvs_server_answers_total",
        COUNTER,
        "Requests answered, by the class of their status.",
        (
            f'{{{labels},code="{code}"}} {count}\n'
            for labels, row in rows
            for code, count in row["stats"]["answers"].items()
        ),
    )
    bounds = [*map(str, buckets), "+Inf"]
    yield from _family(
        "ktcpvs_server_request_duration_seconds",
        "histogram",
        "From a request's head to the end of the answer, where requests are switched one by one.",
        (sample for labels, row in rows for sample in _histogram(labels, row["stats"], bounds)),
    )


def _histogram(labels: str, stats: dict[str, Any], bounds: list[str]) -> Iterator[str]:
    seen = 0
    for bound, count in zip(bounds, stats["buckets"], strict=True):
        seen += count
        yield f'_bucket{{{labels},le="{bound}"}} {seen}\n'
    yield f"_count{{{labels}}} {seen}\n"
    yield f"_sum{{{labels}}} {stats['seconds']!r}\n"


def _family(name: str, kind: str, meaning: str, samples: Iterable[str]) -> Iterator[bytes]:
    """One metric, in pieces. samples: each is a line without the name at its beginning."""
    piece = [f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"]
    for sample in samples:
        piece.append(name + sample)
        if len(piece) > ROWS:
            yield _encoded(piece)
            piece = []
    yield _encoded(piece)


def _encoded(piece: list[str]) -> bytes:
    return "".join(piece).encode("utf-8", "backslashreplace")


def _labels(**labels: str) -> str:
    escaped = {
        name: text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for name, text in labels.items()
    }
    return ",".join(f'{name}="{text}"' for name, text in escaped.items())
