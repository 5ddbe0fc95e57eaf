"""The same for Prometheus, in its text format; every look makes all series anew, so what is deleted has none."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

STATES = ("up", "down", "ejected", "draining")

_OF_SERVICE = (
    ("active", GaugeMetricFamily, "active_connections", "Client connections now."),
    ("queued", GaugeMetricFamily, "queued_connections", "Clients that wait for room at a server."),
    ("total", CounterMetricFamily, "connections", "Client connections accepted."),
    ("denied", CounterMetricFamily, "denied", "Clients turned away by their address."),
    ("limited", CounterMetricFamily, "limited", "Clients turned away since they came too often."),
    ("bytes_in", CounterMetricFamily, "received_bytes", "Bytes from clients."),
    ("bytes_out", CounterMetricFamily, "sent_bytes", "Bytes to clients."),
)
_OF_SERVER = (
    ("active", GaugeMetricFamily, "active_connections", "Connections (or requests, one by one) at the server now."),
    ("kept", GaugeMetricFamily, "idle_connections", "Kept connections that wait for a request."),
    ("total", CounterMetricFamily, "connections", "Connections (or requests, one by one) that the server was given."),
    ("failures", CounterMetricFamily, "failures", "Connections that could not be made, and requests not answered."),
    ("retries", CounterMetricFamily, "retries", "Connections and requests tried again after the server failed them."),
    ("reused", CounterMetricFamily, "reuses", "Requests that went on a kept connection."),
    ("bytes_in", CounterMetricFamily, "received_bytes", "Bytes from clients to the server."),
    ("bytes_out", CounterMetricFamily, "sent_bytes", "Bytes from the server to clients."),
)
_OF_PROCESS = (
    ("cpu", CounterMetricFamily, "cpu_seconds", "CPU time of a process of the switch."),
    ("memory", GaugeMetricFamily, "resident_memory_bytes", "Memory of a process of the switch."),
    ("descriptors", GaugeMetricFamily, "open_descriptors", "Descriptors that a process of the switch has open."),
)
_SERVER = ("service", "server", "role")


def exposition(told: dict[str, Any]) -> bytes:
    """told: what `summary` makes."""
    return generate_latest(_Look(told))


class _Look(Collector):
    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        told, services = self._told, self._told["services"]
        build = GaugeMetricFamily("ktcpvs_build_info", "The program that runs.", labels=("version", "python"))
        build.add_metric((told["version"], platform.python_version()), 1)
        yield build
        yield GaugeMetricFamily("ktcpvs_start_time_seconds", "When it started, since 1970.", value=told["started"])
        for name, kind, metric, meaning in _OF_PROCESS:
            family = kind(f"ktcpvs_process_{metric}", meaning, labels=("process",))
            for process in told["processes"]:
                family.add_metric((process["name"],), process[name])
            yield family
        yield from _services(services)
        servers = [(service["ident"], row, "server") for service in services for row in service["servers"]]
        redirects = [
            (service["ident"], service["redirect"], "redirect") for service in services if "redirect" in service
        ]
        yield from _servers(servers, redirects, told["buckets"])


def _services(services: list[dict[str, Any]]) -> Iterator[Metric]:
    running = GaugeMetricFamily(
        "ktcpvs_service_running", "1: the service runs, 0: it is stopped.", labels=("service", "scheduler")
    )
    refusals = CounterMetricFamily(
        "ktcpvs_service_refusals",
        "Requests and connections that the switch refused itself.",
        labels=("service", "code"),
    )
    relayed = CounterMetricFamily(
        "ktcpvs_service_relayed_connections", "Connections that each relay has carried.", labels=("service", "relay")
    )
    for service in services:
        ident, stats = service["ident"], service["stats"]
        running.add_metric((ident, service["scheduler"]), int(service["running"]))
        for code, count in stats["refusals"].items():
            refusals.add_metric((ident, code), count)
        for relay, count in (stats["relay"] or {}).get("joined", {}).items():
            relayed.add_metric((ident, relay), count)
    yield from (running, refusals, relayed)
    for name, kind, metric, meaning in _OF_SERVICE:
        family = kind(f"ktcpvs_service_{metric}", meaning, labels=("service",))
        for service in services:
            family.add_metric((service["ident"],), service["stats"][name])
        yield family


def _servers(
    servers: list[tuple[str, dict[str, Any], str]],
    redirects: list[tuple[str, dict[str, Any], str]],
    buckets: list[float],
) -> Iterator[Metric]:
    """servers, redirects: (service, row, role) of each."""
    weight = GaugeMetricFamily("ktcpvs_server_weight", "The configured weight.", labels=_SERVER)
    most = GaugeMetricFamily(
        "ktcpvs_server_max_connections", "Most connections at once, 0: no such limit.", labels=_SERVER
    )
    state = GaugeMetricFamily(
        "ktcpvs_server_state", "1 for the state that the server is in, 0 for the others.", labels=(*_SERVER, "state")
    )
    for ident, row, role in servers:
        labels = (ident, row["address"], role)
        weight.add_metric(labels, row["weight"])
        most.add_metric(labels, row["maxconn"])
        for one in STATES:
            state.add_metric((*labels, one), int(row["health"]["state"] == one))
    yield from (weight, most, state)
    rows = [((ident, row["address"], role), row["stats"]) for ident, row, role in servers + redirects]
    for name, kind, metric, meaning in _OF_SERVER:
        family = kind(f"ktcpvs_server_{metric}", meaning, labels=_SERVER)
        for labels, stats in rows:
            family.add_metric(labels, stats[name])
        yield family
    answers = CounterMetricFamily(
        "ktcpvs_server_answers", "Requests answered, by the class of their status.", labels=(*_SERVER, "code")
    )
    took = HistogramMetricFamily(
        "ktcpvs_server_request_duration_seconds",
        "From a request's head to the end of the answer, where requests are switched one by one.",
        labels=_SERVER,
    )
    bounds = [*map(str, buckets), "+Inf"]
    for labels, stats in rows:
        for code, count in stats["answers"].items():
            answers.add_metric((*labels, code), count)
        seen, cumulative = 0, []
        for bound, count in zip(bounds, stats["buckets"], strict=True):
            seen += count
            cumulative.append((bound, seen))
        took.add_metric(labels, cumulative, stats["seconds"])
    yield from (answers, took)
