"""The status for Prometheus, in its text format (version 0.0.4).

Each snapshot writes all series, so a deleted service or server has none. A library of metric objects is not used: for
9,000 servers, 34 MB of text, it takes seven seconds instead of half a second, and holds the interpreter meanwhile.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATES = ("up", "down", "ejected", "draining", "standby", "maintenance")

GAUGE, COUNTER = "gauge", "counter"

_OF_SERVICE = (
    ("active", GAUGE, "active_connections", "Open client connections."),
    ("queued", GAUGE, "queued_connections", "Clients that wait for a server below its maxconn."),
    ("total", COUNTER, "connections_total", "Client connections accepted."),
    ("denied", COUNTER, "denied_total", "Clients rejected by the allow and deny lists."),
    ("limited", COUNTER, "limited_total", "Clients and requests rejected by the limits per client."),
    ("handshake_pauses", COUNTER, "handshake_pauses_total", "How often max_handshakes has stopped a listener."),
    ("http2_glitches", COUNTER, "http2_glitches_total", "Frames of HTTP/2 clients that ask for nothing."),
    ("http2_floods", COUNTER, "http2_floods_total", "HTTP/2 connections ended because of too many such frames."),
    ("bytes_in", COUNTER, "received_bytes_total", "Bytes from clients."),
    ("bytes_out", COUNTER, "sent_bytes_total", "Bytes to clients."),
)
_OF_SERVER = (
    ("active", GAUGE, "active_connections", "Open connections of the server (or requests, where each is scheduled)."),
    ("kept", GAUGE, "idle_connections", "Idle connections that are kept for later requests, or made ahead of clients."),
    ("total", COUNTER, "connections_total", "Connections of the server (or requests, where each is scheduled)."),
    ("failures", COUNTER, "failures_total", "Failed connection attempts, and requests without a response."),
    ("retries", COUNTER, "retries_total", "Connections and requests that were retried after the server had failed."),
    ("reused", COUNTER, "reuses_total", "Requests sent on a kept connection, and clients that got one made ahead."),
    ("bytes_in", COUNTER, "received_bytes_total", "Bytes from clients to the server."),
    ("bytes_out", COUNTER, "sent_bytes_total", "Bytes from the server to clients."),
)
_OF_PROCESS = (
    ("cpu", COUNTER, "cpu_seconds_total", "CPU time of a process of the switch."),
    ("memory", GAUGE, "resident_memory_bytes", "Memory of a process of the switch."),
    ("descriptors", GAUGE, "open_descriptors", "Open file descriptors of a process of the switch."),
)

SAMPLES_PER_PIECE = 100
"""The samples in one piece of the text, approximately."""

_Row = tuple[str, dict[str, Any]]
"""The formatted labels of a server, and its data."""


def format_metrics(snapshot: dict[str, Any]) -> Iterator[bytes]:
    """Format a snapshot of `summarize`, in pieces."""
    services = snapshot["services"]
    version = _format_labels(version=snapshot["version"], python=platform.python_version())
    yield from _format_metric("ktcpvs_build_info", GAUGE, "Version of the running program.", [f"{{{version}}} 1\n"])
    yield from _format_metric(
        "ktcpvs_start_time_seconds",
        GAUGE,
        "Start time of the daemon, in seconds since 1970.",
        [f" {snapshot['started']!r}\n"],
    )
    processes = [(_format_labels(process=process["name"]), process) for process in snapshot["processes"]]
    for name, kind, metric, meaning in _OF_PROCESS:
        samples = (f"{{{labels}}} {process[name]!r}\n" for labels, process in processes)
        yield from _format_metric(f"ktcpvs_process_{metric}", kind, meaning, samples)
    yield from _format_certificates(snapshot["certificates"])
    yield from _format_services(services)
    servers = [
        (_format_labels(service=service["ident"], server=row["address"], role="server"), row)
        for service in services
        for row in service["servers"]
    ]
    redirects = [
        (
            _format_labels(service=service["ident"], server=service["redirect"]["address"], role="redirect"),
            service["redirect"],
        )
        for service in services
        if "redirect" in service
    ]
    yield from _format_configuration(servers)
    yield from _format_counters(servers + redirects, snapshot["buckets"])


def _format_certificates(certificates: list[dict[str, Any]]) -> Iterator[bytes]:
    rows = []
    for one in certificates:
        name = (one["names"] or [one["subject"]])[0]
        labels = _format_labels(file=one["file"], name=name, kind=one["kind"], use=one["use"])
        rows.append((labels, one))
    yield from _format_metric(
        "ktcpvs_certificate_not_after_seconds",
        GAUGE,
        "The end of a certificate's validity, in seconds since 1970.",
        (f"{{{labels}}} {row['not_after']!r}\n" for labels, row in rows if row["not_after"] is not None),
    )
    yield from _format_metric(
        "ktcpvs_certificate_stale",
        GAUGE,
        "1: the newest version of the file cannot be used, and the one before is in use; 0: it is in use.",
        (f"{{{labels}}} {int(bool(row['error']))}\n" for labels, row in rows),
    )


def _format_services(services: list[dict[str, Any]]) -> Iterator[bytes]:
    rows = [(_format_labels(service=service["ident"]), service) for service in services]
    yield from _format_metric(
        "ktcpvs_service_running",
        GAUGE,
        "1: the service runs, 0: it is stopped.",
        (f"{{{labels},{_format_labels(scheduler=row['scheduler'])}}} {int(row['running'])}\n" for labels, row in rows),
    )
    yield from _format_metric(
        "ktcpvs_service_listener",
        GAUGE,
        "1 for each address on which the service listens while it runs.",
        (
            f"{{{labels},{_format_labels(address=one['listen'], tls='on' if one['tls'] else 'off')}}} 1\n"
            for labels, row in rows
            for one in (row["listeners"] if row["running"] else ())
        ),
    )
    yield from _format_metric(
        "ktcpvs_service_refusals_total",
        COUNTER,
        "Requests and connections that the switch refused, by status.",
        (
            f'{{{labels},code="{code}"}} {count}\n'
            for labels, row in rows
            for code, count in row["stats"]["refusals"].items()
        ),
    )
    yield from _format_metric(
        "ktcpvs_service_own_responses_total",
        COUNTER,
        "Responses of rules with an action, by rule and status.",
        (
            f"{{{labels},{_format_labels(rule=rule, code=code)}}} {count}\n"
            for labels, row in rows
            for code, rule, count in _own_responses(row)
        ),
    )
    yield from _format_metric(
        "ktcpvs_service_handshakes_total",
        COUNTER,
        "TLS handshakes of clients, by version and outcome; refused ones have no version.",
        (
            f"{{{labels},{_format_labels(version=version, outcome=outcome)}}} {count}\n"
            for labels, row in rows
            for version, outcome, count in _handshakes(row)
        ),
    )
    yield from _format_metric(
        "ktcpvs_service_preamble_refusals_total",
        COUNTER,
        "Clients refused in the preamble of their connection (TLS, PROXY protocol), by reason.",
        (
            f"{{{labels},{_format_labels(reason=reason)}}} {count}\n"
            for labels, row in rows
            for reason, count in row["stats"]["preambles"].items()
        ),
    )
    yield from _format_metric(
        "ktcpvs_service_relayed_connections_total",
        COUNTER,
        "Connections carried by each relay.",
        (
            f"{{{labels},{_format_labels(relay=relay)}}} {count}\n"
            for labels, row in rows
            for relay, count in (row["stats"]["relay"] or {}).get("joined", {}).items()
        ),
    )
    for name, kind, metric, meaning in _OF_SERVICE:
        samples = (f"{{{labels}}} {row['stats'][name]}\n" for labels, row in rows)
        yield from _format_metric(f"ktcpvs_service_{metric}", kind, meaning, samples)


def _own_responses(row: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(status, label of the rule, number) of a service's own responses."""
    for name, count in row["stats"]["responses"].items():
        code, _, rule = name.partition(" ")
        yield code, rule, count


def _handshakes(row: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(version, outcome, number) of a service's handshakes."""
    for name, count in row["stats"]["handshakes"].items():
        version, _, outcome = name.rpartition(" ")
        yield version, outcome, count


def _format_configuration(rows: Sequence[_Row]) -> Iterator[bytes]:
    for name, metric, meaning in (
        ("weight", "weight", "The configured weight."),
        ("maxconn", "max_connections", "The configured maxconn, 0: no limit."),
        ("priority", "priority", "The configured priority, 0: the first; 100: a backup server."),
    ):
        samples = (f"{{{labels}}} {row[name]}\n" for labels, row in rows)
        yield from _format_metric(f"ktcpvs_server_{metric}", GAUGE, meaning, samples)
    yield from _format_metric(
        "ktcpvs_server_state",
        GAUGE,
        "1 for the current state of the server, 0 for the others.",
        (
            f'{{{labels},state="{state}"}} {int(row["health"]["state"] == state)}\n'
            for labels, row in rows
            for state in STATES
        ),
    )


def _format_counters(rows: Sequence[_Row], buckets: list[float]) -> Iterator[bytes]:
    for name, kind, metric, meaning in _OF_SERVER:
        samples = (f"{{{labels}}} {row['stats'][name]}\n" for labels, row in rows)
        yield from _format_metric(f"ktcpvs_server_{metric}", kind, meaning, samples)
    yield from _format_metric(
        "ktcpvs_server_answers_total",
        COUNTER,
        "Responses, by the class of their status.",
        (
            f'{{{labels},code="{code}"}} {count}\n'
            for labels, row in rows
            for code, count in row["stats"]["answers"].items()
        ),
    )
    bounds = [*map(str, buckets), "+Inf"]
    yield from _format_metric(
        "ktcpvs_server_request_duration_seconds",
        "histogram",
        "Time from a request's head to the end of the response, where each request is scheduled.",
        (sample for labels, row in rows for sample in _format_histogram(labels, row["stats"], bounds)),
    )


def _format_histogram(labels: str, stats: dict[str, Any], bounds: list[str]) -> Iterator[str]:
    seen = 0
    for bound, count in zip(bounds, stats["buckets"], strict=True):
        seen += count
        yield f'_bucket{{{labels},le="{bound}"}} {seen}\n'
    yield f"_count{{{labels}}} {seen}\n"
    yield f"_sum{{{labels}}} {stats['seconds']!r}\n"


def _format_metric(name: str, kind: str, meaning: str, samples: Iterable[str]) -> Iterator[bytes]:
    """Format one metric, in pieces. samples: lines without the name at their beginning."""
    piece = [f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"]
    for sample in samples:
        piece.append(name + sample)
        if len(piece) > SAMPLES_PER_PIECE:
            yield _encode(piece)
            piece = []
    yield _encode(piece)


def _encode(piece: list[str]) -> bytes:
    return "".join(piece).encode("utf-8", "backslashreplace")


def _format_labels(**labels: str) -> str:
    escaped = {
        name: text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for name, text in labels.items()
    }
    return ",".join(f'{name}="{text}"' for name, text in escaped.items())
