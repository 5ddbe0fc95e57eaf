"""HTTP/2 to servers: nghttpd, nginx, HAProxy and Node, behind clients of both versions."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http2_servers import HTTP2HAProxy, HTTP2Nginx, HTTP2Node, HTTP2Server, Nghttpd
from http_servers import BIG, sha256
from servers import LOOPBACK, free_port, program, reset, wait_for
from tls_peers import authority
from tls_servers import TLSNginx

from .harness import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.programs]

KINDS = [Nghttpd, HTTP2Nginx, HTTP2HAProxy, HTTP2Node]

versions = pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])


@pytest.fixture(scope="module", params=KINDS, ids=[kind.name for kind in KINDS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTP2Server]:
    server: HTTP2Server = request.param(tmp_path_factory.mktemp(request.param.name))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTP2Server]:
    server = HTTP2Node(tmp_path_factory.mktemp("node"))
    yield server
    server.stop()


def start(daemon: Daemon, *lines: str, settings: str = "") -> int:
    """Start a service with these lines, which clients of both versions can use. Return its port."""
    port = free_port()
    text = "\n".join((f"listen = {LOOPBACK}:{port}", "scheduler = phttp", *lines))
    daemon.call("load", f"global {{ {settings} }}\nVirtual web{port} {{\n{text}\n}}\n")
    daemon.call("start", f"web{port}")
    return port


def plain(server: HTTP2Server, words: str = "") -> str:
    return f"server = {server.plain} 1 h2 {words}"


def with_tls(address: str) -> str:
    return f"server = {address} 1 tls h2 ca {authority().pem}"


def curl(port: int, path: str, *arguments: str) -> bytes:
    command = [program("curl"), "-s", "-S", "--max-time", "20", *arguments, f"http://{LOOPBACK}:{port}{path}"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def row(daemon: Daemon) -> dict[str, Any]:
    """The first server of the first service, in --stats."""
    found: dict[str, Any] = daemon.call("stats")["services"][0]["servers"][0]
    return found


@versions
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_files_come_from_every_server(daemon: Daemon, server: HTTP2Server, version: str, is_tls: bool) -> None:
    port = start(daemon, with_tls(server.tls) if is_tls else plain(server))
    for _ in range(3):
        assert curl(port, "/hello.txt", version).decode().strip() == server.hello
    if server.has_files:
        assert sha256(curl(port, "/big.bin", version)) == sha256(BIG)
        status = curl(port, "/none", version, "-o", "/dev/null", "-w", "%{http_code}")
        assert status == b"404"
    assert curl(port, "/hello.txt", version, "-I").startswith((b"HTTP/1.1 200", b"HTTP/2 200"))


@versions
@pytest.mark.parametrize("workers", [0, 2])
def test_bodies_go_both_ways_at_once(
    daemon: Daemon, node: HTTP2Server, version: str, workers: int, tmp_path: Path
) -> None:
    port = start(daemon, plain(node))
    upload = tmp_path / "upload"
    upload.write_bytes(BIG)
    for length in (), ("-H", "Transfer-Encoding: chunked") if version == "--http1.1" else ():
        assert sha256(curl(port, "/echo", version, "--data-binary", f"@{upload}", *length)) == sha256(BIG)
    assert curl(port, "/echo", version, "--data-binary", "") == b""


@versions
def test_trailers_arrive(daemon: Daemon, node: HTTP2Server, version: str) -> None:
    port = start(daemon, plain(node))
    assert b"x-sum: 17" in curl(port, "/echo", version, "-i", "--data-binary", "hello").lower()


@versions
def test_a_server_that_chooses_http1_gets_it(daemon: Daemon, tmp_path: Path, version: str) -> None:
    nginx = TLSNginx(tmp_path)
    try:
        port = start(daemon, with_tls(nginx.address("good")))
        said = [curl(port, f"/{number}", version).decode() for number in range(5)]
        assert [line.split(" ")[0] for line in said] == ["good"] * 5
        assert len({line.split(" ")[1] for line in said}) == 1, "one kept connection"
    finally:
        nginx.stop()


def test_requests_share_a_connection(daemon: Daemon, server: HTTP2Server) -> None:
    port = start(daemon, plain(server))
    threads = [threading.Thread(target=curl, args=(port, "/hello.txt", "--http1.1")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = row(daemon)["stats"]
    assert (stats["total"], stats["failures"], stats["retries"]) == (20, 0, 0)


def test_a_client_that_leaves_cancels_its_stream(daemon: Daemon, node: HTTP2Server) -> None:
    port = start(daemon, plain(node))
    closed = node.folder / "www/closed"
    with contextlib.closing(socket.create_connection((LOOPBACK, port), 20)) as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        said = b""
        while b"begun" not in said:
            said += sock.recv(65536)
        reset(sock)
    wait_for(lambda: closed.exists() and closed.read_text() == "8\n", "the server to see CANCEL")
    assert curl(port, "/hello.txt", "--http1.1").decode() == node.hello
    assert row(daemon)["stats"]["failures"] == 0


@versions
def test_a_server_that_goes_away_costs_no_request(daemon: Daemon, node: HTTP2Server, version: str) -> None:
    port = start(daemon, plain(node))
    for _ in range(10):
        assert curl(port, "/goaway", version) == b"last"
    assert row(daemon)["stats"]["failures"] == 0


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_checks_speak_http2(daemon: Daemon, server: HTTP2Server, is_tls: bool) -> None:
    quick = "check_interval = 1", "check_rise = 1", "check_fall = 1"
    line = with_tls(server.tls) if is_tls else plain(server)
    start(daemon, line, "check = http /hello.txt", *quick)
    ident = daemon.call("stats")["services"][0]["ident"]
    if server.has_files:
        daemon.call("edit_service", ident, check="http /none")
        wait_for(lambda: row(daemon)["health"]["state"] == "down", "the check to fail")
        assert "status 404" in row(daemon)["health"]["reason"]
        daemon.call("edit_service", ident, check="http /hello.txt")
        wait_for(lambda: row(daemon)["health"]["state"] == "up", "the check to pass")


def test_the_word_survives_saving(daemon: Daemon, node: HTTP2Server) -> None:
    start(daemon, plain(node))
    saved = daemon.adm("--save").stdout
    assert f"server = {node.plain} 1 h2\n" in saved
    listed = json.loads(daemon.adm("--list", "--json").stdout)
    assert listed["services"][0]["servers"][0]["h2"] is True
    ident = listed["services"][0]["ident"]
    daemon.adm("--edit-server", "-i", ident, "-r", node.plain, "h2", "off")
    assert f"server = {node.plain} 1\n" in daemon.adm("--save").stdout
    daemon.adm("--edit-server", "-i", ident, "-r", node.plain, "h2")
    assert f"server = {node.plain} 1 h2\n" in daemon.adm("--save").stdout
