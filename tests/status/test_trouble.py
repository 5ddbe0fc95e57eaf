"""The trouble of the status page, row by row, and the metrics of the same data."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.director.director import Director
from ktcpvs.inspect.views import Views
from ktcpvs.model.address import parse_address
from ktcpvs.model.edits import AddServer, AddService
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.status.metrics import format_metrics
from ktcpvs.status.summary import summarize
from ktcpvs.status.trouble import MAX_TROUBLE, find_trouble
from ktcpvs.system.log import EventLog
from ktcpvs.system.processes import Usage

NOW = 1_800_000_000.0

SERVERS = ("10.0.0.1:80", "10.0.0.2:80")


def snapshot(
    certificates: list[dict[str, Any]] | None = None,
    nodes: dict[str, Any] | None = None,
    workers: dict[str, float | None] | None = None,
    used: Usage | None = None,
    trial: int | None = None,
) -> dict[str, Any]:
    """The data of a switch with a service `web`, which counts as running, and two servers."""
    director = Director(Context(MemoryReactorClock(), EventLog(), Descriptors(1000)))
    director.submit(AddService("web"))
    for address in SERVERS:
        director.submit(AddServer("web", parse_address(address)))
    stats = Views(director).view("stats", None)
    stats["services"][0]["running"] = True
    return summarize({**stats, "trial": trial}, certificates or [], NOW, NOW - 3600, {"switch": used}, nodes, workers)


def told(data: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(row["severity"], row["kind"], row["text"]) for row in find_trouble(data)[0]]


def set_state(data: dict[str, Any], *states: str, reason: str = "") -> dict[str, Any]:
    for server, state in zip(data["services"][0]["servers"], states, strict=True):
        server["health"] = {"state": state, "since": NOW - 60, "reason": reason}
    return data


def certificate(**changed: Any) -> dict[str, Any]:
    row = {
        "use": "certificate",
        "file": "/etc/web.pem",
        "names": ["web.example"],
        "subject": "web.example",
        "kind": "ECDSA",
        "not_after": NOW + 86400,
        "services": ["web"],
        "error": "",
        "warning": "",
        "issuer": "CA",
        "acme": None,
    }
    return {**row, **changed}


def cluster(*nodes: dict[str, Any], **changed: Any) -> dict[str, Any]:
    requests = {"total": 5, "errors": 1, "seconds": 0.5}
    known = {"node": "a", "connected": True, "problem": "", "revision": 7, "applied": 7, "requests": requests}
    return {**known, "nodes": list(nodes), **changed}


def node(name: str, state: str, **known: Any) -> dict[str, Any]:
    return {"node": name, "state": state, "revision": 7, "errors": [], **known}


def test_a_healthy_switch_has_no_trouble() -> None:
    workers = {"configured": 2, "ready": 2, "restarts": 1, "since_restart": 3600.0}
    fine = snapshot([certificate()], cluster(node("a", "ok"), node("b", "draining")), workers, Usage(1.0, 1, 10, 1024))
    assert find_trouble(fine) == ([], 0)
    assert told(set_state(fine, "up", "maintenance")) == []


def test_servers() -> None:
    data = set_state(snapshot(), "down", "up", reason="check: Connection refused")
    assert find_trouble(data)[0] == [
        {
            "kind": "server_down",
            "severity": "warning",
            "text": "10.0.0.1:80 is down: check: Connection refused",
            "service": "web",
            "server": "10.0.0.1:80",
            "node": None,
            "since": NOW - 60,
        }
    ]
    assert told(set_state(data, "down", "ejected", reason="why")) == [
        ("critical", "no_servers", "has no server that can be used"),
        ("critical", "server_down", "10.0.0.1:80 is down: why"),
        ("warning", "server_ejected", "10.0.0.2:80 is ejected: why"),
    ]
    assert told(set_state(data, "unresolved", "standby")) == [
        ("warning", "server_unresolved", "10.0.0.1:80 is not resolved")
    ]
    servers = data["services"][0]["servers"]
    set_state(data, "up", "up")
    servers[0]["maxconn"], servers[0]["stats"]["active"], servers[0]["name"] = 5, 5, "r1.example:80"
    assert told(data) == [("warning", "server_full", "r1.example:80 (10.0.0.1:80) is full: 5 of 5 (maxconn)")]


def test_a_server_that_is_up_and_fails() -> None:
    data = set_state(snapshot(), "up", "up")
    (service,) = data["services"]
    service["servers"][0]["last_error"] = {"at": NOW, "reason": "Connection refused", "in_a_row": 5}
    service["servers"][1]["last_error"] = {"at": NOW, "reason": "Connection refused", "in_a_row": 4}
    failing = ("warning", "server_failing", "10.0.0.1:80 has failed 5 times in a row: Connection refused")
    assert told(data) == [failing]
    service["servers"] = [{**service["servers"][0], "address": f"10.0.0.{number}:80"} for number in range(5)]
    assert told(data)[-1] == ("warning", "server_failing", "2 more servers have failed several times in a row")
    assert len(told(data)) == 4
    assert told(set_state(data, "down", *["up"] * 4))[0][1] == "server_down", "which is reported instead"


def test_many_servers_share_a_row() -> None:
    data = set_state(snapshot(), "down", "down", reason="why")
    (service,) = data["services"]
    service["servers"] = [{**service["servers"][0], "address": f"10.0.0.{number}:80"} for number in range(5)]
    assert told(data)[1:] == [("critical", "server_down", "5 servers are down, 10.0.0.0:80 first: why")]
    service["running"] = False
    assert told(data) == [], "a stopped service needs no servers"
    service["running"], service["here"] = True, False
    assert told(data) == []


def rule(pattern: str, *servers: str, name: str | None = None) -> dict[str, Any]:
    label = pattern if name is None else name
    return {"pattern": pattern, "name": name, "label": label, "servers": list(servers), "weights": []}


def test_rules_without_servers() -> None:
    data = set_state(snapshot(), "down", "draining", reason="why")
    (service,) = data["services"]
    first, second = SERVERS
    service["rules"] = [rule("path /a/", first, second), rule(".*", first, name="stable")]
    service["stats"]["rules"] = {"path /a/": 0, "stable": 0}
    refused = "has no server that can be used: what it takes is refused"
    assert [row[1] for row in told(data)] == ["no_servers", "server_down"], "which is more than the rules"
    set_state(data, "draining", "up")
    assert told(data) == [("critical", "rule_without_servers", f"rule 'stable' {refused}")]
    assert samples(data)["ktcpvs_service_rule_without_servers"] == {"web,stable,all": 1}
    service["rules"] = [rule(f"path /{number}/", first) for number in range(5)] + [rule(".*", second)]
    assert told(data) == [
        *(("warning", "rule_without_servers", f"rule 'path /{number}/' {refused}") for number in range(3)),
        ("warning", "rule_without_servers", "2 more rules have no server that can be used"),
    ]
    assert len(samples(data)["ktcpvs_service_rule_without_servers"]) == 5
    set_state(data, "up", "up")
    assert told(data) == []
    assert "ktcpvs_service_rule_without_servers" not in samples(data)


def test_services() -> None:
    data = snapshot()
    (service,) = data["services"]
    service["maxclients"], service["stats"]["active"], service["stats"]["queued"] = 3, 3, 2
    assert told(data) == [
        ("warning", "service_full", "is full: 3 of 3 clients (maxclients); further ones wait"),
        ("warning", "queue", "2 clients wait for a server with room"),
    ]
    service["maxclients"], service["stats"]["queued"], service["stats"]["paused_listeners"] = 0, 0, 1
    assert told(data) == [("critical", "no_descriptors", "accepts no clients: no file descriptors are free")]
    service["stats"] |= {"paused_listeners": 0, "waiting_streams": 7}
    assert told(data) == [("warning", "no_descriptors", "7 requests of HTTP/2 wait for a file descriptor")]


@pytest.mark.parametrize(
    ("fallback", "severity", "instead"),
    [("wlc", "warning", "the fallback wlc chooses"), ("none", "critical", "there is no fallback")],
)
def test_a_scheduler_that_fails(fallback: str, severity: str, instead: str) -> None:
    data = snapshot()
    (service,) = data["services"]
    service["fallback"] = fallback
    service["stats"] |= {"scheduler_failures": 20, "scheduler_failing": 2}
    text = f"scheduler http fails, 20 times so far: {instead}; see the log"
    assert told(data) == [(severity, "scheduler_failing", text)]


def test_certificates() -> None:
    soon = certificate(warning="expires soon")
    gone = certificate(warning="has expired", not_after=NOW - 1, services=["web", "shop"])
    stale = certificate(error="not a PEM file")
    rows = find_trouble(snapshot([soon, soon, gone, stale]))[0]
    assert [(row["severity"], row["kind"], row["text"], row["service"]) for row in rows] == [
        ("critical", "certificate", "has expired", None),
        ("warning", "certificate", "expires soon", "web"),
        ("warning", "certificate_stale", "not a PEM file", "web"),
    ]


def test_certificates_of_a_ca() -> None:
    names = ["web.example", "www.web.example"]
    order = {"names": names, "state": "failed", "next": NOW + 60, "failures": 3, "error": "why"}
    expected = "the certificate for web.example, www.web.example could not be obtained 3 times: why"
    assert told(snapshot([certificate(acme=order)])) == [("warning", "certificate_order", expected)]
    self_signed = certificate(acme={**order, "failures": 1}, issuer="web.example", warning="it is self-signed")
    assert told(snapshot([self_signed])) == [("critical", "certificate_order", expected.replace(" 3 times", ""))]
    assert told(snapshot([certificate(acme={**order, "error": "", "failures": 0})])) == []


def test_nodes() -> None:
    nodes = (
        node("b", "gone"),
        node("c", "behind", revision=5),
        node("d", "refused", errors=["web: cannot listen"]),
        node("e", "unknown", errors=["not JSON"]),
    )
    data = snapshot(nodes=cluster(*nodes, connected=False, problem="etcd does not respond"))
    assert told(data) == [
        ("critical", "cluster", "this node does not follow the cluster: etcd does not respond"),
        ("warning", "node", "node b is gone: it does not report to etcd any more"),
        ("warning", "node", "node c is behind: it runs revision 5, the table is at 7"),
        ("warning", "node", "node d could not carry out the table: web: cannot listen"),
        ("warning", "node", "node e cannot be read: not JSON"),
    ]


@pytest.mark.parametrize(
    ("ready", "since", "expected"),
    [
        (1, 2.0, [("warning", "workers", "1 of 2 workers serve")]),
        (0, 2.0, [("critical", "workers", "0 of 2 workers serve")]),
        (2, 2.0, [("warning", "restart", "a worker has ended and was replaced; 4 since the start: see the log")]),
        (2, 301.0, []),
    ],
    ids=["starting", "none", "replaced", "long ago"],
)
def test_workers(ready: int, since: float, expected: list[tuple[str, str, str]]) -> None:
    workers = {"configured": 2, "ready": ready, "restarts": 4, "since_restart": since}
    assert told(snapshot(workers=workers)) == expected


def test_trial_and_descriptors() -> None:
    assert told(snapshot(trial=42, used=Usage(1.0, 1, 922, 1024))) == [
        ("warning", "trial", "the table is on trial: it is undone in 42 s unless 'tcpvsadm --confirm' is run"),
        ("warning", "descriptors", "process 'switch' has 922 of 1024 file descriptors open"),
    ]
    assert told(snapshot(used=Usage(1.0, 1, 10**6, None))) == [], "without a limit"


def test_the_rows_are_limited_and_the_gravest_come_first() -> None:
    data = set_state(snapshot(), "down", "up")
    (service,) = data["services"]
    data["services"] = [{**service, "ident": f"s{number}"} for number in range(MAX_TROUBLE + 5)]
    last = data["services"][-1] = {**service, "ident": "last", "servers": []}
    last["stats"] = {**last["stats"], "paused_listeners": 1}
    rows, left_out = find_trouble(data)
    assert (len(rows), left_out, rows[0]["service"]) == (MAX_TROUBLE, 5, "last")


def samples(data: dict[str, Any]) -> dict[str, dict[str, float]]:
    text = b"".join(format_metrics(data)).decode()
    names = (
        "ktcpvs_trial",
        "ktcpvs_worker",
        "ktcpvs_process_max",
        "ktcpvs_service_paused",
        "ktcpvs_service_rule_without",
    )
    found: dict[str, dict[str, float]] = {}
    for one in (one for family in text_string_to_metric_families(text) for one in family.samples):
        if one.name.startswith(names):
            found.setdefault(one.name, {})[",".join(one.labels.values())] = one.value
    return found


def test_metrics_of_the_trial_the_workers_and_the_descriptors() -> None:
    assert samples(snapshot(used=Usage(1.0, 1, 10, None))) == {
        "ktcpvs_trial_pending": {"": 0},
        "ktcpvs_service_paused_listeners": {"web": 0},
    }
    workers = {"configured": 2, "ready": 1, "restarts": 4, "since_restart": 1.5}
    assert samples(snapshot(workers=workers, trial=42, used=Usage(1.0, 1, 10, 1024))) == {
        "ktcpvs_trial_pending": {"": 1},
        "ktcpvs_trial_seconds_left": {"": 42},
        "ktcpvs_workers": {"": 2},
        "ktcpvs_workers_ready": {"": 1},
        "ktcpvs_worker_restarts_total": {"": 4},
        "ktcpvs_process_max_descriptors": {"switch": 1024},
        "ktcpvs_service_paused_listeners": {"web": 0},
    }
