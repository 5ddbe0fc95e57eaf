"""The benchmark program: reading reports, calculating, writing the page, and refusing wrong measurements."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from servers import free_port, wait_for

from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.protocols.http1.grammar import REQUEST_HEAD
from ktcpvs.system.names import service_port

TOOLS = Path(__file__).parent.parent / "docs" / "tools"
sys.path.insert(0, str(TOOLS))

from bench import (  # noqa: E402 - found by the line above
    answers,
    browsers,
    certificate,
    chart,
    configurations,
    counters,
    document,
    h2load,
    handshakes,
    load,
    machine,
    open_loop,
    overview,
    processes,
    relay_goals,
    results,
    run,
    scenario_memory,
    scenario_open_loop,
    scenario_passthrough,
    scenario_relays,
    scenario_rules,
)
from bench.configurations import Rule, Site  # noqa: E402
from bench.failure import Failure  # noqa: E402
from bench.workshop import Workshop  # noqa: E402

HERE = os.sched_getaffinity(0)

WRK = """\
Running 1s test @ http://127.0.0.1:9001/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.06ms  303.42us   6.33ms   93.28%
    Req/Sec    61.07k     3.50k   66.02k    70.00%
  Latency Distribution
     50%    1.02ms
     75%    1.11ms
     90%    1.24ms
     99%    2.35ms
  60755 requests in 1.01s, 9.91MB read
Requests/sec:  60321.37
Transfer/sec:      9.84MB
"""


# wrk.


def test_the_report_of_wrk_is_read() -> None:
    report = load.read(WRK)
    assert (report.requests, report.seconds) == (60755, 1.01)
    assert report.slowest == pytest.approx(2.35e-3)


@pytest.mark.parametrize(
    ("written", "seconds"), [("950.00us", 950e-6), ("2.35ms", 2.35e-3), ("1.50s", 1.5), ("1.00m", 60)]
)
def test_every_unit_of_a_duration_is_read(written: str, seconds: float) -> None:
    assert load.read(WRK.replace("2.35ms", written)).slowest == pytest.approx(seconds)


@pytest.mark.parametrize(
    "line",
    ["  Socket errors: connect 0, read 3, write 0, timeout 0", "  Non-2xx or 3xx responses: 12"],
)
def test_errors_during_the_load_end_the_run(line: str) -> None:
    with pytest.raises(Failure, match=line.strip()):
        load.read(WRK.replace("Requests/sec", f"{line}\nRequests/sec"))


@pytest.mark.parametrize(
    "text", ["", "unable to connect", WRK.replace("60755 requests", "0 requests"), WRK.replace("99%", "98%")]
)
def test_a_load_that_has_not_measured_ends_the_run(text: str) -> None:
    with pytest.raises(Failure):
        load.read(text)


# Calculating.

FIGURES = {
    "ktcpvs": {"cpu": [30.0, 20.0, 40.0], "rate": [100.0, 200.0, 300.0]},
    "nginx": {"cpu": [45.0, 90.0, 15.0], "rate": [1.0, 2.0, 3.0]},
}


def test_the_median_and_the_ratio_of_medians() -> None:
    assert results.median(FIGURES, "ktcpvs", "cpu") == 30.0
    assert results.ratio(FIGURES, "nginx", "ktcpvs", "cpu") == 1.5


@pytest.mark.parametrize(
    ("who", "metric"), [("haproxy", "cpu"), ("nginx", "p99")], ids=["peer is missing", "metric is missing"]
)
def test_a_ratio_needs_figures(who: str, metric: str) -> None:
    with pytest.raises(ValueError, match="no figures"):
        results.ratio({**FIGURES, "ktcpvs": {"cpu": [1.0], "p99": [1.0]}}, who, "ktcpvs", metric)


def test_a_ratio_to_a_cost_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="spent nothing"):
        results.ratio({**FIGURES, "ktcpvs": {"cpu": [0.0]}}, "nginx", "ktcpvs", "cpu")


@pytest.mark.parametrize(
    ("value", "wanted", "at_most", "reached"),
    [(1.0, 1.0, False, True), (0.99, 1.0, False, False), (6.0, 6.0, True, True), (6.01, 6.0, True, False)],
)
def test_a_goal_is_reached_or_not(value: float, wanted: float, at_most: bool, reached: bool) -> None:
    assert results.Goal("", value, wanted, at_most).reached is reached


def test_few_descriptors_allow_fewer_idle_connections() -> None:
    assert scenario_memory.possible((5000, 15000), 65536) == (5000, 15000)
    assert scenario_memory.possible((5000, 15000), 20000) == (5000, 9900)
    assert scenario_memory.possible((5000, 15000), 1024) == (400,)


# Counting.

STAT = """\
cpu  900 0 0 0 0 0 0 0 0 0
cpu0 100 20 300 4000 50 6 7 8 0 0
cpu1 1 2 3 4 5 6 7 8 0 0
intr 1
"""


def test_the_busy_time_of_a_core_excludes_idle_and_iowait() -> None:
    assert counters.busy(STAT, 0) == (100 + 20 + 300 + 6 + 7) / counters.HERTZ
    assert counters.busy(STAT, 1) == (1 + 2 + 3 + 6 + 7) / counters.HERTZ
    with pytest.raises(ValueError, match="no core 2"):
        counters.busy(STAT, 2)


SPIN = "import time\nwhile time.process_time() < {}: pass"


def test_the_time_of_living_and_ended_children_counts(tmp_path: Path) -> None:
    """A shell has a child that has ended and one that lives. Both have used CPU time, the shell almost none."""
    ended, lives = (SPIN.format(seconds) for seconds in (0.2, 0.3))
    script = f"{sys.executable} -c '{ended}'; {sys.executable} -c '{lives}\ntime.sleep(60)' & echo both; wait"
    with processes.running(["/bin/sh", "-c", script], HERE, tmp_path / "log") as shell:
        wait_for(lambda: counters.cpu_of(shell.pid) >= 0.48, "half a second of CPU time", timeout=60)
        assert len(counters.family(shell.pid)) == 2
        assert counters.memory_of(shell.pid).resident > counters.memory_of(shell.pid).proportional > 0


def test_the_exact_time_is_that_of_all_processes_and_threads(tmp_path: Path) -> None:
    """Two programs with a second thread each; all have used CPU time and live."""
    thread = f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n{SPIN.format(0.2)}"
    spins = f"{thread}\nprint('used', flush=True)"
    script = f'{sys.executable} -c "{spins}" & {sys.executable} -c "{spins}" & wait'
    with processes.running(["/bin/sh", "-c", script], HERE, tmp_path / "log") as shell:
        wait_for(lambda: shell.said().count("used") == 2, "both to have used their time", timeout=60)
        assert counters.exact_cpu_of(shell.pid) >= 0.4
        assert counters.exact_cpu_of(shell.pid) == pytest.approx(counters.cpu_of(shell.pid), abs=0.1)


def test_the_name_of_the_processor() -> None:
    assert machine.processor("processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t: x\n") == "Some CPU @ 2GHz"


# Programs.


def test_a_missing_program_ends_the_run_and_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.shutil, "which", lambda name, path: None)
    with pytest.raises(Failure, match="nginx is missing: install the Debian package nginx-light"):
        processes.program("nginx")
    with pytest.raises(Failure, match="haproxy is missing: install the Debian package haproxy"):
        machine.describe()


def test_a_failed_run_writes_no_page(tmp_path: Path) -> None:
    code = (
        "import sys; from bench import processes, run\n"
        "processes.shutil.which = lambda name, path: None\n"
        "sys.exit(run.main(['--quick', '--page', sys.argv[1]]))"
    )
    page = tmp_path / "page.md"
    command = [sys.executable, "-c", code, str(page)]
    environment = {**os.environ, "PYTHONPATH": str(TOOLS)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 1
    wanted = "two cores are needed" if len(HERE) < 2 else "haproxy is missing: install the Debian package haproxy"
    assert f"The benchmark has failed: {wanted}" in done.stderr
    assert not page.exists()


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_ends_with_its_block_and_so_do_its_children(tmp_path: Path) -> None:
    """The children ignore SIGTERM."""
    script = "trap '' TERM; sleep 300 & sleep 300 & wait"
    with (
        contextlib.suppress(KeyboardInterrupt),
        processes.running(["/bin/sh", "-c", script], HERE, tmp_path / "log") as shell,
    ):
        wait_for(lambda: len(counters.family(shell.pid)) == 3)
        family = counters.family(shell.pid)
        raise KeyboardInterrupt
    wait_for(lambda: not any(map(is_alive, family)), "all of them to end")


def test_a_program_ends_when_the_benchmark_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bench import processes\n"
        f"with processes.running(['/bin/sleep', '300'], {HERE}, Path(sys.argv[1])) as started:\n"
        "    print(started.pid, flush=True); time.sleep(300)"
    )
    bench = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
    )
    try:
        assert bench.stdout is not None
        pid = int(bench.stdout.readline())
        wait_for(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    finally:
        bench.kill()
        bench.communicate()
    wait_for(lambda: not is_alive(pid), "it to end")


def test_a_program_that_ends_by_itself_ends_the_run(tmp_path: Path) -> None:
    with (
        processes.running(["/bin/sh", "-c", "echo I will not; exit 3"], HERE, tmp_path / "log") as shell,
        pytest.raises(Failure, match="sh ended with 3: I will not"),
    ):
        shell.wait_until_open(free_port())
    with pytest.raises(Failure, match="ended with 3: no"):
        processes.output_of(["/bin/sh", "-c", "echo no; exit 3"], HERE)


# Responses of a real server.


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        body = b"hello from a"
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(body) + (self.path == "/short")))
        if self.path in ("/closing", "/short"):
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class SlowHandler(Handler):
    def do_GET(self) -> None:
        time.sleep(0.05)
        super().do_GET()


@contextlib.contextmanager
def http_server(handler: type[Handler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server for as long as the block lasts; its port. tls: by which it speaks TLS; None: it does not."""
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server that responds `hello from a`."""
    with http_server(Handler) as opened:
        yield opened


@pytest.fixture
def slow_port() -> Iterator[int]:
    """A server that takes 50 ms for a response."""
    with http_server(SlowHandler) as opened:
        yield opened


@pytest.mark.parametrize("one_server", [False, True])
def test_right_responses_pass(port: int, one_server: bool) -> None:
    wanted = {"/": ("hello from a",), "/other": ("hello from b", "hello from a")}
    answers.check("somebody", port, wanted, one_server=one_server)


@pytest.mark.parametrize(
    ("path", "wanted", "complaint"),
    [
        ("/", "hello from b", "somebody answers / with 200 b'hello from a'"),
        ("/missing", "hello from a", "somebody answers /missing with 404"),
        ("/short", "hello from a", "no answer for /short"),
        ("/closing", "hello from a", "has closed a connection"),
    ],
)
def test_a_wrong_response_ends_the_run(port: int, path: str, wanted: str, complaint: str) -> None:
    with pytest.raises(Failure, match=complaint):
        answers.check("somebody", port, {path: (wanted,)})


def test_a_missing_server_ends_the_run() -> None:
    with pytest.raises(Failure, match="no answer for /"):
        answers.check("somebody", free_port(), {"/": ("",)})


def fetcher(port: int, path: str, size: int, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "bench" / "fetcher.py"), str(port), path, str(size), "3", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_fetcher_checks_the_length(port: int) -> None:
    done = fetcher(port, "/closing", 12)
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) > 0
    done = fetcher(port, "/closing", 13)
    assert (done.returncode, done.stderr) == (1, "12 bytes, not 13\n" * 3)


def prober(port: int, path: str, body: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(TOOLS / "bench" / "prober.py"), str(port), path, body]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@contextlib.contextmanager
def killed(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill the process when the block ends."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_the_prober_prints_the_slowest_request_since_the_last_mark(port: int) -> None:
    with killed(prober(port, "/", "hello from a")) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            time.sleep(0.1)
            process.stdin.write("mark\n")
            process.stdin.flush()
            count, slowest = process.stdout.readline().split()
            assert int(count) >= 1
            assert 0 < float(slowest) < 60
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.mark.parametrize(("path", "body"), [("/missing", "hello from a"), ("/closing", "hello from a")])
def test_the_prober_ends_at_a_wrong_response(port: int, path: str, body: str) -> None:
    with killed(prober(port, path, body)) as process:
        assert process.stderr is not None
        assert process.wait(30) == 1
        assert "answer" in process.stderr.read()


# The open loop.


@pytest.fixture(scope="module")
def open_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_loop.build(tmp_path_factory.mktemp("load"))


@pytest.fixture
def requests_to(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of requests for these paths."""

    def write(*paths: str) -> Path:
        made = [f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode() for path in paths]
        return Path(browsers.write_script(tmp_path, "load", made)).with_suffix(".requests")

    return write


def test_every_due_request_is_sent_and_answered(port: int, open_load: Path, requests_to: Callable[..., Path]) -> None:
    report = open_loop.run(open_load, port, requests_to("/", "/other"), HERE, clients=4, rate=100, seconds=0.5)
    assert report.requests == 50
    assert report.seconds >= 0.49
    assert 0 < report.median <= report.slowest


def test_a_closed_loop_sends_until_its_time_is_over(
    port: int, open_load: Path, requests_to: Callable[..., Path]
) -> None:
    report = open_loop.run(open_load, port, requests_to("/"), HERE, clients=4, rate=0, seconds=0.3)
    assert report.requests >= 4
    assert report.seconds >= 0.3


def test_latencies_count_from_the_moment_when_a_request_is_due(
    slow_port: int, open_load: Path, requests_to: Callable[..., Path]
) -> None:
    """Each response takes 50 ms and there is one connection, but a request is due every 10 ms: the last waits long."""
    report = open_loop.run(open_load, slow_port, requests_to("/"), HERE, clients=1, rate=100, seconds=0.1)
    assert report.requests == 10
    assert report.slowest >= 10 * 0.05 - 0.09
    assert report.late < report.slowest


@pytest.mark.parametrize(("path", "complaint"), [("/missing", "404"), ("/closing", "closed"), ("/short", "closed")])
def test_a_wrong_response_ends_the_open_loop(
    port: int, open_load: Path, requests_to: Callable[..., Path], path: str, complaint: str
) -> None:
    with pytest.raises(Failure, match=complaint):
        open_loop.run(open_load, port, requests_to(path), HERE, clients=1, rate=50, seconds=0.2)


@pytest.mark.parametrize(
    "text", ["", "requests 0\nseconds 1.0\nlatency p50 1.0 p99 2.0\nlate p99 1.0\n", "requests 5\n"]
)
def test_a_load_without_figures_ends_the_run(text: str) -> None:
    with pytest.raises(Failure, match="has not measured"):
        open_loop.read(text)


def test_the_goal_of_latencies_compares_with_haproxy() -> None:
    case = results.Case("X", {"ktcpvs": {"p99": [4.0, 6.0, 5.0]}, "HAProxy http": {"p99": [4.0]}})
    assert [(goal.text, goal.value, goal.reached) for goal in scenario_open_loop.goals(case)] == [
        ("X: 99th percentile, ktcpvs / HAProxy http", 1.25, True)
    ]
    del case.figures["HAProxy http"]
    assert scenario_open_loop.goals(case) == []


def test_two_workers_have_cores_of_their_own_where_there_are_four(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {3}, {0, 1, 2}, rounds=1, seconds=1, quick=True)
    place = scenario_open_loop.on_enough_cores(shop)
    assert place is not None
    assert (place.proxy, place.load) == ({2, 3}, {0, 1})
    assert scenario_open_loop.on_enough_cores(evolve(shop, load={0})) is None


# Configurations.

SITE = Site(8080, ("127.0.0.1:9001", "127.0.0.1:9002"), (Rule("/images/", 1),), default=0)


def test_the_configuration_of_ktcpvs_is_valid() -> None:
    table = parse(configurations.ktcpvs(SITE, "phttp"), "test", service_port).apply(Table())
    service = table.services["web"]
    assert [(rule.pattern, [str(server) for server in rule.servers]) for rule in service.rules] == [
        ("^/images/", ["127.0.0.1:9002"]),
        (".*", ["127.0.0.1:9001"]),
    ]
    assert not parse(configurations.ktcpvs(SITE, "wlc"), "test", service_port).apply(Table()).services["web"].rules


@pytest.mark.parametrize("relay", ["copy", "splice", "kernel"])
def test_the_configuration_of_ktcpvs_names_the_relay(relay: str) -> None:
    written = configurations.ktcpvs(SITE, "wlc", relay)
    assert parse(written, "test", service_port).apply(Table()).services["web"].relay == relay
    assert "relay" not in configurations.ktcpvs(SITE, "wlc")


def test_the_configuration_of_haproxy_may_splice() -> None:
    written = configurations.haproxy_tcp(SITE, ("splice-request", "splice-response"))
    assert "    option splice-request\n    option splice-response\n" in written
    assert "splice" not in configurations.haproxy_tcp(SITE)


def test_peers_have_the_same_rules() -> None:
    assert "use_backend s1 if { path_beg /images/ }\n    default_backend s0" in configurations.haproxy_http(SITE)
    assert "location /images/ { proxy_pass http://s1; }" in configurations.nginx_proxy(SITE)
    many = Site(8080, SITE.servers, scenario_rules.many_rules(3), default=0)
    pattern = r"^/customers/1/[a-z]+\.(html|css|js)$"
    assert f'location ~ "{pattern}" {{ proxy_pass http://s1; }}' in configurations.nginx_proxy(many)
    assert configurations.haproxy_map(many).splitlines()[1] == f"{pattern} s1"
    assert "%[path,map_reg(FILE,s0)]" in configurations.haproxy_http(many, "FILE")
    assert f"use_backend s1 if {{ path_reg {pattern} }}" in configurations.haproxy_http(many)


def test_peers_have_the_same_rules_of_hosts() -> None:
    many = Site(8080, SITE.servers, scenario_rules.rules_of_hosts(3, 2), default=0)
    (service,) = parse(configurations.ktcpvs(many, "phttp")).services.values()
    pattern = r"/customers/1/[a-z]+\.(html|css|js)$"
    assert service.rules[1].pattern == f'host h1.example pattern "^{pattern}"'
    assert configurations.haproxy_map(many).splitlines()[1] == f"^h1\\.example{pattern} s1"
    assert "%[base,map_reg(FILE,s0)]" in configurations.haproxy_http(many, "FILE")
    _, default, first, second = configurations.nginx_proxy(many).split("    server {\n")
    assert ("server_name" in default, "location ~" in default) == (False, False)
    assert "server_name h0.example;" in first
    assert first.count("location ~") == 2
    assert f'server_name h1.example;\n        location ~ "^{pattern}" {{ proxy_pass http://s1; }}' in second


def test_requests_to_hosts_match_a_rule_each() -> None:
    made = scenario_rules.requests_to_hosts(50, 7)
    assert made == scenario_rules.requests_to_hosts(50, 7)
    assert len({request.split(b" ", 2)[1] for request in made}) == len(made)
    for request in made[:100]:
        number = int(request.split(b"/")[2])
        assert f"\r\nHost: h{number % 7}.example\r\n".encode() in request


def test_a_site_may_tell_servers_the_client_and_log() -> None:
    logged = evolve(SITE, forwards=True, log="json", log_file="/var/log/access")
    ours = parse(configurations.ktcpvs(logged, "phttp"))
    assert "x_forwarded_for = append" in configurations.ktcpvs(logged, "phttp")
    assert [service.access_log_format for service in ours.services.values()] == ["json"]
    assert "option forwardfor" in configurations.haproxy_http(logged)
    assert "log stdout format raw" in configurations.haproxy_http(logged)
    assert "access_log /var/log/access json buffer=64k flush=1s;" in configurations.nginx_log(logged)
    assert "$proxy_add_x_forwarded_for" in configurations.nginx_proxy(logged)
    assert configurations.nginx_log(SITE) == "access_log off;"
    assert "log stdout" not in configurations.haproxy_http(SITE)


def test_a_site_with_sessions_uses_the_same_cookie_everywhere() -> None:
    kept = evolve(SITE, sessions=True)
    assert "rule" not in configurations.ktcpvs(kept, "chttp")
    assert "cookie KTCPVS_SID insert indirect nocache" in configurations.haproxy_http(kept)


def test_haproxy_waits_for_the_first_request_of_a_connection() -> None:
    written = configurations.haproxy_inspect(SITE)
    assert "tcp-request inspect-delay" in written
    assert "use_backend s1 if { path_beg /images/ }" in written
    assert "mode tcp" in written


# Requests of browsers.


def test_requests_of_browsers_are_the_same_in_every_run_and_differ_among_themselves() -> None:
    made = browsers.make_requests(2000)
    assert made == browsers.make_requests(2000)
    assert len(set(made)) == 2000
    assert all(500 <= len(request) <= 900 for request in made)
    assert len({re.search(rb"sid=(\w+)", request)[1] for request in made}) > 1500  # type: ignore[index]
    for request in made:
        assert REQUEST_HEAD.fullmatch(request)


def test_requests_of_browsers_may_end_connections_have_sessions_and_one_form_of_paths() -> None:
    assert all(b"\r\nConnection: close\r\n" in request for request in browsers.make_requests(100, close=True))
    made = browsers.make_requests(100, sessions=["KTCPVS_SID=a", "KTCPVS_SID=b"], path="/x/@.html")
    assert b"\r\nCookie: KTCPVS_SID=b; sid=" in made[1]
    assert b"GET /x/bc.html HTTP/1.1" in made[12]


def test_a_script_has_its_requests_in_a_file(tmp_path: Path) -> None:
    script = Path(browsers.write_script(tmp_path, "x", [b"one\r\n", b"two\r\n"]))
    assert (tmp_path / "x.requests").read_bytes() == b"one\r\n\0two\r\n\0"
    assert str(tmp_path / "x.requests") in script.read_text()


def test_a_checkout_to_compare_with_must_be_one(tmp_path: Path) -> None:
    assert run.checkout(str(TOOLS.parent.parent)) == TOOLS.parent.parent.resolve()
    with pytest.raises(argparse.ArgumentTypeError, match="is no checkout of ktcpvs"):
        run.checkout(str(tmp_path))


def test_a_peer_that_was_not_measured_has_no_goal() -> None:
    case = results.Case("", {"ktcpvs": {"cpu": [10.0]}, "nginx": {"cpu": [9.0]}})
    assert [(goal.text, goal.value) for goal in case.goals("cpu", {"nginx": 1.0, "HAProxy http": 1.0})] == [
        ("nginx / ktcpvs", 0.9)
    ]


def test_responses_have_12_bytes() -> None:
    assert [len(configurations.answer(number)) for number in range(3)] == [12, 12, 12]


# The page.


def scenario(letter: str = "A") -> results.Scenario:
    case = results.Case("few & <small>", FIGURES)
    goals = [case.ratio_goal("nginx", "ktcpvs", "cpu", 1.0), results.Goal("memory", 7.0, 6.0, at_most=True, unit="KiB")]
    return results.Scenario(
        letter, "Small answers", "What is done.", ["cpu", "rate"], [case], goals, ["A note."], "3 rounds"
    )


def texts(svg: str) -> list[str]:
    return [
        "".join(node.itertext()) for node in xml.etree.ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    ]


def test_the_bars_of_a_chart_have_one_scale() -> None:
    svg = document.picture(scenario())
    root = xml.etree.ElementTree.fromstring(svg)
    widths = [float(node.attrib["width"]) for node in root.iter() if node.tag.endswith("rect")]
    assert widths[1] / widths[0] == pytest.approx(1.5, abs=0.01)
    assert texts(svg) == [
        "A. Small answers",
        "few & <small>: CPU of the proxy per request",
        "ktcpvs", "30.0 us",
        "nginx", "45.0 us",
    ]  # fmt: skip
    assert "prefers-color-scheme: dark" in svg


def test_a_chart_stays_in_its_frame() -> None:
    root = xml.etree.ElementTree.fromstring(document.picture(scenario()))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for node in root.iter():
        if node.tag.endswith("rect"):
            assert float(node.attrib["x"]) + float(node.attrib["width"]) <= width
            assert float(node.attrib["y"]) + float(node.attrib["height"]) <= height


def test_an_empty_chart_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        chart.draw("Nothing", [chart.Group("", ())])


def test_the_table_of_a_case() -> None:
    assert document.table(scenario().cases[0], ["cpu", "rate", "p99"]) == [
        "|  | CPU of the proxy per request, us | requests per second | peer / ktcpvs |",
        "|---|---:|---:|---:|",
        "| ktcpvs | 30.0 (20.0..40.0) | 200 (100..300) |  |",
        "| nginx | 45.0 (15.0..90.0) | 2 (1..3) | 1.50 |",
    ]


def test_the_page_lists_goals_with_their_outcome() -> None:
    assert list(map(document.goal_line, scenario().goals)) == [
        "| few & <small>: nginx / ktcpvs | at least 1 | 1.50 | reached |",
        "| memory | at most 6 KiB | 7.00 KiB | **not reached** |",
    ]


def test_the_page_names_scenarios_that_were_not_measured() -> None:
    skipped = results.Scenario("I", "Workers", "Two of them.", ["rate"], skipped="there is one core.")
    page = document.markdown(document.Results({}, {"I": skipped}))
    assert "**Not measured**: there is one core." in page
    assert "| I | Workers | | | not measured |" in page
    assert "i.svg" not in page


def test_results_can_be_read_back() -> None:
    found = document.Results({"cores": "2"}, {"A": scenario()})
    assert document.from_text(document.as_json(found)) == found


def test_the_page_its_charts_and_its_figures_are_written(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    document.write(document.Results({"cores": "2"}, {"A": scenario("A"), "B": scenario("B")}), page)
    folder = tmp_path / "benchmarks"
    assert sorted(path.name for path in folder.iterdir()) == ["a.svg", "b.svg", "results.json"]
    text = page.read_text()
    for name in ("a.svg", "b.svg", "results.json"):
        assert f"](benchmarks/{name})" in text
    assert "| cores | 2 |" in text
    assert "A note." in text
    assert json.loads((folder / "results.json").read_text())["scenarios"][0]["cases"][0]["figures"] == FIGURES


def test_other_scenarios_stay_on_the_page_unless_the_machine_differs(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    document.write(document.Results({"cores": "2"}, {"B": scenario("B")}), page)
    together = document.write(document.Results({"cores": "2"}, {"A": scenario("A")}), page)
    assert list(together.scenarios) == ["A", "B"]
    assert "## B. " in page.read_text()
    document.write(document.Results({"cores": "4"}, {"A": scenario("A")}), page)
    assert "## B. " not in page.read_text()


# TLS.


def workshop(folder: Path) -> Workshop:
    return Workshop(folder, HERE, HERE, rounds=1, seconds=1, quick=True)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate.make(workshop(tmp_path_factory.mktemp("certificate")))


@pytest.fixture(scope="module")
def tls_port(pem: Path) -> Iterator[int]:
    """The server that responds `hello from a`, by TLS."""
    with http_server(Handler, _server_context(pem)) as opened:
        yield opened


@pytest.fixture(scope="module")
def handshake_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handshakes.build(tmp_path_factory.mktemp("handshakes"))


def test_the_certificate_is_made_once_and_for_the_name_that_clients_send(pem: Path) -> None:
    shop = workshop(pem.parent)
    before = pem.read_bytes()
    assert certificate.make(shop).read_bytes() == before
    context = ssl.create_default_context(cafile=pem)
    with (
        http_server(Handler, _server_context(pem)) as port,
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname=configurations.NAME) as tls,
    ):
        assert tls.version() == "TLSv1.3"


def _server_context(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@pytest.mark.parametrize("kind", [handshakes.FULL, handshakes.RESUMED])
def test_each_request_has_a_handshake_of_the_kind_that_is_wanted(
    tls_port: int, handshake_load: Path, requests_to: Callable[..., Path], kind: str
) -> None:
    asked = requests_to("/closing", "/closing")
    report = handshakes.run(handshake_load, tls_port, asked, HERE, kind, clients=1, seconds=1)
    assert report.requests > 1
    assert report.resumed == (0 if kind == handshakes.FULL else report.requests - 1)
    assert 0 < report.slowest < 60


def test_sessions_that_a_server_refuses_end_the_run(
    pem: Path, handshake_load: Path, requests_to: Callable[..., Path]
) -> None:
    context = _server_context(pem)
    context.num_tickets = 0
    asked = requests_to("/closing")
    with http_server(Handler, context) as port, pytest.raises(Failure, match="handshakes are to be resumed"):
        handshakes.run(handshake_load, port, asked, HERE, handshakes.RESUMED, clients=1, seconds=0.3)


@pytest.mark.parametrize(("path", "complaint"), [("/missing", "404"), ("/short", "before its response was complete")])
def test_a_wrong_response_ends_the_load_of_handshakes(
    tls_port: int, handshake_load: Path, requests_to: Callable[..., Path], path: str, complaint: str
) -> None:
    asked = requests_to(path)
    with pytest.raises(Failure, match=complaint):
        handshakes.run(handshake_load, tls_port, asked, HERE, handshakes.FULL, clients=2, seconds=0.2)


def test_a_server_without_tls_ends_the_load_of_handshakes(
    port: int, handshake_load: Path, requests_to: Callable[..., Path]
) -> None:
    with pytest.raises(Failure, match="a handshake has failed"):
        handshakes.run(handshake_load, port, requests_to("/"), HERE, handshakes.FULL, clients=1, seconds=0.2)


@pytest.mark.parametrize("text", ["", "requests 0\nresumed 0\nseconds 1.0\nlatency p50 1.0 p99 2.0 max 3.0\n"])
def test_a_load_of_handshakes_without_figures_ends_the_run(text: str) -> None:
    with pytest.raises(Failure, match="has not measured"):
        handshakes.read(text)


def test_responses_by_tls_are_looked_at(tls_port: int) -> None:
    answers.check("somebody", tls_port, {"/": ("hello from a",)}, is_tls=True)
    with pytest.raises(Failure, match="no answer for /"):
        answers.check("somebody", tls_port, {"/": ("hello from a",)})


def test_the_fetcher_speaks_tls(tls_port: int) -> None:
    done = fetcher(tls_port, "/closing", 12, "tls")
    assert (done.returncode, done.stderr) == (0, "")
    done = fetcher(tls_port, "/closing", 13, "tls")
    assert (done.returncode, done.stderr) == (1, "12 bytes, not 13\n" * 3)


def test_every_proxy_gets_the_same_certificate_and_version() -> None:
    site = evolve(SITE, certificate="/tmp/tls.pem")
    written = configurations.ktcpvs(site, "phttp")
    (service,) = parse(written, "", service_port).apply(Table()).services.values()
    assert [listener.is_tls for listener in service.listen] == [True]
    assert (service.certificate, service.tls_min) == (("/tmp/tls.pem",), "1.3")
    assert " ssl crt /tmp/tls.pem ssl-min-ver TLSv1.3 " in configurations.haproxy_http(site)
    nginx = configurations.nginx_proxy(site)
    assert f"listen 127.0.0.1:{site.port} ssl;" in nginx
    assert "ssl_certificate /tmp/tls.pem;" in nginx
    assert "ssl_protocols TLSv1.3;" in nginx
    for without in (configurations.haproxy_http(SITE), configurations.nginx_proxy(SITE)):
        assert "ssl" not in without


def test_tls_passed_through_is_chosen_by_the_name_that_clients_send() -> None:
    (service,) = parse(configurations.ktcpvs(SITE, "sni"), "", service_port).apply(Table()).services.values()
    assert [rule.pattern for rule in service.rules] == [f"host {configurations.NAME}"]
    assert f"req.ssl_sni -i {configurations.NAME} " in configurations.haproxy_sni(SITE)


def test_the_goals_of_tls_passed_through() -> None:
    small = {"beyond": 5.0, "own": 0.4, "rate": 60.0}, {"beyond": 6.0, "own": 8.0, "rate": 50.0}
    goals, _ = scenario_passthrough.goals_of(relay_case("small, pinned", *small))
    assert [(goal.value, goal.wanted, goal.reached) for goal in goals] == [(0.4, 0.5, True), (1.2, 1.0, True)]
    bulk = {"beyond_gb": 500.0, "own_gb": 2.0}, {"beyond_gb": 400.0, "own_gb": 100.0}
    goals, _ = scenario_passthrough.goals_of(relay_case("64 KiB, unpinned", *bulk))
    assert [(goal.value, goal.wanted, goal.reached) for goal in goals] == [(0.8, 1.0, False)]
    goals, notes = scenario_passthrough.goals_of(relay_case("small, unpinned", {"beyond": -1.0}, {"beyond": 4.0}))
    assert not goals
    assert len(notes) == 1


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.skipif(len(HERE) < 2, reason="a proxy needs a core of its own")
@pytest.mark.slow
def test_a_quick_run_measures_tls(tmp_path: Path) -> None:
    """Every scenario with TLS, with all proxies, for a second each."""
    page = tmp_path / "page.md"
    words = ["--quick", "--rounds", "1", "--only", "L,M,N,O,P", "--page", str(page)]
    environment = {**os.environ, "PYTHONPATH": str(TOOLS)}
    command = [sys.executable, str(TOOLS / "bench"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    for letter in "LMNOP":
        section = text.split(f"## {letter}. ")[1].split("\n## ")[0]
        assert "| ktcpvs" in section
        assert "| HAProxy" in section


# What the page opens with.


def realistic(letter: str, *cases: results.Case) -> results.Scenario:
    goals = [goal for case in cases for goal in case.goals("cpu", {"HAProxy http": 0.8})]
    return results.Scenario(letter, "", "", ["cpu"], list(cases), goals)


def costs(label: str, **peers: float) -> results.Case:
    names = {"ours": "ktcpvs", "haproxy": "HAProxy http", "nginx": "nginx", "baseline": "ktcpvs, baseline"}
    return results.Case(label, {names[peer]: {"cpu": [cost]} for peer, cost in peers.items()})


MEASURED = {
    "A": realistic("A", costs("", ours=10, haproxy=5)),
    "E": realistic("E", costs("identical", ours=10, haproxy=30), costs("browsers", ours=10, haproxy=8)),
    "X": realistic("X", costs("", ours=10, haproxy=11, nginx=6, baseline=50)),
    "Y": realistic("Y", costs("combined", ours=10, baseline=20)),
}


def test_realistic_work_is_compared_with_each_peer_and_nothing_else_is() -> None:
    rows = overview.comparisons(MEASURED)
    assert [(row.letter, row.peer, row.ratio, row.wanted) for row in rows] == [
        ("X", "HAProxy", 1.1, 0.8),
        ("X", "nginx", 0.6, None),
        ("E", "HAProxy", 0.8, 0.8),
    ]


def test_the_page_opens_with_what_is_ahead_and_what_is_behind() -> None:
    latency = results.Goal("X: 99th percentile, ktcpvs / HAProxy http", 1.5, 1.3, at_most=True)
    measured = {**MEASURED, "W": results.Scenario("W", "", "", ["p99"], [], [latency])}
    chart_line, _, *items = overview.lines(measured)
    told = [chart_line, *(" ".join(item.split()) for item in items)]
    assert told[0].endswith("](benchmarks/overview.svg)")
    assert told[1].endswith(": X browser requests, HAProxy 1.10.")
    assert told[2].endswith(": X browser requests, nginx 0.60; E new client connections, HAProxy 0.80.")
    assert told[3].endswith("ktcpvs / HAProxy http 1.50, at most 1.3 wanted: **not reached**.")
    assert told[4].startswith("- Not measured beside a peer: Y with a combined log; Y with a JSON log; Z session")


def test_without_realistic_work_the_page_has_no_such_chart(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    document.write(document.Results({}, MEASURED), page)
    assert (tmp_path / "benchmarks" / "overview.svg").exists()
    assert "](benchmarks/overview.svg)" in page.read_text()
    document.write(document.Results({"cores": "4"}, {"A": MEASURED["A"]}), page)
    assert not (tmp_path / "benchmarks" / "overview.svg").exists()
    assert "overview.svg" not in page.read_text()
    with pytest.raises(ValueError, match="nothing to draw"):
        overview.picture([])


def test_bars_begin_at_one_and_point_to_the_cheaper_side() -> None:
    svg = overview.picture(overview.comparisons(MEASURED))
    root = xml.etree.ElementTree.fromstring(svg)
    bars = [node.attrib for node in root.iter() if node.tag.endswith("rect")]
    assert [bar["class"] for bar in bars] == ["ahead", "behind", "behind"]
    middle = float(bars[0]["x"])
    for bar in bars[1:]:
        assert float(bar["x"]) + float(bar["width"]) == pytest.approx(middle, abs=0.2)
    assert {"1.10", "0.60", "0.80"} <= set(texts(svg))
    assert all(0 <= float(bar["x"]) <= overview.WIDTH - float(bar["width"]) for bar in bars)
    assert "prefers-color-scheme: dark" in svg


def test_a_page_is_drawn_again_from_its_figures_and_those_of_other_runs(tmp_path: Path) -> None:
    page, other = tmp_path / "page" / "benchmarks.md", tmp_path / "other" / "benchmarks.md"
    for path, letter in ((page, "A"), (other, "X")):
        path.parent.mkdir()
        document.write(document.Results({"cores": "2"}, {letter: MEASURED[letter]}), path)
    page.unlink()
    assert run.main(["--page", str(page), "--redraw", str(other.parent / "benchmarks" / "results.json")]) == 0
    assert "| A | HAProxy http / ktcpvs |" in page.read_text()
    assert "| X | HAProxy http / ktcpvs |" in page.read_text()
    assert run.main(["--page", str(page), "--redraw", str(tmp_path / "missing.json")]) == 1


# Relays.


def relay_case(label: str, kernel: dict[str, float], haproxy: dict[str, float]) -> results.Case:
    """A case of one round."""
    both = {relay_goals.KERNEL: kernel, "HAProxy tcp": haproxy}
    figures = {name: {key: [value] for key, value in measured.items()} for name, measured in both.items()}
    return results.Case(label, {"no proxy": {"all": [10.0]}, **figures})


def found_goals(case: results.Case) -> list[tuple[float, float, bool]]:
    """(value, goal, whether it is reached) of each."""
    return [(round(goal.value, 6), goal.wanted, goal.reached) for goal in relay_goals.goals_of([case])[0]]


def test_the_goals_of_relays() -> None:
    small = {"beyond": 5.0, "own": 0.4, "rate": 60.0}, {"beyond": 6.0, "own": 8.0, "rate": 50.0}
    assert found_goals(relay_case("wlc, pinned", *small)) == [(0.4, 0.5, True), (1.2, 1.0, True)]
    assert found_goals(relay_case("http, pinned", *small)) == [(1.2, 1.0, True)]
    assert found_goals(relay_case("wlc, unpinned", *small)) == [(1.2, 1.0, True), (1.2, 1.0, True)]
    assert found_goals(relay_case("wlc, one core", *small)) == [(1.2, 1.5, False)]
    large = {"beyond_gb": 500.0, "own_gb": 2.0, "speed": 900.0}, {"beyond_gb": 400.0, "own_gb": 100.0, "speed": 1000.0}
    assert found_goals(relay_case("100 MiB, pinned", *large)) == [(2.0, 1.0, False), (0.8, 1.0, False)]
    assert found_goals(relay_case("64 KiB, unpinned", *large)) == [(0.8, 1.0, False), (0.9, 1.0, False)]
    both = relay_case("64 KiB, pinned", *large)
    both.figures["HAProxy tcp, always splices"] = {"beyond_gb": [600.0]}
    assert found_goals(both) == [(0.8, 1.0, False), (1.2, 1.0, True)]
    memory = relay_case("memory", {"proportional": 2.9}, {"proportional": 1.0})
    assert found_goals(memory) == [(2.9, 3.0, True)]


def test_without_comparable_figures_there_are_no_goals() -> None:
    case = relay_case("http, pinned", {"beyond": -1.0}, {"beyond": 4.0})
    goals, notes = relay_goals.goals_of([case])
    assert not goals
    assert len(notes) == 1
    assert notes[0].startswith("http, pinned: ")
    del case.figures[relay_goals.KERNEL]
    assert relay_goals.goals_of([case]) == ([], [])


def test_on_busy_cores_splice_is_compared_with_copy() -> None:
    case = results.Case("wlc, contended", {"ktcpvs copy": {"rate": [100.0]}, "ktcpvs splice": {"rate": [95.0]}})
    assert found_goals(case) == [(0.95, 0.9, True)]
    del case.figures["ktcpvs copy"]
    assert found_goals(case) == []


def test_the_cores_of_proxy_and_load(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, {3}, {0, 1}, rounds=1, seconds=1, quick=True)
    places = {place: scenario_relays.place_of(shop, place) for place in ("pinned", "unpinned", "one core", "contended")}
    cores = {place: (there.proxy, there.load) for place, there in places.items()}
    everywhere = ({0, 1, 3}, {0, 1, 3})
    assert cores == {"pinned": ({3}, {0, 1}), "unpinned": everywhere, "one core": ({3}, {3}), "contended": everywhere}


def test_every_goal_of_relays_has_its_case() -> None:
    labels = [work.label(size) for work in scenario_relays.works(quick=False) for size in work.sizes]
    assert labels == [
        *("wlc, pinned", "64 KiB, pinned", "100 MiB, pinned", "http, pinned"),
        *("wlc, unpinned", "64 KiB, unpinned", "100 MiB, unpinned", "http, unpinned"),
        *("wlc, one core", "http, one core", "wlc, contended"),
    ]
    assert [work.place for work in scenario_relays.works(quick=True)] == ["pinned"]


def test_a_relay_that_the_machine_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario_relays.bpf, "available", lambda: "no right to it")
    assert scenario_relays.relays() == (["copy", "splice"], "no right to it")


def test_a_chart_omits_missing_figures_and_draws_negative_ones_as_empty_bars() -> None:
    case = relay_case("wlc, pinned", {"beyond": -1.0}, {"beyond": 4.0})
    svg = document.picture(results.Scenario("K", "Relays", "", ["beyond", "all"], [case]))
    assert texts(svg)[2:] == [relay_goals.KERNEL, "-1.0 us", "HAProxy tcp", "4.0 us"]
    widths = [
        float(node.attrib["width"]) for node in xml.etree.ElementTree.fromstring(svg).iter() if "rect" in node.tag
    ]
    assert widths[0] == 0 < widths[1]


def test_a_scenario_without_goals_has_no_table_of_them() -> None:
    assert "| goal |" in document.section(scenario())
    without = scenario()
    without.goals = []
    assert "| goal |" not in document.section(without)


# The command line.


def test_scenarios_are_chosen_by_their_letters() -> None:
    assert run.letters("") == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert run.letters("e, A") == ["A", "E"]
    with pytest.raises(argparse.ArgumentTypeError, match="no scenario 1"):
        run.letters("A,1")


H2LOAD = """\
finished in 1.00s, 8961.00 req/s, 1.40MB/s
requests: 8961 total, 9000 started, 8961 done, 8961 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 8961 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.40MB (1468000) total, 100B (100) headers (space savings 90.00%), 100B (100) data
                     min         max         mean         sd        +/- sd
time for request:      212us     20.15ms      3.51ms      1.22ms    80.00%
"""


def test_what_h2load_says() -> None:
    assert h2load.read(H2LOAD) == load.Report(8961, 1.0, pytest.approx(0.02015))
    for wrong in ("8961 2xx, 0 3xx, 0 4xx, 0 5xx", "8961 2xx, 0 3xx, 1 4xx, 0 5xx"), ("0 failed", "2 failed"):
        with pytest.raises(Failure, match="h2load"):
            h2load.read(H2LOAD.replace(*wrong))
    with pytest.raises(Failure, match="has not measured"):
        h2load.read("nothing")


def test_the_command_of_h2load() -> None:
    words = h2load.command(8080, 4, path="/a", is_tls=True, lines=("te: trailers",))
    assert words[1:] == ["-c16", "-m10", "-t1", "-D4", "-H", "te: trailers", "https://localhost:8080/a"]
