"""docs/examples/monitoring: alerts that fire when they should, and a dashboard, whose metrics a real daemon exports."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import SERVER, Authority
from etcd_server import EtcdServer
from prometheus_client.parser import text_string_to_metric_families
from servers import LOOPBACK, SocketServer, chunks, dial, free_port, program, read_all, wait_for

from .harness import ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "monitoring"

OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that Prometheus adds, and the one of all histograms."""

_METRIC = re.compile(r"\b(ktcpvs_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(=~|!=|!~|=)\s*\"([^\"]*)\"")
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")

Exported = dict[str, dict[str, set[str]]]
"""Metric -> label -> its values."""


def answers(sock: socket.socket) -> None:
    for _ in chunks(sock):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture(scope="module")
def exported(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """The metrics of a node of a cluster, with a worker, TLS, requests and refusals."""
    status, folder = free_port(), tmp_path_factory.mktemp("monitoring")
    certificate = Authority(folder).issue("shop", "shop.example.org", purposes=(SERVER,))
    with contextlib.ExitStack() as stack:
        etcd = EtcdServer(folder)
        stack.callback(etcd.stop)
        server = SocketServer(answers)
        stack.callback(server.stop)
        secret = folder / "secret"
        secret.write_text("ab" * 32)
        secret.chmod(0o600)
        cluster = (
            "--cluster",
            f"etcd:{etcd.url}/x",
            "--node",
            "a",
            "--state",
            folder / "s",
            "--cluster-secret",
            secret,
        )
        daemon = Daemon(
            control_thread, folder, "--status", f"tcp:{status}", *cluster, workers=1, tls=True, preloaded=True
        )
        stack.callback(daemon.finish)
        daemon.start()
        daemon.wait_for_log("node a follows")
        plain, tls, relayed, own, moved, moved_tls = (free_port() for _ in range(6))
        address = f"{LOOPBACK}:{server.port}"
        file = folder / "web.conf"
        file.write_text(f"""
            global {{
                acme_directory = https://{LOOPBACK}:{free_port()}/nobody
            }}
            Virtual web {{
                listen = {LOOPBACK}:{plain}
                listen = {LOOPBACK}:{tls} tls
                certificate = {certificate}
                certificate = acme www.example.org
                scheduler = phttp
                server = {address}
                rule = path / use server {address}
            }}
            Virtual own {{
                listen = {LOOPBACK}:{own}
                scheduler = phttp
                rule = pattern .* use respond 200
            }}
            Virtual moved {{
                listen = {LOOPBACK}:{moved}
                listen = {LOOPBACK}:{moved_tls} tls
                certificate = {certificate}
                https_only = on
                scheduler = phttp
                server = {address}
                rule = name old path /old/ use server {address} 0
                rule = path / use server {address} 0
            }}
            Virtual mail {{
                listen = {LOOPBACK}:{relayed}
                scheduler = wlc
                server = {address}
            }}""")
        daemon.adm("-f", file, "--start")
        for port, code in (plain, 200), (own, 200), (moved, 308):
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
            connection.request("GET", "/")
            assert connection.getresponse().status == code
            connection.close()
        for port in (plain, tls):  # refused by the service, and by the listener with TLS
            with dial((LOOPBACK, port)) as client, contextlib.suppress(ConnectionResetError):
                client.sendall(b"GARBAGE\r\n\r\n")
                read_all(client)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with dial((LOOPBACK, tls)) as client, context.wrap_socket(client, server_hostname="shop.example.org") as secure:
            assert secure.version() == "TLSv1.3"
        file.write_text(file.read_text().replace("use respond 200", "use respond 204"))  # else nothing is on trial
        daemon.adm("-f", file, "--confirm", "600")
        for metric in ("ktcpvs_certificate_order_failures", "ktcpvs_trial_seconds_left"):
            wait_for(lambda metric=metric: metric in read(status), timeout=20)
        wait_for(lambda: {"outcome"} <= set(read(status).get("ktcpvs_service_handshakes_total", {})), timeout=20)
        yield read(status)


def read(status: int) -> Exported:
    connection = http.client.HTTPConnection(LOOPBACK, status, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    found: Exported = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def dashboard() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((EXAMPLE / "grafana-dashboard.json").read_text())
    return made


def expressions_of_the_dashboard() -> Iterator[str]:
    made = dashboard()
    for panel in made["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (one["expr"] for one in made["annotations"]["list"])
    for variable in made["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"].removeprefix("label_values(").removesuffix(f", {variable['name']})")


def expressions_of_the_alerts() -> Iterator[str]:
    text = (EXAMPLE / "alerts.yml").read_text()
    for one in re.findall(r"^ +expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", text, re.MULTILINE):
        yield "".join(one)


def missing(expression: str, exported: Exported) -> Iterator[str]:
    """Return the names in an expression that the daemon does not export."""
    known: set[str] = set(OF_PROMETHEUS)
    for name, matchers in _METRIC.findall(expression):
        if name not in exported:
            yield name
            continue
        known |= set(exported[name])
        for label, operator, value in _MATCHER.findall(matchers):
            if label in OF_PROMETHEUS:
                continue
            if label not in exported[name]:
                yield f"{name}{{{label}}}"
            elif operator != "!=" and not value.startswith("$") and label != "code":
                yield from (
                    f'{name}{{{label}="{one}"}}' for one in value.split("|") if one not in exported[name][label]
                )
    for labels in _GROUPING.findall(expression):
        yield from (f"by ({label})" for label in map(str.strip, labels.split(",")) if label not in known)


def test_a_name_or_label_that_is_not_exported_is_found() -> None:
    exported: Exported = {"ktcpvs_a": {"state": {"up"}, "service": {"web"}}}
    assert list(missing('sum by (service) (ktcpvs_a{state=~"up", service=~"$service"})', exported)) == []
    assert list(missing("ktcpvs_b", exported)) == ["ktcpvs_b"]
    assert list(missing('ktcpvs_a{server="x"}', exported)) == ["ktcpvs_a{server}"]
    assert list(missing('ktcpvs_a{state=~"up|dwon"}', exported)) == ['ktcpvs_a{state="dwon"}']
    assert list(missing("sum by (service, server) (ktcpvs_a)", exported)) == ["by (server)"]


def test_a_daemon_exports_what_the_dashboard_shows(exported: Exported) -> None:
    found = list(expressions_of_the_dashboard())
    assert len(found) > 30
    assert [one for expression in found for one in missing(expression, exported)] == []


def test_the_readme_names_what_is_in_no_panel_and_no_alert(exported: Exported) -> None:
    expressions = "\n".join((*expressions_of_the_dashboard(), *expressions_of_the_alerts()))
    used = {name for name, _ in _METRIC.findall(expressions)}
    histograms = {name.removesuffix("_bucket") for name in used if name.endswith("_bucket")}
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    text = " ".join((EXAMPLE / "README.md").read_text().split())
    (named,) = re.findall(r"These metrics are in no panel and in no alert: ([^.]*)\.", text)
    assert set(re.findall(r"`(\w+)`", named)) == set(exported) - used - parts


def test_the_dashboard_shows_the_share_of_each_rule(tmp_path: Path) -> None:
    (panel,) = (one for one in dashboard()["panels"] if one["title"] == "Share of the requests by rule")
    expression = panel["targets"][0]["expr"].replace("$__rate_interval", "5m")
    expression = expression.replace("$instance", ".*").replace("$service", ".*")
    series = {
        'ktcpvs_service_rule_requests_total{instance="a",service="shop",rule="canary"}': 10,
        'ktcpvs_service_rule_requests_total{instance="b",service="shop",rule="canary"}': 20,
        'ktcpvs_service_rule_requests_total{instance="a",service="shop",rule="stable"}': 90,
        'ktcpvs_service_requests_total{instance="a",service="shop"}': 120,
        'ktcpvs_service_requests_total{instance="b",service="shop"}': 180,
        'ktcpvs_service_connections_total{instance="a",service="shop"}': 7,
        'ktcpvs_service_rule_requests_total{instance="a",service="mail",rule=".*"}': 30,
        'ktcpvs_service_connections_total{instance="a",service="mail"}': 60,
        'ktcpvs_service_rule_requests_total{instance="a",service="idle",rule=".*"}': 0,
        'ktcpvs_service_requests_total{instance="a",service="idle"}': 0,
    }
    expected = {
        '{rule="canary",service="shop"}': 0.1,
        '{rule="stable",service="shop"}': 0.3,
        '{rule=".*",service="mail"}': 0.5,
    }
    tests = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": f"0+{step}x20"} for name, step in series.items()],
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": "10m",
                        "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "share_test.yml"
    file.write_text(json.dumps(tests))  # which is YAML too
    done = subprocess.run([program("promtool"), "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_daemon_exports_what_the_alerts_ask(exported: Exported) -> None:
    found = list(expressions_of_the_alerts())
    assert len(found) == (EXAMPLE / "alerts.yml").read_text().count("expr:") > 20
    assert [one for expression in found for one in missing(expression, exported)] == []


def test_each_alert_fires_when_it_should() -> None:
    command = [program("promtool"), "test", "rules", "alerts_test.yml"]
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = re.findall(r"- alert: (\w+)", (EXAMPLE / "alerts.yml").read_text())
    tested = re.findall(r"alertname: (\w+)\s+exp_alerts:\s+- ", (EXAMPLE / "alerts_test.yml").read_text())
    assert set(alerts) == set(tested), "each alert has a test in which it fires"


def test_prometheus_accepts_the_configuration_and_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        f"      - record: r{number}\n        expr: {json.dumps(one.replace('$__rate_interval', '5m'))}\n"
        for number, one in enumerate(expressions_of_the_dashboard())
    ]
    file = tmp_path / "rules.yml"
    file.write_text("groups:\n  - name: dashboard\n    rules:\n" + "".join(rules))
    for command in (["config", str(EXAMPLE / "prometheus.yml")], ["rules", str(file)]):
        done = subprocess.run([program("promtool"), "check", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_well_formed() -> None:
    made = dashboard()
    panels = made["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {one["name"] for one in made["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == variables
    for panel in panels:
        place = panel["gridPos"]
        assert place["w"] > 0 < place["h"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        if panel["type"] != "row":
            letters = [target["refId"] for target in panel["targets"]]
            assert letters == sorted(set(letters))
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["fieldConfig"]["defaults"]
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below
