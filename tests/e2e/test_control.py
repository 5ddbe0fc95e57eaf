"""The control connection: access, malformed input, limits and large tables."""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, answers, dial, echo, free_port, read_exactly, wait_for

from ktcpvs import errors
from ktcpvs.control import client as control_client

from .harness import TIMEOUT, ControlThread, Daemon, environment

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]


def path_of(daemon: Daemon) -> str:
    return daemon.control.removeprefix("unix:")


def key(text: bytes) -> bytes:
    return struct.pack("!H", len(text)) + text


def box(**values: bytes) -> bytes:
    return b"".join(key(name.encode()) + key(value) for name, value in values.items()) + b"\0\0"


GARBAGE = (
    b"",
    b"\0",
    b"\0\0",
    b"\0\0" * 1000,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\xff" * 70000,
    random.Random(1).randbytes(100_000),
    key(b"_command") + key(b"AddService"),  # a box that does not end
    key(b"_command")[:-3],
    box(_command=b"Nonsense", _ask=b"1"),
    box(_command=b"AddService", _ask=b"1"),
    box(_command=b"AddService", _ask=b"1", ident=b"\xff\xfe", options=b"junk"),
    box(_command=b"AddServer", _ask=b"1", ident=b"s", address=b"h:1", weight=b"many"),
    box(_command=b"ReadPage", _ask=b"1", number=b"99999999999999999999"),
    box(_command=b"Explain", _ask=b"1", ident=b"s"),
    box(_command=b"Explain", _ask=b"1", ident=b"s", headers=b"junk", client=b"\xff"),
    box(_command=b"Load", _ask=b"1", source=b"x"),
    box(_command=b"Upload", _ask=b"1", page=b"x", first=b"perhaps"),
    box(_answer=b"1", page=b"x"),
    box(_error=b"1", _error_code=b"X", _error_description=b"y"),
    box(**{f"key{number}": b"v" * 65535 for number in range(200)}),
)


def test_malformed_input_changes_nothing(new_daemon: Daemon) -> None:
    new_daemon.may_log_tracebacks = True  # malformed input may be logged with a traceback
    before = new_daemon.call("table")
    memory = new_daemon.memory()
    for data in GARBAGE:
        with dial(path_of(new_daemon)) as caller, contextlib.suppress(ConnectionError):
            caller.sendall(data)
            caller.shutdown(socket.SHUT_WR)
            while caller.recv(65536):
                pass
        assert new_daemon.call("table") == before, data[:100]
    assert new_daemon.memory() - memory < 8 << 20


def test_an_endless_box_closes_the_connection(daemon: Daemon) -> None:
    endless = b"".join(key(b"key%d" % number) + key(b"v" * 65535) for number in range(100))
    with dial(path_of(daemon)) as caller, pytest.raises(ConnectionError):
        caller.sendall(endless)
    daemon.wait_for_log("closed")
    assert daemon.call("table")["services"] == []


def test_silent_connections_do_not_keep_others_out(daemon: Daemon) -> None:
    """The daemon limits the control connections: it refuses a connection over the limit and serves the others."""
    with contextlib.ExitStack() as stack:

        def another() -> bool:
            """False while the backlog is full."""
            with contextlib.suppress(BlockingIOError):
                stack.enter_context(dial(path_of(daemon)))
                return True
            return False

        for _ in range(100):
            wait_for(another)
        assert daemon.call("table")["services"] == []
        daemon.wait_for_log("control connection refused")
    wait_for(lambda: daemon.adm("--list", check=False).returncode == 0)


def test_only_the_user_may_use_the_socket(daemon: Daemon) -> None:
    status = os.stat(path_of(daemon))
    assert status.st_mode & 0o777 == 0o600
    assert status.st_uid == os.getuid()


def test_control_over_tcp_on_loopback(make_daemon: Make) -> None:
    port = free_port()
    daemon = make_daemon(control=f"tcp:{port}")
    daemon.start()
    daemon.adm("-A", "-i", "s", "-P", "8080")
    assert [service["ident"] for service in daemon.json("--list")["services"]] == ["s"]
    port6 = free_port("::1")
    other = make_daemon(control=rf"tcp:{port6}:interface=\:\:1")
    other.start()
    assert answers(port6, "::1")
    assert other.call("table")["services"] == []


def test_control_over_tcp_elsewhere_is_refused(make_daemon: Make) -> None:
    port = free_port()
    for control, why in (
        (f"tcp:{port}:interface=0.0.0.0", "0.0.0.0 is not loopback"),
        (f"tcp:{port}:interface=192.0.2.1", "192.0.2.1 is not loopback"),
        ("unix:relative", "missing absolute path of a unix socket"),
        ("nonsense", "expected unix:/PATH, tcp:PORT on loopback, or tls:"),
    ):
        daemon = make_daemon(control=control)
        said = daemon.refused()
        assert why in said
    assert not answers(port)


def test_a_control_socket_of_another_daemon_is_refused_with_what_to_do(make_daemon: Make, tmp_path: Path) -> None:
    control = f"unix:{tmp_path}/shared.sock"
    first = make_daemon(control=control)
    first.prefix("env")  # so that its command line has the name of the program
    first.start()
    said = make_daemon(control=control).refused()
    assert f"another ktcpvs listens there already (process {first.pid}); end that one with 'tcpvsadm" in said
    assert "--set unload=1', or give this one an address of its own with --control" in said


def test_a_control_socket_whose_folder_is_a_file_is_refused(make_daemon: Make, tmp_path: Path) -> None:
    (tmp_path / "not a folder").write_text("")
    daemon = make_daemon(control=f"unix:{tmp_path}/not a folder/control.sock")
    assert "cannot listen on unix:" in daemon.refused()


def table_text(services: int, rules: int) -> str:
    """A configuration as --save writes it."""
    blocks = []
    for number in range(services):
        server = f"10.0.{number // 250}.{number % 250}:80"
        lines = [f"    listen = 127.0.0.1:{10000 + number}", "    scheduler = http", f"    server = {server} 1"]
        patterns = (f'"^/service{number}/path{rule}/.*\\.(png|jpe?g)$"' for rule in range(rules))
        lines += [f"    rule = pattern {pattern} use server {server}" for pattern in patterns]
        blocks.append("\n".join((f"Virtual service{number} {{", *lines, "}\n")))
    return "\n".join(blocks)


@pytest.mark.load
@pytest.mark.long
def test_10000_rules_in_1000_services(make_daemon: Make, tmp_path: Path) -> None:
    daemon = make_daemon("--state", tmp_path / "state")
    daemon.start()
    began = time.monotonic()
    daemon.adm("--restore", input=table_text(100, 10))
    print(f"--restore of 1,000 rules in 100 services: {time.monotonic() - began:.2f} s")
    text = table_text(1000, 10)
    began = time.monotonic()
    daemon.adm("--restore", input=text)
    print(f"--restore of 10,000 rules in 1,000 services: {time.monotonic() - began:.2f} s")
    assert daemon.adm("--save").stdout == text
    listed = daemon.adm("--list", "-n").stdout
    assert listed.count("Virtual service") == 1000
    assert listed.count("rule = ") == 10_000
    assert len(daemon.json("--list")["services"]) == 1000
    before = daemon.cpu()
    daemon.call("set", {"read_timeout": 99})
    assert daemon.cpu() - before < 1, "one small change of a large table takes less than a second of CPU time"
    daemon.restart()
    assert daemon.adm("--save").stdout == "global {\n    read_timeout = 99\n}\n\n" + text


def test_500_services_start_and_stop_with_one_command(
    daemon: Daemon, serve: Callable[..., SocketServer], tmp_path: Path
) -> None:
    server = serve(echo)
    blocks = (
        f"Virtual s{number} {{ listen = unix:{tmp_path}/{number} scheduler = wlc server = {server.address} }}\n"
        for number in range(500)
    )
    daemon.call("load", "".join(blocks))
    daemon.call("start")
    for number in (0, 250, 499):
        with dial(f"{tmp_path}/{number}") as client:
            client.sendall(b"ping")
            assert read_exactly(client, 4) == b"ping"
    daemon.call("stop")
    assert [name for name in os.listdir(tmp_path) if name.isdigit()] == []


def test_the_program_in_the_documentation_works(daemon: Daemon, tmp_path: Path) -> None:
    text = inspect.getdoc(control_client) or ""
    example = textwrap.dedent("\n".join(line for line in text.splitlines() if line.startswith("    ") or not line))
    assert "connect_blocking()" in example
    example = example.replace("connect_blocking()", f"connect_blocking({daemon.control!r})")
    example = example.replace("127.0.0.1:8080", f"127.0.0.1:{free_port()}")
    program = tmp_path / "program.py"
    program.write_text(example)
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=TIMEOUT, env=environment(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "web ['up']\n"
    (service,) = daemon.call("table")["services"]
    assert service["running"]
    assert service["servers"] == [
        {
            "address": "10.0.0.1:80",
            "weight": 2,
            "maxconn": 0,
            "tls": None,
            "h2": False,
            "proxy": "off",
            "priority": 0,
            "mode": "ready",
            "check": None,
            "max_pending": 0,
            "start": None,
            "labels": {},
        }
    ]


def test_refusals_arrive_as_their_classes(daemon: Daemon) -> None:
    call, port = daemon.call, free_port()
    call("add_service", "s", listen=f"{LOOPBACK}:{port}", scheduler="http")
    call("add_server", "s", "10.0.0.1:80")
    call("add_rule", "s", "/a", "10.0.0.1:80")
    for kind, method, *arguments in (
        (errors.NoSuchService, "start", "t"),
        (errors.ServiceExists, "add_service", "s"),
        (errors.NoSuchServer, "edit_server", "s", "10.0.0.2:80", 1),
        (errors.ServerExists, "add_server", "s", "10.0.0.1:80"),
        (errors.NoSuchRule, "delete_rule", "s", "/b", "10.0.0.1:80"),
        (errors.RuleExists, "add_rule", "s", "/a", "10.0.0.1:80"),
        (errors.Busy, "delete_server", "s", "10.0.0.1:80"),
        (errors.BadAddress, "add_server", "s", "::1:80"),
        (errors.BadPattern, "add_rule", "s", "(", "10.0.0.1:80"),
        (errors.BadValue, "add_server", "s", "10.0.0.3:80", 65536),
        (errors.NoSuchSetting, "set", {"colour": 1}),
        (errors.BadConfiguration, "load", "nonsense"),
    ):
        with pytest.raises(kind) as refused:
            call(method, *arguments)
        assert type(refused.value) is kind
    with pytest.raises(errors.NoSuchScheduler, match=r"there are: .*http.* \(a plugin must be installed in /"):
        call("add_service", "t", scheduler="best")
    with socket.socket() as taken:
        taken.bind((LOOPBACK, port))
        taken.listen()
        with pytest.raises(errors.CannotListen):
            call("start", "s")
    with pytest.raises(errors.Refusal, match="65,535"):
        call("add_service", "x" * 70000)
    assert len(call("table")["services"]) == 1


def test_a_client_whose_daemon_dies_gets_no_answer(daemon: Daemon, control_thread: ControlThread) -> None:
    switch = daemon.switch
    daemon.kill()
    with pytest.raises(control_client.NoAnswer, match=r"closed the connection|no daemon answers"):
        control_thread.run(switch.settings)


def test_each_edit_is_a_line_of_the_log(daemon: Daemon) -> None:
    """At the default level, once whatever the number of workers, and without secrets."""
    user = f"user {os.getuid()}: tcpvsadm"
    daemon.call("load", "Virtual logged { server = 127.0.0.1:81 }", source="x")
    daemon.adm("--drain", "-i", "logged", "-r", "127.0.0.1:81")
    daemon.adm("--ready", "-r", "127.0.0.1")
    daemon.adm("-E", "-i", "logged", 'request_header=X-Key "hidden words"', "-s", "phttp")
    daemon.adm("--drain", "-i", "logged", "-r", "127.0.0.1:82", check=False)
    daemon.adm("--set", "cookie_key=hidden-hidden-hidden-hidden-hidden")
    daemon.adm("-D", "-i", "logged")
    daemon.wait_for_log(f"{user} --delete-service --ident logged")
    edits = [line.partition(user)[2].strip() for line in daemon.log().splitlines() if user in line]
    assert edits[-5:] == [
        "--drain --real-server 127.0.0.1:81 --ident logged",
        "--ready --real-server 127.0.0.1",
        "--edit-service --ident logged scheduler=phttp request_header='X-Key ...'",
        "--set cookie_key=...",
        "--delete-service --ident logged",
    ]
    assert "hidden" not in daemon.log()
