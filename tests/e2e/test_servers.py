"""Backup servers, draining, maintenance, weights from checks and included files, as an operator uses them."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, SocketServer, dial, echo, free_port, read_exactly, wait_for

from .harness import TCPVSADM, Daemon, command, environment

pytestmark = pytest.mark.e2e

QUICK = {"check_interval": 1, "check_timeout": 5, "check_rise": 1, "check_fall": 1}


def asked(port: int) -> tuple[int, str]:
    """Request / and return (status, name of the server)."""
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=10)) as client:
        client.request("GET", "/")
        answer = client.getresponse()
        return answer.status, answer.read().split()[0].decode()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_backup_serves_while_the_first_server_is_down(
    daemon: Daemon, nginx: Callable[[str], Nginx], workers: int
) -> None:
    one, two, port = nginx("one"), nginx("two"), free_port()
    daemon.service("web", port, scheduler="phttp", check="http /", eject=0, **QUICK)
    daemon.adm("-a", "-i", "web", "-r", one.address)
    daemon.adm("-a", "-i", "web", "-r", two.address, "backup")
    assert f"    server = {two.address} 1 backup\n" in daemon.adm("--list", "-n").stdout
    assert "     backup, standby\n" in daemon.adm("--stats").stdout
    explained = daemon.adm("--explain", "-i", "web", "GET /").stdout
    assert "servers of priority 0 are used; backup stands by" in explained
    assert {asked(port) for _ in range(6)} == {(200, "one")}
    one.stop()
    wait_for(lambda: asked(port) == (200, "two"))
    daemon.wait_for_log("service web: servers of backup are used: those of priority 0 have 0 of their weight 1")
    assert "     backup\n" in daemon.adm("--stats").stdout
    one.start()
    wait_for(lambda: {asked(port) for _ in range(6)} == {(200, "one")})


def test_labels_from_the_command_to_the_file_and_back(daemon: Daemon, tmp_path: Path) -> None:
    server = "10.0.0.1:80"
    daemon.adm("-A", "-i", "web", "-l", LOOPBACK, "-P", free_port())
    daemon.adm("-a", "-i", "web", "-r", server, "-w", "2", "label", "zone=a", "label", "canary")
    written = f"    server = {server} 2 label canary label zone=a\n"
    assert written in daemon.adm("--list", "-n").stdout
    assert "     label canary label zone=a\n" in daemon.adm("--stats").stdout
    assert daemon.call("table")["services"][0]["servers"][0]["labels"] == {"canary": "", "zone": "a"}
    saved = tmp_path / "saved.conf"
    saved.write_text(daemon.adm("--save").stdout)
    assert written in saved.read_text()
    daemon.adm("-e", "-i", "web", "-r", server, "label", "zone=b")
    shown = daemon.adm("--diff", saved, check=False)
    assert f"service web: server {server}: label zone=b -> label canary label zone=a" in shown.stdout
    daemon.adm("-e", "-i", "web", "-r", server, "label", "off")
    assert f"    server = {server} 2\n" in daemon.adm("--list", "-n").stdout
    daemon.adm("-f", saved)
    assert written in daemon.adm("--list", "-n").stdout
    refused = daemon.adm("-e", "-i", "web", "-r", server, "label", "zone a", check=False)
    assert refused.returncode == 1
    assert "label 'zone a': expected NAME or NAME=VALUE" in refused.stderr


def test_drain_and_ready_in_all_services(
    make_daemon: Callable[..., Daemon], serve: Callable[..., SocketServer], tmp_path: Path
) -> None:
    daemon = make_daemon("--state", tmp_path / "state.json")
    daemon.start()
    server, other, ports = serve(echo), serve(echo), (free_port(), free_port())
    for name, port in zip("ab", ports, strict=True):
        daemon.service(name, port, (server.address, 7), other.address)
    clients = [dial((LOOPBACK, port)) for port in ports]
    for client in clients:
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
    assert [daemon.stats(name)["servers"][0]["stats"]["active"] for name in "ab"] == [1, 1]
    words = ["--control", daemon.control, "--drain", "-r", server.address, "--wait"]
    waiting = subprocess.Popen(
        [*command("tcpvsadm", TCPVSADM), *words], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        listed = f"    server = {server.address} 7 drain\n"
        wait_for(lambda: daemon.adm("--list", "-n").stdout.count(listed) == 2)
        with dial((LOOPBACK, ports[0])) as client:
            client.sendall(b"y")
            assert read_exactly(client, 1) == b"y"
            assert daemon.stats("a")["servers"][1]["stats"]["active"] == 1
        assert daemon.stats("b")["servers"][0]["health"]["state"] == "draining"
        assert waiting.poll() is None
        for client in clients:
            client.close()
        said, _ = waiting.communicate(timeout=30)
        assert waiting.returncode == 0
        assert said.endswith("drained\n")
    finally:
        waiting.kill()
        waiting.wait()
    daemon.restart()
    assert daemon.adm("--list", "-n").stdout.count(listed) == 2, "the state file keeps it"
    daemon.adm("--maintenance", "-r", LOOPBACK, "-i", "a")
    assert [row["mode"] for row in daemon.stats("a")["servers"]] == ["maintenance", "maintenance"]
    warned = daemon.adm("--drain", "-r", other.address, "-i", "b")
    no_server = "service b: no server of it is ready: new clients are refused; to use one again: --ready"
    assert warned.stderr == f"tcpvsadm: warning: {no_server}\n"
    daemon.adm("--ready", "-r", LOOPBACK)
    assert [row["mode"] for name in "ab" for row in daemon.stats(name)["servers"]] == ["ready"] * 4
    refused = daemon.adm("--drain", "-r", "10.9.9.9", check=False)
    assert (refused.returncode, refused.stderr) == (1, "tcpvsadm: drain: no service has a server 10.9.9.9\n")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_check_sets_the_weight(
    daemon: Daemon, nginx: Callable[[str], Nginx], serve: Callable[..., SocketServer], workers: int
) -> None:
    """The server is checked at another port, where an agent says how much it may get."""
    one, two, port, said = nginx("one"), nginx("two"), free_port(), ["100%"]

    def agent(sock: socket.socket) -> None:
        while sock.recv(10_000):
            sock.sendall(f"HTTP/1.1 200 Fine\r\nX-Weight: {said[0]}\r\nContent-Length: 0\r\n\r\n".encode())

    def without_weight(sock: socket.socket) -> None:
        while sock.recv(10_000):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    for_one, for_two = serve(agent), serve(without_weight)
    check = "http /load weight X-Weight"
    daemon.service("web", port, scheduler="phttp", balance="wlc", check=check, eject=0, **QUICK)
    daemon.adm("-a", "-i", "web", "-r", one.address, "-w", "8", "check", for_one.address)
    daemon.adm("-a", "-i", "web", "-r", two.address, "-w", "8", "check", for_two.address)
    wait_for(lambda: "     check: HTTP/1.1 200 Fine\n" in daemon.adm("--stats").stdout)
    assert {asked(port) for _ in range(20)} == {(200, "one"), (200, "two")}
    said[0] = "0"
    wait_for(lambda: daemon.stats("web")["servers"][0]["health"]["state"] == "draining")
    wait_for(lambda: {asked(port) for _ in range(20)} == {(200, "two")})
    said[0] = "50%"
    wait_for(lambda: {asked(port) for _ in range(20)} == {(200, "one"), (200, "two")})
    explained = daemon.adm("--explain", "-i", "web", "GET /").stdout
    assert f"  {one.address} responds to checks: HTTP/1.1 200 Fine\n" in explained


def test_included_files(make_daemon: Callable[..., Daemon], serve: Callable[..., SocketServer], tmp_path: Path) -> None:
    server, ports = serve(echo), (free_port(), free_port())
    folder = tmp_path / "conf.d"
    folder.mkdir()
    main = tmp_path / "main.conf"
    main.write_text("global { read_timeout = 77 }\ninclude = conf.d/*.conf\n")

    def write(name: str, port: int) -> None:
        text = f"Virtual {name} {{\n  listen = {LOOPBACK}:{port}\n  scheduler = wlc\n  server = {server.address}\n}}\n"
        (folder / f"{name}.conf").write_text(text)

    write("a", ports[0])
    daemon = make_daemon("--config", main)
    daemon.start()
    write("b", ports[1])
    assert daemon.adm("--diff", main, check=False).stdout.startswith("+ service b: wlc at ")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"SIGHUP: {main} is loaded; started: b\n")
    for port in ports:
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"x")
            assert read_exactly(client, 1) == b"x"
    write("c", 0)
    why = f"{folder}/c.conf:2:12: port 0 in '{LOOPBACK}:0' is out of range: ports are 1..65535"
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"SIGHUP: nothing is changed: {why}\n")
    for option in ("-f", "--check", "--diff"):
        refused = daemon.adm(option, main, check=False)
        assert refused.returncode == 1
        assert refused.stderr.endswith(f": {why}\n")
    (folder / "c.conf").unlink()
    daemon.adm("-f", main)
    assert [service["ident"] for service in daemon.call("table")["services"]] == ["a", "b"]
