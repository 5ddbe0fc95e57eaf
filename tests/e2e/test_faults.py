"""Faults that must not stop the switch: stalled checks, hanging workers, a machine without /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, dial, free_port, read_all, wait_for

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]
Serve = Callable[..., SocketServer]

CHECK = {"check": "http /health", "check_interval": 1, "check_timeout": 60, "check_rise": 1, "eject": 0}
WITHOUT_PROC = "unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"


class Stalling:
    """A server that stops in the middle of each response to a check. checks: how many have begun."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self.checks = 0
        self.goes_on = threading.Event()

    def __call__(self, sock: socket.socket) -> None:
        while head := sock.recv(10_000):
            body = self._name
            if b"/health" in head:
                self.checks += 1
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal")
                self.goes_on.wait(2 * TIMEOUT)
                return
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.fixture
def stalling() -> Iterator[list[Stalling]]:
    servers = [Stalling(b"1"), Stalling(b"2")]
    yield servers
    for one in servers:
        one.goes_on.set()


def serving(port: int) -> set[str]:
    """Return which servers respond."""
    found = set()
    for _ in range(30):
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            found.add(read_all(client)[-1:].decode())
    return found


def test_edits_and_a_takeover_do_not_wait_for_stalled_checks_and_a_hanging_worker(
    make_daemon: Make, serve: Serve, stalling: list[Stalling]
) -> None:
    one, two = (serve(server) for server in stalling)
    port = free_port()
    rules = (".*", one.address), (".*", two.address)
    old = make_daemon(workers=2)
    old.start()
    old.set(worker_timeout=3, drain_timeout=3)
    old.service("web", port, one.address, two.address, scheduler="phttp", rules=rules, **CHECK)
    wait_for(lambda: all(server.checks for server in stalling), "checks that stall", TIMEOUT)
    assert serving(port) == {"1", "2"}

    # An edit that ends a check is in force everywhere when it is answered.
    old.call("delete_rule", "web", ".*", two.address)
    old.call("delete_server", "web", two.address)
    assert [server["address"] for server in old.call("table")["services"][0]["servers"]] == [one.address]
    assert serving(port) == {"1"}

    # A worker hangs: the edit is answered all the same, in both.
    os.kill(old.workers()[0], signal.SIGSTOP)
    old.call("add_server", "web", two.address)
    old.call("add_rule", "web", ".*", two.address)
    old.wait_for_log("has not responded for 3 s")
    assert serving(port) == {"1", "2"}
    before = stalling[1].checks
    wait_for(lambda: stalling[1].checks > before or stalling[1].checks > 1, "the check of the new server", TIMEOUT)

    # Another daemon takes over, while checks stall and a worker hangs.
    os.kill(old.workers()[0], signal.SIGSTOP)
    new = make_daemon("--takeover", old.control, control=old.control, workers=2)
    new.run()
    wait_for(lambda: "taken over from" in new.log() or not new.is_alive, f"a takeover: {new.log()}", TIMEOUT)
    assert new.is_alive, new.log()
    assert serving(port) == {"1", "2"}
    new.call("edit_service", "web", check="off")
    assert serving(port) == {"1", "2"}
    assert old.wait() == 0, "the old one ends, though one of its workers hangs"


def test_a_takeover_does_not_wait_for_a_stalled_check(
    make_daemon: Make, serve: Serve, stalling: list[Stalling]
) -> None:
    """Without workers. The old daemon ends with 0."""
    server, port = serve(stalling[0]), free_port()
    old = make_daemon()
    old.start()
    rules = ((".*", server.address),)
    old.service("web", port, server.address, scheduler="phttp", rules=rules, **CHECK)
    wait_for(lambda: stalling[0].checks, "a check that stalls", TIMEOUT)
    new = make_daemon("--takeover", old.control, control=old.control)
    new.run()
    assert old.wait() == 0
    old.wait_for_log("taken over: ")
    assert serving(port) == {"1"}
    wait_for(lambda: stalling[0].checks > 1, "a check by the new daemon", TIMEOUT)
    new.call("delete_rule", "web", ".*", server.address)
    new.call("delete_server", "web", server.address)
    assert [*new.call("table")["services"][0]["servers"]] == []


@pytest.mark.starts
def test_a_daemon_runs_without_proc(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    if subprocess.run([*WITHOUT_PROC, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount anything")
    server, port, status = serve(Stalling(b"1")), free_port(), free_port()
    daemon = make_daemon("--status", f"tcp:{status}", workers=2, descriptors=2048)
    daemon.prefix(*WITHOUT_PROC)
    daemon.start()
    rules = ((".*", server.address),)
    daemon.service("web", port, server.address, scheduler="phttp", rules=rules, access_log=str(tmp_path / "log"))
    assert serving(port) == {"1"}
    with dial((LOOPBACK, status)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b"ktcpvs_" in read_all(client)
    assert "web " in daemon.adm("--list", "--stats").stdout
    (line,) = [line for line in daemon.log().splitlines() if "/proc" in line]
    assert "mount it with 'mount -t proc proc /proc'" in line


TEN_YEARS = 315_360_000
"""Seconds."""

SETTABLE_CLOCK = """
import time

now, offset = time.time, {path!r}

def settable():
    try:
        with open(offset) as file:
            return now() + float(file.read() or 0)
    except OSError:
        return now()

time.time = settable
"""


@pytest.mark.parametrize(("reactor", "workers"), [("uvloop", 0), ("epoll", 2)])
def test_timeouts_go_on_when_the_time_is_set_back(
    make_daemon: Make, serve: Serve, tmp_path: Path, reactor: str, workers: int
) -> None:
    """As NTP does at the start of a machine, or the host of a virtual machine that is resumed."""
    clock, site = tmp_path / "clock", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SETTABLE_CLOCK.format(path=str(clock)))
    daemon = make_daemon(workers=workers, python_path=(site,), preloaded=False, preloaded_workers=False)
    daemon.start()
    server, port = serve(Stalling(b"1")), free_port()
    daemon.service("s", port, server.address, scheduler="phttp")
    daemon.set(keepalive_timeout=1)
    if workers:
        daemon.wait_until_workers_serve()
    for seconds in ("", "-3600", str(TEN_YEARS)):
        clock.write_text(seconds)
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_all(client).endswith(b"1"), "and is closed by keepalive_timeout"
    year = time.localtime(time.time() + TEN_YEARS).tm_year
    daemon.call("stop", "s")
    wait_for(lambda: f"{year}-" in daemon.log(), "the time to have been set")
