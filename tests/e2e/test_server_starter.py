"""Servers that start with the first request, and stop when they are idle: real programs, with and without workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, free_port, wait_for

from ktcpvs.errors import Refusal

from .harness import KTCPVS, Daemon
from .one_service import ask, row, start, visitor, with_workers

pytestmark = pytest.mark.e2e

MakeDaemon = Callable[..., Daemon]


WEB = f"""#!{sys.executable}
import http.server, os, signal, sys, time
print("begins", sorted(os.environ), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/end":
            os._exit(3)
        body = f"{{os.getpid()}} web".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *of):
        pass
address = os.environ["KTCPVS_HOST"], int(os.environ["KTCPVS_PORT"])
http.server.ThreadingHTTPServer.request_queue_size = 64
server = http.server.ThreadingHTTPServer(address, Handler)
server.daemon_threads = True
"""

PROGRAMS = {
    "web": WEB + "server.serve_forever()\n",
    "stubborn": WEB + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserver.serve_forever()\n",
    "broken": "#!/bin/sh\necho it lacks something\nexit 7\n",
    "silent": "#!/bin/sh\nexec sleep 1000\n",
    "chatty": WEB + "for i in range(1000): print('line', 'x' * 5000 * (not i), flush=True)\nserver.serve_forever()\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "start"
    folder.mkdir(mode=0o755)
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def starter(make_daemon: MakeDaemon, folder: Path, workers: int) -> Daemon:
    daemon = make_daemon("--start-folder", folder, workers=workers)
    daemon.start()
    return daemon


def on_demand(program: str, words: str = "") -> str:
    return f"server = {LOOPBACK}:{free_port()} 1 start {program} {words}"


def state(daemon: Daemon) -> str:
    return str(row(daemon)["health"]["state"])


def get(port: int, path: str = "/") -> tuple[int, list[str]]:
    with visitor(port) as client:
        return ask(client, path)


@with_workers
def test_the_first_requests_start_it_once_and_it_stops_when_idle(starter: Daemon, workers: int) -> None:
    port = start(starter, on_demand("web"), "check = http /", "check_interval = 1", "stop_after = 2")
    assert state(starter) == "idle"
    found: list[tuple[int, list[str]]] = []
    threads = [threading.Thread(target=lambda: found.append(get(port))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {status for status, _ in found} == {200}
    assert len({words[0] for _, words in found}) == 1
    assert len(found) == 8
    assert state(starter) == "up"
    wait_for(lambda: state(starter) == "idle")
    starter.wait_for_log("is stopped: idle for 2 s")
    starter.wait_for_log("has ended: signal SIGTERM")
    status, words = get(port)
    assert status == 200
    assert words[0] != found[0][1][0]
    starter.wait_for_log("begins ['HOME'" if "HOME" in os.environ else "begins [", count=2)


def test_a_connection_in_use_keeps_it(starter: Daemon, stack: contextlib.ExitStack) -> None:
    """Of a service that relays whole connections; another one, which is used later, stops meanwhile."""
    lines = on_demand("web"), on_demand("web")
    port = start(starter, *lines, "stop_after = 1", scheduler="rr")
    client = stack.enter_context(visitor(port))
    status, words = ask(client)
    assert status == 200
    assert get(port)[1] != words
    starter.wait_for_log("is stopped: idle for 1 s")
    assert ask(client) == (200, words)
    client.close()
    starter.wait_for_log("is stopped: idle for 1 s", count=2)


@with_workers
def test_a_program_that_ends_is_started_again(starter: Daemon, workers: int) -> None:
    port = start(starter, on_demand("web"), "retry_on = off")
    first = get(port)
    with contextlib.suppress(Exception):
        get(port, "/end")
    starter.wait_for_log("has ended: status 3")
    wait_for(lambda: get(port)[0] == 200)  # after the pause
    assert get(port)[1] != first[1]


@with_workers
def test_a_program_that_cannot_start(starter: Daemon, workers: int) -> None:
    """Its clients get 503, its output tells why, and it is not started again at once."""
    port = start(starter, on_demand("broken"), "start_timeout = 2")
    assert get(port)[0] == 503
    starter.wait_for_log("it lacks something")
    starter.wait_for_log("cannot be started: broken has ended: status 7, 2 s after the start")
    count = starter.log().count("is started:")
    assert get(port)[0] == 503
    assert starter.log().count("is started:") == count
    reason = row(starter)["last_error"]["reason"]
    assert "broken has ended: status 7" in reason


def test_a_program_that_accepts_nothing(starter: Daemon) -> None:
    port = start(starter, on_demand("silent"), "start_timeout = 1")
    assert get(port)[0] == 503
    starter.wait_for_log("it is not ready: Connection refused")
    starter.wait_for_log("has ended: signal SIGTERM")


def test_a_program_that_ignores_sigterm_is_killed(starter: Daemon) -> None:
    port = start(starter, on_demand("stubborn"), "stop_after = 1", settings="stop_timeout = 1")
    pid = int(get(port)[1][0])
    starter.wait_for_log("is killed: it has not ended after SIGTERM")
    starter.wait_for_log("has ended: signal SIGKILL")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_its_output_is_bounded(starter: Daemon) -> None:
    port = start(starter, on_demand("chatty"), "stop_after = 1")
    assert get(port)[0] == 200
    starter.wait_for_log("more lines are left out")
    lines = [line for line in starter.log().splitlines() if ": line " in line]
    assert len(lines) <= 100
    assert max(map(len, lines)) < 1200


def test_another_server_serves_meanwhile(starter: Daemon) -> None:
    """A server that cannot be started is like one that refuses connections."""
    port = start(starter, on_demand("broken"), on_demand("web"), "start_timeout = 1")
    assert [get(port)[0] for _ in range(4)] == [200] * 4


def test_a_deleted_server_stops(starter: Daemon) -> None:
    line = on_demand("web")
    port = start(starter, line, on_demand("silent", "maintenance"))
    pid = int(get(port)[1][0])
    starter.call("delete_server", f"web{port}", line.split()[2])
    starter.wait_for_log("is stopped: it is in the table no more")
    starter.wait_for_log("has ended")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_with_the_daemon(starter: Daemon) -> None:
    port = start(starter, on_demand("web"))
    pid = int(get(port)[1][0])
    starter.signal(signal.SIGTERM)
    assert starter.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_its_processes_end_when_the_daemon_is_killed(starter: Daemon, folder: Path) -> None:
    """With those that the program has started, those that ignore SIGTERM, and the process that sees to it."""
    (folder / "parent").write_text('#!/bin/sh\ntrap "" TERM\n"$(dirname "$0")/web" &\nwait\nsleep 1000\n')
    (folder / "parent").chmod(0o755)
    port = start(starter, on_demand("parent"), settings="stop_timeout = 1")
    before = children(starter.pid)
    assert get(port)[0] == 200
    found = {pid for child in children(starter.pid) - before for pid in (child, *children(child))}
    assert len(found) == 3  # the program, the server that it has started, and the guard
    starter.signal(signal.SIGKILL)
    starter.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in found), f"{found} to end")


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_a_guard_that_was_killed_is_replaced(starter: Daemon) -> None:
    line = on_demand("web")
    port, before = start(starter, line), children(starter.pid)
    pid = int(get(port)[1][0])
    (guard,) = children(starter.pid) - before - {pid}
    os.kill(guard, signal.SIGKILL)
    second = int(get(start(starter, on_demand("web")))[1][0])
    starter.signal(signal.SIGKILL)
    starter.wait()
    wait_for(lambda: not any(Path(f"/proc/{one}/cwd").exists() for one in (pid, second)), "both to end")


REFUSED = {
    "none": "No such file",
    "writable": "may be written by other users",
    "plain": "not a program that may be executed",
    "../web": "expected the name of a program in the folder of --start-folder",
    '"web --port 80"': "expected the name of a program in the folder of --start-folder",
}


def test_what_may_not_be_started(starter: Daemon, folder: Path) -> None:
    for name, mode in (("writable", 0o777), ("plain", 0o644)):
        (folder / name).write_text(PROGRAMS["web"])
        (folder / name).chmod(mode)
    for program, why in REFUSED.items():
        with pytest.raises(Refusal, match=why):
            start(starter, on_demand(program))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_program_that_another_user_owns_is_not_started(starter: Daemon, folder: Path) -> None:
    """Nor one in a folder of another user, nor one that was given away since it was named."""
    port = start(starter, on_demand("web"), "start_timeout = 1")
    for path in (folder / "web", folder):
        os.chown(path, 65533, 65533)
        with pytest.raises(Refusal, match=f"{path} belongs to user 65533; expected root or user 0"):
            start(starter, on_demand("web"))
        said = f"is not started: {path} belongs to user 65533"
        wait_for(lambda said=said: get(port)[0] == 503 and said in starter.log())  # after the pause
        os.chown(path, 0, 0)
    (folder / "linked").symlink_to("/etc/alternatives/../../bin/true")
    start(starter, on_demand("linked"))


def test_two_services_name_different_programs_for_one_address(tmp_path: Path) -> None:
    line = on_demand("web")
    file = tmp_path / "two.conf"
    file.write_text(f"Virtual a {{ {line} }}\nVirtual b {{ {line.replace('web', 'silent')} }}\n")
    found = subprocess.run(
        [sys.executable, "-c", KTCPVS, "--check", file], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 1
    assert f"{file}:2:9: service b: server " in found.stderr


def test_a_daemon_without_a_folder_starts_nothing(daemon: Daemon) -> None:
    with pytest.raises(Refusal, match="this daemon starts no servers; start it with --start-folder"):
        start(daemon, on_demand("web"))


def test_the_next_daemon_uses_a_server_that_runs(starter: Daemon, make_daemon: MakeDaemon, folder: Path) -> None:
    """And starts it once the daemon before has ended, and has stopped its own."""
    port = start(starter, on_demand("web"))
    before = get(port)
    with visitor(port) as client:
        ask(client)
        after = make_daemon("--start-folder", folder, "--takeover", starter.control, control=starter.control)
        after.start()
        after.wait_for_log("taken over from")
        assert get(port) == before
        after.wait_for_log("runs already, and is used as it is")
    assert starter.wait() == 0
    found = get(port)
    assert found[0] == 200
    assert found != before
