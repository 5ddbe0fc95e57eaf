"""Edits, draining, signals and configuration files: no change of a running switch drops a connection."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import (
    LOOPBACK,
    Nginx,
    SocketServer,
    answers,
    chunks,
    dial,
    echo,
    echoes,
    free_port,
    speak_first,
    wait_for,
)

from .harness import PROMPT, TIMEOUT, Daemon, has_ended

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]


def wait_until_ended(client: socket.socket) -> None:
    """Wait until the other side ends or resets this connection."""
    client.settimeout(PROMPT)
    with contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""


def stay_open(*clients: socket.socket) -> None:
    """These connections work for longer than two ticks of the daemon's timers."""
    until = time.monotonic() + 2.3
    while time.monotonic() < until:
        assert all(map(echoes, clients))
        time.sleep(0.05)


def echo_service(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> tuple[SocketServer, int, socket.socket]:
    """Start the service `s` in front of an echo server; return the server, the service's port and a client."""
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)
    client = stack.enter_context(dial((LOOPBACK, port)))
    assert echoes(client)
    return server, port, client


# Editing.


def test_a_new_listen_address_keeps_connections(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    server, old, new = serve(echo), free_port(), free_port()
    daemon.service("s", old, server.address)
    client = stack.enter_context(dial((LOOPBACK, old)))
    assert echoes(client)
    path = str(tmp_path / "listen")
    for listen, where, before in (
        (f"{LOOPBACK}:{new}", (LOOPBACK, new), (LOOPBACK, old)),
        (f"unix:{path}", path, (LOOPBACK, new)),
        (f"[::1]:{new}", ("::1", new), path),
    ):
        daemon.call("edit_service", "s", listen=listen)
        with dial(where) as late:
            assert echoes(late)
        with pytest.raises(OSError, match=r"refused|No such file"):
            dial(before)
        assert echoes(client)
    daemon.call("edit_service", "s", port=free_port("::1"))
    assert not answers(new, "::1")


def test_a_service_moves_between_all_interfaces_and_one(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", f"0.0.0.0:{port}", server.address)
    clients = [stack.enter_context(dial((LOOPBACK, port)))]
    for host in (LOOPBACK, "0.0.0.0", "127.0.0.2", LOOPBACK):
        daemon.call("edit_service", "s", listen=f"{host}:{port}")
        where = LOOPBACK if host == "0.0.0.0" else host
        clients.append(stack.enter_context(dial((where, port))))
        assert all(map(echoes, clients))
    assert not answers(port, "127.0.0.2")


def test_an_address_in_use_is_refused(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    server, other, port = serve(echo), serve(echo), free_port()
    daemon.service("s", port, server.address)
    client = stack.enter_context(dial((LOOPBACK, port)))
    before = daemon.call("table")
    refused = daemon.adm("-E", "-i", "s", "-l", other.address, check=False)
    assert refused.returncode == 1
    assert "listens there already" in refused.stderr
    assert daemon.call("table") == before
    assert echoes(client)
    with dial((LOOPBACK, port)) as late:
        assert echoes(late)


@pytest.fixture
def requests() -> Iterator[Callable[[int], list[str]]]:
    """requests(port): request pages until the test ends, each on a new connection; none may fail.

    Returns the growing list of the servers that responded."""
    done = threading.Event()
    answered: list[str] = []
    failed: list[BaseException] = []
    threads: list[threading.Thread] = []

    def ask(port: int) -> None:
        while not done.is_set():
            try:
                with dial((LOOPBACK, port)) as client:
                    client.sendall(b"GET /images/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    answer = b"".join(chunks(client)).decode()
                assert answer.startswith("HTTP/1.1 200 "), answer
                answered.append(answer.split("\r\n\r\n")[1].split(" ")[0])
            except (OSError, AssertionError) as error:
                failed.append(error)
                return

    def start(port: int) -> list[str]:
        threads.extend(threading.Thread(target=ask, args=(port,)) for _ in range(4))
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answered) > 20)
        return answered

    yield start
    done.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert failed == []


@pytest.mark.load
def test_no_request_fails_while_the_service_is_edited(
    daemon: Daemon, web: list[Nginx], requests: Callable[[int], list[str]]
) -> None:
    port = free_port()
    r1, r2, r3 = (server.address for server in web)
    daemon.service("web", f"0.0.0.0:{port}", r1, r2, scheduler="http", rules=(("/images/.*", r1), (".*", r2)))
    answered = requests(port)
    call = daemon.call
    for number in range(20):
        call("add_server", "web", r3, 5)
        call("add_rule", "web", "/images/.*", r3)
        call("edit_server", "web", r1, 0)
        call("edit_service", "web", scheduler="wlc", maxclients=100 + number)
        call("edit_server", "web", r1, 2)
        call("edit_service", "web", scheduler="http", redirect=r2)
        call("edit_service", "web", listen=LOOPBACK if number % 2 else "0.0.0.0")
        call("delete_rule", "web", "/images/.*", r3)
        call("delete_server", "web", r3)
        call("set", {"max_backlog": 1000 + number, "read_timeout": 100 + number})
        before = len(answered)
        wait_for(lambda seen=before: len(answered) > seen + 5)  # type: ignore[misc]
    assert set(answered) >= {"r1", "r2"}


# Stopping.


def download(port: int, path: str) -> Callable[[], bytes]:
    """Begin a download; return a function that finishes it and returns the body."""
    client = dial((LOOPBACK, port))
    client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
    first = client.recv(2000)
    assert first.startswith(b"HTTP/1.1 200 ")

    def finish() -> bytes:
        with client:
            return (first + b"".join(chunks(client))).partition(b"\r\n\r\n")[2]

    return finish


def slow_service(daemon: Daemon, nginx: Nginx) -> tuple[int, str]:
    """Start a service whose server takes two seconds for the file /slow/part; return (port, the file's SHA-256)."""
    port = free_port()
    daemon.service("web", port, nginx.address, scheduler="http", rules=((".*", nginx.address),))
    return port, nginx.file("part", 200_000)


def test_stop_lets_downloads_finish_and_accepts_no_client(daemon: Daemon, web: list[Nginx]) -> None:
    port, digest = slow_service(daemon, web[0])
    finish = download(port, "/slow/part")
    daemon.call("stop", "web")
    assert not answers(port)
    assert daemon.active("web") == 1
    assert hashlib.sha256(finish()).hexdigest() == digest
    daemon.wait_until_empty()
    daemon.call("start", "web")
    assert answers(port)


def test_connections_are_closed_after_drain_timeout(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    daemon.set(drain_timeout=2)
    server, _, client = echo_service(daemon, serve, stack)
    began = time.monotonic()
    daemon.call("stop", "s")
    assert echoes(client)
    wait_until_ended(client)
    assert 1.9 <= time.monotonic() - began < PROMPT
    daemon.wait_until_empty()
    wait_for(lambda: server.living == 0)


def test_a_service_that_starts_again_keeps_draining_connections(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    daemon.set(drain_timeout=0)
    _, port, client = echo_service(daemon, serve, stack)
    daemon.call("stop", "s")
    daemon.call("start", "s")
    with dial((LOOPBACK, port)) as late:
        stay_open(client, late)


def test_a_deleted_server_keeps_its_connections_until_the_drain_timeout(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    one, other, port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port()
    daemon.set(drain_timeout=2)
    daemon.service("s", port, one.address, other.address)
    clients = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(2)]
    by_server = {client.recv(1): client for client in clients}
    began = time.monotonic()
    daemon.call("delete_server", "s", one.address)
    for _ in range(3):
        with dial((LOOPBACK, port)) as late:
            assert late.recv(1) == b"2"
    assert echoes(by_server[b"1"])
    wait_until_ended(by_server[b"1"])
    assert 1.9 <= time.monotonic() - began < PROMPT
    assert echoes(by_server[b"2"])
    assert daemon.active("s") == 1

    daemon.call("add_server", "s", one.address)
    with dial((LOOPBACK, port)) as late:
        assert late.recv(1) == b"1"


def test_a_deleted_server_that_comes_back_keeps_its_connections(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    daemon.set(drain_timeout=0)
    server, _, client = echo_service(daemon, serve, stack)
    daemon.call("delete_server", "s", server.address)
    daemon.call("add_server", "s", server.address)
    assert daemon.stats("s")["servers"][0]["stats"]["active"] == 1
    stay_open(client)


def test_a_stopped_service_is_deleted_while_it_drains(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    daemon.set(drain_timeout=2)
    server, port, client = echo_service(daemon, serve, stack)
    daemon.call("stop")
    daemon.call("delete_service", "s")
    assert echoes(client)
    assert len(daemon.connections()) == 1
    daemon.service("s", port, server.address)
    with dial((LOOPBACK, port)) as late:
        assert echoes(late)
        wait_until_ended(client)
        assert echoes(late)


# Ending.


@pytest.mark.parametrize("reactor", ["uvloop", "epoll"])
def test_sigterm_drains_and_ends_with_0(daemon: Daemon, web: list[Nginx]) -> None:
    port, digest = slow_service(daemon, web[1])
    finish = download(port, "/slow/part")
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: not answers(port))
    assert daemon.is_alive
    refused = daemon.adm("--stop", check=False)
    assert refused.returncode == 1
    assert "the daemon is ending" in refused.stderr
    assert hashlib.sha256(finish()).hexdigest() == digest
    assert daemon.wait() == 0
    assert re.search(r"ending: [12] connections drain", daemon.log())


def test_sigterm_ends_after_the_drain_timeout(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    daemon.set(drain_timeout=2)
    _, _, client = echo_service(daemon, serve, stack)
    began = time.monotonic()
    daemon.signal(signal.SIGINT)
    assert echoes(client)
    assert daemon.wait() == 0
    assert 1.9 <= time.monotonic() - began < PROMPT
    assert not echoes(client)


@pytest.mark.parametrize("reactor", ["uvloop", "epoll"])
def test_a_second_sigterm_ends_at_once(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    _, port, client = echo_service(daemon, serve, stack)
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: not answers(port))
    assert echoes(client)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(PROMPT) == 0  # drain_timeout is longer


@pytest.mark.parametrize("reactor", ["uvloop", "epoll"])
def test_two_signals_that_come_at_once_end_it_at_once(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    """They find the daemon busy, here stopped, so that it handles both in one turn."""
    echo_service(daemon, serve, stack)
    for number in signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT:
        daemon.signal(number)
    assert daemon.wait(PROMPT) == 0  # drain_timeout is longer
    assert "Traceback" not in daemon.log()


def test_unload_drains_all_services_and_ends(daemon: Daemon, web: list[Nginx]) -> None:
    port, digest = slow_service(daemon, web[2])
    finish = download(port, "/slow/part")
    daemon.adm("--set", "unload=1")
    assert not answers(port)
    assert hashlib.sha256(finish()).hexdigest() == digest
    assert daemon.wait() == 0
    assert not Path(daemon.control.removeprefix("unix:")).exists()


# Configuration files.


def block(ident: str, port: int, server: str, more: str = "") -> str:
    return f"Virtual {ident} {{\n    listen = {LOOPBACK}:{port}\n    scheduler = wlc\n    server = {server}\n{more}}}\n"


def test_sighup_loads_the_configuration_again(
    make_daemon: Callable[..., Daemon], serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    one, other, port, new_port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port(), free_port()
    config = tmp_path / "ktcpvs.conf"
    config.write_text(block("s", port, one.address))
    daemon = make_daemon("--config", config)
    daemon.start()
    daemon.set(debug_level=2)
    client = stack.enter_context(dial((LOOPBACK, port)))
    assert client.recv(1) == b"1"

    config.write_text("global {\n    debug_level = 2\n}\n" + block("s", new_port, other.address))
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: answers(new_port))
    with dial((LOOPBACK, new_port)) as late:
        assert late.recv(1) == b"2"
    assert not answers(port)
    assert echoes(client)
    daemon.wait_for_log(f"SIGHUP: {config} is loaded")

    before = daemon.call("table")
    for broken, why in (
        (block("s", new_port, other.address, "    colour = red\n"), f"{config}:5:5: unknown keyword 'colour'"),
        (block("s", new_port, other.address).replace("wlc", "best"), f"{config}:3:17: service s: no scheduler 'best'"),
        (block("s", one.port, other.address), "another program"),
    ):
        config.write_text(broken)
        daemon.signal(signal.SIGHUP)
        wait_for(lambda text=why: f"SIGHUP: nothing is changed: {text}" in re.sub(r"cannot.*: ", "", daemon.log()))
        assert daemon.call("table") == before
    config.write_text("# all gone\n\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"SIGHUP: nothing is changed: {config}: the configuration is empty, and would")
    assert daemon.call("table") == before

    # All services of the file run then: new ones, and those that an administrator has stopped.
    daemon.call("stop", "s")
    config.write_text(block("s", new_port, other.address) + block("new", port, one.address))
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"SIGHUP: {config} is loaded; started: s, new\n")
    assert answers(new_port)
    assert answers(port)
    assert [service["running"] for service in daemon.call("table")["services"]] == [True, True]
    before = daemon.call("table")
    config.unlink()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"SIGHUP: nothing is changed: {config}: No such file")
    assert daemon.call("table") == before
    assert answers(new_port)


def test_sighup_without_a_configuration_says_so(daemon: Daemon) -> None:
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log("there is no --config to load again")
    assert daemon.call("table")["services"] == []


def test_loading_a_file_leaves_unchanged_services_alone(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    server, second = serve(echo), serve(echo)
    ports = {name: free_port() for name in ("same", "changed", "removed", "new")}
    file = tmp_path / "table.conf"
    file.write_text("".join(block(name, ports[name], server.address) for name in ("same", "changed", "removed")))
    daemon.adm("-f", file)
    assert not any(answers(port) for port in ports.values())  # new ones wait for --start
    daemon.adm("--start")
    clients = {name: stack.enter_context(dial((LOOPBACK, ports[name]))) for name in ("same", "changed", "removed")}
    assert all(map(echoes, clients.values()))
    total = daemon.stats("same")["stats"]["total"]

    more = f"    server = {second.address} 3\n"
    blocks = [block("same", ports["same"], server.address), block("changed", ports["changed"], server.address, more)]
    file.write_text("global { drain_timeout = 3 }\n" + "".join(blocks) + block("new", ports["new"], server.address))
    daemon.adm("-f", file)
    assert all(map(echoes, clients.values()))
    assert [answers(ports[name]) for name in ("same", "changed", "removed", "new")] == [True, True, False, False]
    assert daemon.stats("same")["stats"]["total"] == total + 1
    assert [row["weight"] for row in daemon.stats("changed")["servers"]] == [1, 3]
    wait_until_ended(clients["removed"])
    daemon.adm("--start", "-i", "new")
    assert answers(ports["new"])
    assert echoes(clients["same"])
    assert echoes(clients["changed"])


def test_a_file_with_an_error_on_any_line_changes_nothing(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)
    client = stack.enter_context(dial((LOOPBACK, port)))
    before = daemon.call("table")
    good = (block("other", free_port(), server.address) + "global {\n    read_timeout = 9\n}\n").splitlines()
    file = tmp_path / "table.conf"
    for number in range(1, len(good) + 1):
        wrong = list(good)
        wrong[number - 1] = f"  nonsense {wrong[number - 1]}"
        file.write_text("\n".join(wrong) + "\n")
        refused = daemon.adm("-f", file, check=False)
        assert refused.returncode == 1
        assert re.fullmatch(rf"tcpvsadm: .*{re.escape(str(file))}:{number}:\d+: .+\n", refused.stderr), refused.stderr
        assert daemon.call("table") == before
    assert echoes(client)


# In the background.


@pytest.mark.starts
@pytest.mark.parametrize("reactor", ["uvloop", "epoll"])
def test_the_daemon_in_the_background(
    make_daemon: Callable[..., Daemon], serve: Serve, tmp_path: Path, reactor: str
) -> None:
    pid_file, log_file = tmp_path / "twistd.pid", tmp_path / "twistd.log"
    daemon = make_daemon(arguments=(f"--pidfile={pid_file}", f"--logfile={log_file}"))
    daemon.run()
    assert daemon.wait() == 0, daemon.log()
    pid = int(wait_for(lambda: pid_file.exists() and pid_file.read_text()))
    try:
        server, port = serve(echo), free_port()
        wait_for(lambda: "control at" in log_file.read_text(), log_file)
        daemon.service("s", port, server.address)
        with dial((LOOPBACK, port)) as client:
            assert echoes(client)
        assert daemon.adm("--list").stdout.count("Virtual s {") == 1
        daemon.wait_until_empty()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: has_ended(pid), "the daemon to end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not pid_file.exists()
    log = log_file.read_text()
    assert "Server Shut Down" in log
    assert "Traceback" not in log
    assert daemon.log() == ""
