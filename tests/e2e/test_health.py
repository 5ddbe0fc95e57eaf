"""Health checks of real servers that die, come back, respond wrongly or not at all."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, SocketServer, free_port, speak_first, wait_for

from .harness import Daemon

pytestmark = pytest.mark.e2e

QUICK = {"check_interval": 1, "check_timeout": 5, "check_rise": 1, "check_fall": 1}
"""Options with which one check decides. The timeout leaves a busy machine time to respond."""


@pytest.fixture(params=["uvloop", "epoll"])
def reactor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def health(daemon: Daemon, place: int = 0) -> dict[str, Any]:
    """The health of the server at `place` of the first service."""
    return dict(daemon.call("stats")["services"][0]["servers"][place]["health"])


def is_up(daemon: Daemon, place: int = 0) -> bool:
    return bool(health(daemon, place)["state"] == "up")


def asked(port: int) -> tuple[int, str]:
    """Request / and return (status, name of the server)."""
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=10)) as client:
        client.request("GET", "/")
        answer = client.getresponse()
        return answer.status, answer.read().split()[0].decode()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_dies_gets_no_request_until_it_comes_back(
    daemon: Daemon, nginx: Callable[[str], Nginx], workers: int
) -> None:
    one, two = nginx("one"), nginx("two")
    port = free_port()
    rules = (".*", one.address), (".*", two.address)
    check = "http / expect 200"
    daemon.service("web", port, one.address, two.address, scheduler="phttp", rules=rules, check=check, eject=0, **QUICK)
    assert {asked(port) for _ in range(10)} == {(200, "one"), (200, "two")}
    one.stop()
    wait_for(lambda: not is_up(daemon))
    assert health(daemon)["reason"].startswith("check: ")
    assert {asked(port) for _ in range(10)} == {(200, "two")}
    daemon.wait_for_log(f"service web: server {one.address} is down: check: ")
    assert "     down since 2" in daemon.adm("--stats").stdout
    if workers:
        daemon.set(debug_level=3)
        for worker in daemon.workers():
            os.kill(worker, signal.SIGKILL)  # the new worker learns which servers are down
        daemon.wait_for_log("serves, process", workers)
        assert {asked(port) for _ in range(10)} == {(200, "two")}
    two.stop()
    wait_for(lambda: not is_up(daemon, 1))
    status, _ = asked(port)
    assert status == 503
    one.start()
    wait_for(lambda: is_up(daemon))
    wait_for(lambda: asked(port) == (200, "one"))
    assert health(daemon)["reason"] == "a check has passed"


@pytest.mark.parametrize("length", [5, 500_000])
def test_http_checks_reuse_their_connection(daemon: Daemon, serve: Callable[..., SocketServer], length: int) -> None:
    heard: list[bytes] = []

    def answers(sock: socket.socket) -> None:
        while data := sock.recv(10_000):
            heard.append(data)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + bytes(length))

    server = serve(answers)
    daemon.service("web", free_port(), server.address, check="http /check", **QUICK)
    wait_for(lambda: len(heard) >= 3)
    assert server.accepted == 1
    assert heard[0].startswith(b"GET /check HTTP/1.1\r\n")
    assert f"\r\nHost: {server.address}\r\n".encode() in heard[0]


@pytest.mark.parametrize(
    ("check", "said", "well"),
    [
        (r'send "" expect "220 "', b"220 hello\r\n", True),
        (r'send "" expect "221 "', b"220 hello\r\n", False),
        (r'send "PING\r\n" expect "PING"', b"", True),
        ("tcp", b"", True),
        ("http /", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        ("http / expect 204", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        ("http /", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", False),
        ("http /", b"no http at all\r\n\r\n", False),
        ("http /", b"", False),
    ],
)
@pytest.mark.parametrize("unix", [False, True])
def test_a_check_compares_the_response_with_what_it_expects(
    daemon: Daemon, serve: Callable[..., SocketServer], tmp_path: Any, check: str, said: bytes, well: bool, unix: bool
) -> None:
    checks: list[int] = []

    def answers(sock: socket.socket) -> None:
        if not check.startswith("http"):
            checks.append(1)
            speak_first(said)(sock)
        while sock.recv(10_000):
            checks.append(1)
            sock.sendall(said)

    server = serve(answers, str(tmp_path / "socket")) if unix else serve(answers)
    options = QUICK if well else {**QUICK, "check_timeout": 1}
    daemon.service("s", free_port(), server.address, check=check, eject=0, **options)
    wait_for(lambda: len(checks) >= 2 if well else not is_up(daemon))
    assert is_up(daemon) == well
    if not well:
        reason = health(daemon)["reason"]
        assert reason.startswith("check: ")
        assert "\n" not in reason


def test_a_server_that_hangs_is_down(daemon: Daemon, serve: Callable[..., SocketServer]) -> None:
    enough = threading.Event()
    server = serve(lambda sock: enough.wait(20))
    daemon.service("s", free_port(), server.address, **{**QUICK, "check": "http /", "check_timeout": 1})
    try:
        wait_for(lambda: not is_up(daemon))
        assert health(daemon)["reason"] == "check: nothing within 1 s"
    finally:
        enough.set()


@pytest.mark.parametrize("endless", [b"X: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_check_ends_a_response_without_end(
    daemon: Daemon, serve: Callable[..., SocketServer], endless: bytes
) -> None:
    """It does so before check_timeout, and does not log each interim response."""

    def talks(sock: socket.socket) -> None:
        sock.recv(10_000)
        sock.sendall(b"HTTP/1.1 200 OK\r\n" if endless.startswith(b"X") else b"")
        while True:
            sock.sendall(endless * 1000)

    server = serve(talks)
    daemon.service("s", free_port(), server.address, **{**QUICK, "check": "http /", "check_timeout": 3600})
    wait_for(lambda: not is_up(daemon))
    assert health(daemon)["reason"] == "check: no answer: a head without an end, 65536 bytes of it"
    wait_for(lambda: not server.living)
    assert "unexpected" not in daemon.log()


def test_a_malformed_check_is_refused(daemon: Daemon) -> None:
    refused = daemon.adm("-A", "-i", "web", "check=http health", check=False)
    assert refused.returncode == 1
    said = "tcpvsadm: add-service web: check = http health: expected a path (example: /health)\n"
    assert refused.stderr == said
    daemon.adm("-A", "-i", "web", "check=http /health expect 200 204")
    assert "    check = http /health expect 200 204\n" in daemon.adm("--list").stdout


@pytest.mark.parametrize("workers", [0, 2])
def test_failed_requests_eject_a_server(daemon: Daemon, nginx: Callable[[str], Nginx], workers: int) -> None:
    one, two = nginx("one"), nginx("two")
    port = free_port()
    rules = (".*", one.address), (".*", two.address)
    daemon.service("web", port, one.address, two.address, scheduler="phttp", balance="rr", rules=rules, eject_time=2)
    one.stop()
    answers = [asked(port) for _ in range(60)]
    assert set(answers) == {(200, "two")}
    assert health(daemon)["state"] == "ejected"
    assert "5 consecutive errors, the last: " in health(daemon)["reason"]
    one.start()
    wait_for(lambda: is_up(daemon))
    wait_for(lambda: asked(port) == (200, "one"))
