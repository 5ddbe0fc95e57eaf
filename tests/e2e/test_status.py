"""--status: metrics for Prometheus, and the status page and its data."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from servers import LOOPBACK, SocketServer, chunks, dial, free_port, program, read_all, reset, wait_for
from twisted.python.usage import UsageError

from ktcpvs.status.address import StatusAddress, parse_status
from ktcpvs.status.server import MAX_CONNECTIONS
from ktcpvs.tap import Options

from .harness import ControlThread, Daemon

pytestmark = pytest.mark.e2e

SECRET = "a-cookie-key-that-nobody-is-told"
NAME = "<b>wéb'&</b>"


def answers(sock: socket.socket) -> None:
    """A server: it responds 404 to /missing, breaks its response to /broken off, and responds 200 to all else."""
    for data in chunks(sock):
        if b" /broken " in data:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfour")
            return
        status = b"404 Not Found" if b" /missing " in data else b"200 OK"
        sock.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture(scope="module", params=[0, 2], ids=["alone", "workers"])
def status_daemon(
    request: pytest.FixtureRequest, control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, int]]:
    port, folder = free_port(), tmp_path_factory.mktemp("status")
    daemon = Daemon(control_thread, folder, "--status", f"tcp:{port}", workers=request.param, preloaded=True)
    daemon.start()
    daemon.set(cookie_key=SECRET)
    yield daemon, port
    daemon.finish()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert SECRET not in text
    return answer.status, text, answer.headers


def samples(port: int) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(get(port, "/metrics")[1]):
        for one in family.samples:
            row = found.setdefault(one.name, {})
            labels = tuple(sorted(one.labels.items()))
            assert labels not in row, f"{one.name} {labels} stands there twice"
            row[labels] = one.value
    return found


def value(port: int, name: str, **labels: str) -> float:
    rows = [value for known, value in samples(port).get(name, {}).items() if labels.items() <= dict(known).items()]
    return sum(rows)


def test_metrics_stats_and_page_data_agree(
    status_daemon: tuple[Daemon, int], serve: Callable[..., SocketServer]
) -> None:
    daemon, status = status_daemon
    port, server, dead = free_port(), serve(answers), free_port()
    address, nobody = f"{LOOPBACK}:{server.port}", f"{LOOPBACK}:{dead}"
    rules = ((".*", address),)
    daemon.service(NAME, port, address, nobody, scheduler="chttp", rules=rules, redirect=address)
    daemon.service("dead", free_port(), nobody)
    with dial((LOOPBACK, port)) as client:
        for path in ("/a", "/b", "/missing", "/a", "/a"):
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"ok"):
                head += client.recv(4096)
    with dial((LOOPBACK, port)) as client, contextlib.suppress(ConnectionResetError):
        client.sendall(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
        read_all(client)
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"GARBAGE\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 400 ")
    dead_port = int(daemon.stats("dead")["listen"].rpartition(":")[2])
    with dial((LOOPBACK, dead_port)) as client:
        assert read_all(client) == b""

    mine = {"service": NAME, "server": address, "role": "server"}
    wait_for(lambda: value(status, "ktcpvs_server_answers_total", code="2xx", **mine) == 4)
    found = samples(status)
    metrics = {
        name: {labels: n for labels, n in rows.items() if ("service", NAME) in labels} for name, rows in found.items()
    }
    took = metrics["ktcpvs_server_request_duration_seconds_bucket"]
    of_server = [n for labels, n in took.items() if ("role", "server") in labels and ("server", address) in labels]
    assert of_server == sorted(of_server)
    assert (len(of_server), of_server[-1]) == (17, 5)
    assert value(status, "ktcpvs_server_answers_total", code="4xx", **mine) == 1
    assert value(status, "ktcpvs_service_refusals_total", service=NAME, code="400") == 1
    assert value(status, "ktcpvs_service_broken_responses_total", service=NAME) == 1
    assert value(status, "ktcpvs_server_failures_total", service="dead") == 1
    assert value(status, "ktcpvs_server_retries_total", service="dead", server=nobody) == 1
    assert value(status, "ktcpvs_server_state", service=NAME, state="up") == 2
    processes = found["ktcpvs_process_resident_memory_bytes"]
    assert len(processes) == (3 if (("process", "supervisor"),) in processes else 1)

    text = get(status, "/metrics")[1]
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

    listed = daemon.adm("--list", "--stats", "-i", NAME).stdout
    assert "responses: 2xx 4, 4xx 1; 50 % within " in listed
    assert "  refused: 400 1\n  broken responses: 1\n" in listed
    assert "     retried: 1\n" in daemon.adm("--list", "--stats", "-i", "dead").stdout

    told = json.loads(get(status, "/api/v1/status")[1])
    (service,) = (one for one in told["services"] if one["ident"] == NAME)
    assert sum(service["servers"][0]["stats"]["buckets"]) == 5
    assert service["rules"] == [
        {
            "pattern": ".*",
            "match": None,
            "name": None,
            "servers": [address],
            "weights": [],
            "action": None,
            "modifiers": "",
            "label": ".*",
        }
    ]
    assert service["stats"]["rules"].keys() == {".*"}
    assert service["servers"][0]["labels"] == {}
    assert service["redirect"]["address"] == address

    daemon.clear()
    wait_for(lambda: NAME not in get(status, "/metrics")[1])


def test_only_get_and_head_are_allowed_and_malformed_requests_leak_nothing(status_daemon: tuple[Daemon, int]) -> None:
    daemon, status = status_daemon
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        code, _, headers = get(status, "/", method)
        assert (code, headers["Allow"]) == (405, "GET, HEAD")
    code, text, headers = get(status, "/", "HEAD")
    assert (code, text) == (200, "")
    assert int(headers["Content-Length"]) > 30
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    with socket.create_connection((LOOPBACK, status), timeout=20) as rebound:
        rebound.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: rebound.example\r\n\r\n")
        assert read_all(rebound).startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    assert get(status, "/etc/passwd")[0] == get(status, "/../page.js")[0] == 404
    before = daemon.descriptors()
    for data in (b"\0" * 20000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000, b"GET  \r\n\r\n", b"\r\n" * 9000):
        with dial((LOOPBACK, status)) as client:
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                said = read_all(client)
            except ConnectionError:
                said = b""
            assert not said.startswith(b"HTTP/1.1 200")
    idle = [socket.create_connection((LOOPBACK, status)) for _ in range(MAX_CONNECTIONS)]
    with pytest.raises(ConnectionResetError), socket.create_connection((LOOPBACK, status), timeout=20) as one_more:
        one_more.recv(1)
    for client in idle:
        client.close()
    wait_for(lambda: get_or_none(status) == 200)
    wait_for(lambda: daemon.descriptors() <= before)


def test_many_status_clients_delay_no_edit(status_daemon: tuple[Daemon, int]) -> None:
    daemon, status = status_daemon
    visitors = [socket.create_connection((LOOPBACK, status)) for _ in range(MAX_CONNECTIONS)]
    for number, visitor in enumerate(visitors):
        path = ("/metrics", "/api/v1/status")[number % 2]
        visitor.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    for number, visitor in enumerate(visitors):
        if number % 3:
            reset(visitor)
        else:
            assert read_all(visitor).startswith(b"HTTP/1.1 200 ")
            visitor.close()
        if number % 16 == 0:
            daemon.set(read_timeout=100 + number)
    wait_for(lambda: get_or_none(status) == 200)
    assert "Traceback" not in daemon.log()


def get_or_none(port: int) -> int | None:
    try:
        return get(port, "/metrics")[0]
    except OSError:
        return None


@pytest.mark.parametrize(
    "place", ["9109", "tcp:", "tcp:0", "tcp:70000", "tcp:9109:interface=example.org", "tcp:1:interface=", "unix:/x", ""]
)
def test_malformed_status_addresses_are_refused(place: str) -> None:
    with pytest.raises(UsageError, match=r"expected tcp:PORT or tcp:PORT:interface=ADDRESS \(example: tcp:9109\)$"):
        Options().parseOptions(["--status", place])


def test_status_addresses() -> None:
    assert (
        str(parse_status("tcp:9109")) == str(parse_status("tcp:9109:interface=localhost")) == "http://127.0.0.1:9109/"
    )
    assert str(parse_status("tcp6:9109")) == "http://[::1]:9109/"
    assert parse_status("tcp:80:interface=0.0.0.0") == StatusAddress("0.0.0.0", 80)
    assert str(parse_status(r"tcp:80:interface=\:\:1")) == "http://[::1]:80/"


def test_host_names_of_the_status() -> None:
    options = Options()
    options.parseOptions(["--status", "tcp:9109", "--status-host", "LB1.example.org.", "--status-host", "lb1"])
    assert options["status_hosts"] == ("lb1.example.org", "lb1")
    for name in ("lb1:9109", "a b", "", ".", "http://lb1", "[::1]"):
        with pytest.raises(UsageError, match=r"^--status-host '.*': not a host name"):
            Options().parseOptions(["--status", "tcp:9109", "--status-host", name])
    with pytest.raises(UsageError, match=r"^--status-host lb1 requires --status$"):
        Options().parseOptions(["--status-host", "lb1"])


def test_a_status_address_in_use_is_refused(
    make_daemon: Callable[..., Daemon], serve: Callable[..., SocketServer]
) -> None:
    port = serve(answers).port
    assert (
        f"cannot listen for the status at http://127.0.0.1:{port}/: another program, "
        in make_daemon("--status", f"tcp:{port}").refused()
    )


def test_after_a_takeover_the_new_daemon_serves_the_status(make_daemon: Callable[..., Daemon]) -> None:
    status = free_port()
    old = make_daemon("--status", f"tcp:{status}")
    old.start()
    old.service("kept", free_port(), "10.0.0.1:80")
    began = samples(status)["ktcpvs_start_time_seconds"][()]
    new = make_daemon("--status", f"tcp:{status}", "--takeover", old.control, control=old.control)
    new.run()
    assert old.wait() == 0

    def tells() -> bool:
        return get_or_none(status) == 200 and samples(status)["ktcpvs_start_time_seconds"][()] > began

    wait_for(tells)
    assert value(status, "ktcpvs_service_running", service="kept") == 1


def test_the_only_server_of_a_rule_is_drained(
    status_daemon: tuple[Daemon, int], serve: Callable[..., SocketServer]
) -> None:
    """The edit warns, the requests are refused, and the trouble and the metrics name the rule."""
    daemon, status = status_daemon
    old, new, port = serve(answers).address, serve(answers).address, free_port()
    daemon.service("shop", port, old, new, scheduler="phttp")
    daemon.adm("--add-rule", "-i", "shop", "--name", "canary", "share", "100%", "-r", new)
    daemon.adm("--add-rule", "-i", "shop", "--name", "stable", "pattern", ".*", "-r", old)
    assert get(port, "/")[0] == 200
    drained = daemon.adm("--drain", "-i", "shop", "-r", new)
    assert drained.stderr == (
        "tcpvsadm: warning: service shop: rule 'canary' has no server left that takes clients: requests that match it "
        f"get status 503, since no later rule is tried; to use {new} again: 'tcpvsadm --ready -i shop -r {new}'; to "
        "use another one: 'tcpvsadm --edit-rule -i shop --rule canary use server ADDRESS'\n"
    )
    assert get(port, "/")[0] == 503

    def trouble() -> list[tuple[str, str]]:
        rows = json.loads(get(status, "/api/v1/status")[1])["trouble"]
        return [(row["severity"], row["text"]) for row in rows if row["service"] == "shop"]

    expected = "rule 'canary' has no server that can be used: what it takes is refused"
    wait_for(lambda: trouble() == [("critical", expected)])
    assert value(status, "ktcpvs_service_rule_without_servers", service="shop", rule="canary", takes="all") == 1
    assert daemon.adm("--ready", "-i", "shop", "-r", new).stderr == ""
    wait_for(lambda: trouble() == [])
    assert get(port, "/")[0] == 200
    daemon.adm("--edit-rule", "-i", "shop", "--rule", "canary", "share", "20%")
    assert "rule 'canary' has no server left" in daemon.adm("-e", "-i", "shop", "-r", new, "-w", "0").stderr
    wait_for(lambda: trouble() == [("warning", expected)])
    daemon.adm("--stop", "-i", "shop")
    daemon.adm("-D", "-i", "shop")
