"""The status for Prometheus, in its text format (version 0.0.4).

Each snapshot writes all series, so a deleted service or server has none. A library of metric objects is not used: for
9,000 servers, 34 MB of text, it takes seven seconds instead of half a second, and holds the interpreter meanwhile.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ktcpvs.model.scheduler_words import name_of
from ktcpvs.model.scheduling import EACH_REQUEST
from ktcpvs.model.unserved import unserved_rows

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATES = ("up", "down", "ejected", "draining", "standby", "maintenance", "unresolved", "idle", "starting")

NODE_STATES = ("ok", "behind", "refused", "leaving", "draining", "drained", "gone", "unknown")

MAX_RULES_WITHOUT_SERVERS = 200
"""The most rules of a service that are named as without a server."""

GAUGE, COUNTER = "gauge", "counter"

_OF_SERVICE = (
    ("active", GAUGE, "active_connections", "Open client connections."),
    ("queued", GAUGE, "queued_connections", "Clients that wait for a server below its maxconn."),
    ("rebalancing", GAUGE, "rebalancing_connections", "Connections that --rebalance moves and that have not left yet."),
    ("paused_listeners", GAUGE, "paused_listeners", "Listeners that accept nobody for want of file descriptors."),
    ("waiting_streams", GAUGE, "waiting_streams", "Requests of HTTP/2 that wait for a file descriptor."),
    ("total", COUNTER, "connections_total", "Client connections accepted."),
    ("denied", COUNTER, "denied_total", "Clients rejected by the allow and deny lists."),
    ("limited", COUNTER, "limited_total", "Clients and requests rejected by the limits per client."),
    (
        "choose_overruns",
        COUNTER,
        "choose_overruns_total",
        "Calls of the scheduler that took longer than choose_budget.",
    ),
    (
        "scheduler_failures",
        COUNTER,
        "scheduler_failures_total",
        "How often the scheduler has failed, so that the fallback was asked.",
    ),
    ("handshake_pauses", COUNTER, "handshake_pauses_total", "How often max_handshakes has stopped a listener."),
    ("http2_glitches", COUNTER, "http2_glitches_total", "Frames of HTTP/2 clients that ask for nothing."),
    ("http2_floods", COUNTER, "http2_floods_total", "HTTP/2 connections ended because of too many such frames."),
    ("bytes_in", COUNTER, "received_bytes_total", "Bytes from clients."),
    ("bytes_out", COUNTER, "sent_bytes_total", "Bytes to clients, responses of the switch itself included."),
)
_OF_SERVER = (
    ("active", GAUGE, "active_connections", "Open connections of the server (or requests, where each is scheduled)."),
    (
        "pending",
        GAUGE,
        "waiting_requests",
        "Requests that wait for a full server.",
    ),
    ("kept", GAUGE, "idle_connections", "Idle connections that are kept for later requests, or made ahead of clients."),
    ("total", COUNTER, "connections_total", "Connections of the server (or requests, where each is scheduled)."),
    ("failures", COUNTER, "failures_total", "Failed connection attempts, and requests without a whole response."),
    ("retries", COUNTER, "retries_total", "Connections and requests that were tried again."),
    ("reused", COUNTER, "reuses_total", "Requests sent on a kept connection, and clients that got one made ahead."),
    ("bytes_in", COUNTER, "received_bytes_total", "Bytes from clients to the server."),
    ("bytes_out", COUNTER, "sent_bytes_total", "Bytes from the server to clients."),
)
_OF_PROCESS = (
    ("cpu", COUNTER, "cpu_seconds_total", "CPU time of a process of the switch."),
    ("memory", GAUGE, "resident_memory_bytes", "Memory of a process of the switch."),
    ("descriptors", GAUGE, "open_descriptors", "Open file descriptors of a process of the switch."),
    ("max_descriptors", GAUGE, "max_descriptors", "The most file descriptors that a process of the switch may open."),
)
_OF_WORKERS = (
    ("configured", GAUGE, "workers", "The configured number of worker processes."),
    ("ready", GAUGE, "workers_ready", "Worker processes that serve."),
    ("restarts", COUNTER, "worker_restarts_total", "Worker processes that ended and were replaced."),
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
        samples = (f"{{{labels}}} {process[name]!r}\n" for labels, process in processes if process[name] is not None)
        yield from _format_metric(f"ktcpvs_process_{metric}", kind, meaning, samples)
    yield from _format_trial(snapshot["trial"])
    for name, kind, metric, meaning in _OF_WORKERS if snapshot["workers"] is not None else ():
        yield from _format_metric(f"ktcpvs_{metric}", kind, meaning, [f" {snapshot['workers'][name]!r}\n"])
    yield from _format_certificates(snapshot["certificates"])
    if any(one["acme"] is not None for one in snapshot["certificates"]):
        yield from _format_orders(snapshot["certificates"])
    if snapshot["cluster"] is not None:
        yield from _format_cluster(snapshot["cluster"])
    yield from _format_traces(snapshot["traces"])
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


def _format_trial(seconds_left: int | None) -> Iterator[bytes]:
    is_pending = seconds_left is not None
    for name, meaning, samples in (
        ("pending", "1: the table is on trial and waits for confirmation, 0: it is not.", [f" {int(is_pending)}\n"]),
        (
            "seconds_left",
            "Seconds until the table is undone unless it is confirmed; no sample: it is not on trial.",
            [f" {seconds_left}\n"] * is_pending,
        ),
    ):
        yield from _format_metric(f"ktcpvs_trial_{name}", GAUGE, meaning, samples)


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


def _format_orders(certificates: list[dict[str, Any]]) -> Iterator[bytes]:
    """Format the certificates that the switch obtains from a CA."""
    orders = {" ".join(one["acme"]["names"]): one["acme"] for one in certificates if one["acme"] is not None}
    rows = [(_format_labels(names=names), order) for names, order in orders.items()]
    yield from _format_metric(
        "ktcpvs_certificate_order_failures",
        GAUGE,
        "Attempts to obtain a certificate from a CA that have failed since the last one that succeeded.",
        (f"{{{labels}}} {order['failures']}\n" for labels, order in rows),
    )
    yield from _format_metric(
        "ktcpvs_certificate_next_order_seconds",
        GAUGE,
        "When the certificate is renewed, or ordered again after a failure, in seconds since 1970; 0: now.",
        (f"{{{labels}}} {order['next'] or 0!r}\n" for labels, order in rows),
    )


def _format_traces(traces: dict[str, int]) -> Iterator[bytes]:
    outcomes = ("sent", "rejected", "queue_full", "lost")
    yield from _format_metric(
        "ktcpvs_trace_spans_total",
        COUNTER,
        "Spans, by what became of them; all but sent ones are gone.",
        (f'{{outcome="{outcome}"}} {traces[outcome]}\n' for outcome in outcomes if outcome in traces),
    )
    for name, kind, metric, meaning in (
        ("queued", GAUGE, "queued_spans", "Spans that wait for their collector."),
        ("limited", COUNTER, "limited_requests_total", "Sampled requests without spans, because of trace_limit."),
        ("failures", COUNTER, "export_failures_total", "Requests to collectors that have failed."),
    ):
        samples = [f" {traces[name]}\n"] if name in traces else []
        yield from _format_metric(f"ktcpvs_trace_{metric}", kind, meaning, samples)


def _format_cluster(cluster: dict[str, Any]) -> Iterator[bytes]:
    for name, kind, value, meaning in (
        ("connected", GAUGE, int(cluster["connected"]), "1: this node follows the cluster, 0: it does not reach etcd."),
        ("revision", GAUGE, cluster["revision"], "Revision of the cluster's table in etcd, as this node knows it."),
        ("applied_revision", GAUGE, cluster["applied"], "Revision of the cluster's table that this node runs."),
        ("etcd_requests_total", COUNTER, cluster["requests"]["total"], "Requests to etcd."),
        (
            "etcd_errors_total",
            COUNTER,
            cluster["requests"]["errors"],
            "Requests to etcd that failed or were refused.",
        ),
        ("etcd_request_seconds_total", COUNTER, cluster["requests"]["seconds"], "Time that requests to etcd took."),
    ):
        yield from _format_metric(f"ktcpvs_cluster_{name}", kind, meaning, [f" {value!r}\n"])
    yield from _format_metric(
        "ktcpvs_cluster_node_state",
        GAUGE,
        "1 for the current state of a node, 0 for the others.",
        (
            f"{{{_format_labels(node=node['node'], state=state)}}} {int(node['state'] == state)}\n"
            for node in cluster["nodes"]
            for state in NODE_STATES
        ),
    )


def _format_services(services: list[dict[str, Any]]) -> Iterator[bytes]:
    rows = [(_format_labels(service=service["ident"]), service) for service in services]
    schedulers = [_format_labels(scheduler=name_of(service["scheduler"])) for service in services]
    yield from _format_metric(
        "ktcpvs_service_running",
        GAUGE,
        "1: the service runs on this node, 0: it is stopped, or only other nodes run it.",
        (
            f"{{{labels},{scheduler}}} {int(row['running'] and row['here'])}\n"
            for (labels, row), scheduler in zip(rows, schedulers, strict=True)
        ),
    )
    yield from _format_metric(
        "ktcpvs_service_listener",
        GAUGE,
        "1 for each address on which the service listens while it runs.",
        (
            f"{{{labels},{_format_labels(address=one['listen'], tls='on' if one['tls'] else 'off')}}} 1\n"
            for labels, row in rows
            for one in (row["listeners"] if row["running"] else ())
            if one["here"]
        ),
    )
    for metric, names, meaning, counts in _COUNTS_OF_SERVICE:
        found = (
            f"{{{labels},{_format_labels(**dict(zip(names, values, strict=True)))}}} {count}\n"
            for labels, row in rows
            for values, count in counts(row["stats"])
        )
        yield from _format_metric(f"ktcpvs_service_{metric}_total", COUNTER, meaning, found)
    yield from _format_metric(
        "ktcpvs_service_rule_without_servers",
        GAUGE,
        "1: the rule has no server that can be used. takes: all requests that come to it, or a part of them.",
        (
            f"{{{labels},{_format_labels(rule=label, takes='all' if takes_all else 'part')}}} 1\n"
            for labels, row in rows
            for label, takes_all in _rules_without_servers(row).items()
        ),
    )
    yield from _format_metric(
        "ktcpvs_service_requests_total",
        COUNTER,
        "Requests, where each is scheduled: those that servers got, and those that the switch responded to itself.",
        (f"{{{labels}}} {row['stats']['requests']}\n" for labels, row in rows if row["unit"] == EACH_REQUEST),
    )
    for name, kind, metric, meaning in _OF_SERVICE:
        samples = (f"{{{labels}}} {row['stats'][name]}\n" for labels, row in rows)
        yield from _format_metric(f"ktcpvs_service_{metric}", kind, meaning, samples)


_Counts = Iterable[tuple[tuple[str, ...], int]]
"""(values of the labels, number) of each count."""


def _rules_without_servers(service: dict[str, Any]) -> dict[str, bool]:
    """Return the label of each rule none of whose servers can be used -> whether it takes all requests."""
    if not (service["running"] and service["here"]):
        return {}
    return {rule["label"]: takes_all for rule, takes_all in unserved_rows(service)[:MAX_RULES_WITHOUT_SERVERS]}


def _own_responses(stats: dict[str, Any]) -> _Counts:
    for name, count in stats["responses"].items():
        code, _, rule = name.partition(" ")
        yield (rule, code), count


def _handshakes(stats: dict[str, Any]) -> _Counts:
    for name, count in stats["handshakes"].items():
        version, _, outcome = name.rpartition(" ")
        yield (version, outcome), count


def _by_key(counts: dict[str, int]) -> _Counts:
    return (((key,), count) for key, count in counts.items())


_COUNTS_OF_SERVICE: tuple[tuple[str, tuple[str, ...], str, Callable[[dict[str, Any]], _Counts]], ...] = (
    (
        "refusals", ("code",), "Requests and connections that the switch refused, by status.",
        lambda stats: _by_key(stats["refusals"]),
    ),
    (
        "redirects", ("code",), "Requests that https_only has redirected to HTTPS, by status.",
        lambda stats: _by_key(stats["redirected"]),
    ),
    (
        "rule_requests", ("rule",), "Requests (or connections, where these are scheduled) that a rule has taken.",
        lambda stats: _by_key(stats["rules"]),
    ),
    ("own_responses", ("rule", "code"), "Responses of rules with an action, by rule and status.", _own_responses),
    (
        "handshakes", ("version", "outcome"),
        "TLS handshakes of clients, by version and outcome; refused ones have no version.", _handshakes,
    ),
    (
        "preamble_refusals", ("reason",),
        "Clients refused in the preamble of their connection (TLS, PROXY protocol), by reason.",
        lambda stats: _by_key(stats["preambles"]),
    ),
    (
        "relayed_connections", ("relay",), "Connections carried by each relay.",
        lambda stats: _by_key((stats["relay"] or {}).get("joined", {})),
    ),
)  # fmt: skip
"""The counts of a service that have labels of their own: metric, names of the labels, meaning, and the counts."""


def _format_configuration(rows: Sequence[_Row]) -> Iterator[bytes]:
    for name, metric, meaning in (
        ("weight", "weight", "The configured weight."),
        ("maxconn", "max_connections", "The configured maxconn, 0: no limit."),
        ("max_pending", "max_waiting_requests", "The configured max_pending, for each process; 0: no limit."),
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
