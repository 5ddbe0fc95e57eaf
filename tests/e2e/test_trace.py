"""tcpvsadm --trace as a program: what it prints, how it ends, and that the daemon notices when it is gone."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, dial, echo, free_port, wait_for

from ktcpvs.errors import Busy
from ktcpvs.model.live_trace import TraceQuery
from ktcpvs.runtime.live_traces import MAX_TRACES

from .harness import TCPVSADM, TIMEOUT, Daemon, command

pytestmark = [pytest.mark.e2e, pytest.mark.together]
with_workers = pytest.mark.parametrize("workers", [0, 2], ids=["one-process", "workers"])


@contextlib.contextmanager
def tracing(daemon: Daemon, *words: str, output: Any = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """tcpvsadm --trace, which has begun."""
    daemon.forget_log()
    words = ("--control", daemon.control, "--trace", *words)
    program = subprocess.Popen(
        [*command("tcpvsadm", TCPVSADM), *words],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        env=daemon.environment,
    )
    try:
        daemon.wait_for_log("traces requests of")
        yield program
    finally:
        if program.poll() is None:
            program.kill()
        program.communicate()


def ask(port: int, *paths: str, **headers: str) -> list[int]:
    """Request these paths, each on a connection of its own, so that all workers get some; return the statuses."""
    found = []
    for path in paths:
        with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)) as client:
            client.request("GET", path, headers=headers)
            found.append(client.getresponse().status)
    return found


def has_no_trace(daemon: Daemon) -> bool:
    """Whether eight more traces may begin: no earlier one runs."""
    begun = []
    try:
        for _ in range(MAX_TRACES):
            begun.append(daemon.call("begin_trace", TraceQuery("", None, 1, 60)))
    except Busy:
        return False
    finally:
        for number in begun:
            daemon.call("end_trace", number)
    return True


@with_workers
def test_requests_of_all_processes_until_there_are_enough(daemon: Daemon, web: list[Nginx]) -> None:
    port, closed = free_port(), free_port()
    servers = web[0].address, f"{LOOPBACK}:{closed}"
    daemon.service("web", port, *servers, scheduler="phttp", balance="rr", eject=0)
    daemon.call("add_rule", "web", "path /a", servers[0])
    daemon.call("add_rule", "web", "path /b", servers[1])
    daemon.call("add_rule", "web", "path /b", servers[0])
    with tracing(daemon, "path /a /b", "--count", "6", "--json") as program:
        ask(port, *("/a", "/other", "/b") * 3, Cookie="secret")
        printed, said = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 0
    assert said == "6 requests matched, 0 dropped: as many as --count allows\n"
    entries = [json.loads(line) for line in printed.splitlines()]
    assert sorted(entry["target"] for entry in entries) == ["/a"] * 3 + ["/b"] * 3
    assert "secret" not in printed
    assert {entry["service"] for entry in entries} == {"web"}
    assert {entry["why"] for entry in entries if entry["target"] == "/a"} == {"rule=1, balance"}
    tried = [entry["attempts"] for entry in entries if entry["retries"]]
    assert tried
    for first, second in tried:
        assert first["server"] == servers[1]
        assert "refused" in first["failure"].lower()
        assert second == {"server": servers[0], "failure": None}
    wait_for(lambda: has_no_trace(daemon), "the trace to end in all processes")


@with_workers
def test_connections_and_the_end_of_the_time(daemon: Daemon, serve: Callable[..., Any], workers: int) -> None:
    server, port = serve(echo), free_port()
    daemon.service("tcp", port, server.address)
    with tracing(daemon, "", "-i", "tcp", "--for", "2s") as program:
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
        printed, said = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 0
    assert said == "1 request matched, 0 dropped: the time of --for is over\n"
    (line,) = printed.splitlines()
    assert f" tcp {LOOPBACK} - -> {server.address}  -  " in line
    assert "  [balance]  " in line
    assert line.endswith("  5 in, 5 out")


@with_workers
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_program(daemon: Daemon, web: list[Nginx], number: int) -> None:
    port = free_port()
    daemon.service("web", port, web[0].address, scheduler="phttp")
    with tracing(daemon, "") as program:
        ask(port, "/")
        line = program.stdout.readline() if program.stdout is not None else ""
        assert " web 127.0.0.1 GET 127.0.0.1:" in line
        program.send_signal(number)
        _, said = program.communicate(timeout=TIMEOUT)
    if number == signal.SIGINT:
        assert said == "1 request matched, 0 dropped: interrupted\n"
        assert program.returncode == 130
    wait_for(lambda: has_no_trace(daemon), "the trace to end")


def test_a_pipe_that_is_closed_ends_it(daemon: Daemon, web: list[Nginx]) -> None:
    port = free_port()
    daemon.service("web", port, web[0].address, scheduler="phttp")
    reader, writer = socket.socketpair()
    with tracing(daemon, "", output=writer.fileno()) as program:
        writer.close()
        reader.close()
        ask(port, "/", "/")
        program.wait(TIMEOUT)
        assert program.returncode == 141
    wait_for(lambda: has_no_trace(daemon), "the trace to end")


@with_workers
def test_a_program_that_is_stopped_loses_lines_and_not_the_daemon_memory(
    daemon: Daemon, serve: Callable[..., Any], workers: int
) -> None:
    """Beyond a MiB of entries, further ones are dropped and counted; requests are served as ever."""
    server = serve(respond_always)
    port = free_port()
    daemon.service("web", port, server.address, scheduler="phttp")
    count = 1000  # entries of 8 KiB each: more than what the daemon, its workers and the sockets hold
    with tracing(daemon, "", "--count", str(count), "--json") as program:
        program.send_signal(signal.SIGSTOP)
        client = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)
        for _ in range(count):
            client.request("GET", "/" + "x" * 8000)
            response = client.getresponse()
            response.read()
            assert response.status == 200
        client.close()
        program.send_signal(signal.SIGCONT)
        printed, said = program.communicate(timeout=TIMEOUT)
    found = re.fullmatch(rf"{count} requests matched, ([0-9]+) dropped: as many as --count allows\n", said)
    assert found is not None, said
    assert int(found[1]) > count / 2
    assert printed.count("\n") == count - int(found[1])


def respond_always(sock: Any) -> None:
    received = b""
    while data := sock.recv(65536):
        received += data
        if not received.endswith(b"\r\n\r\n"):
            continue
        received = b""
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def test_more_traces_than_there_may_be(daemon: Daemon, web: list[Nginx]) -> None:
    port = free_port()
    daemon.service("web", port, web[0].address, scheduler="phttp")
    begun, refused = [], 0
    for _ in range(64):
        try:
            begun.append(daemon.call("begin_trace", TraceQuery("", None, 1, 60)))
        except Busy:
            refused += 1
    assert (len(begun), refused) == (MAX_TRACES, 64 - MAX_TRACES)
    assert ask(port, "/") == [200]
    for number in begun:
        daemon.call("end_trace", number)
    wait_for(lambda: has_no_trace(daemon), "the traces to end")


def test_what_is_refused(daemon: Daemon) -> None:
    for words, why in (
        (("uri /x",), "trace: unknown condition 'uri'"),
        (("path x",), "trace: path 'x': expected a path that begins with /"),
        (("", "-i", "nope"), "trace nope: no service nope"),
        (("", "--count", "0"), "trace: count = 0: expected 1 to 100000 requests"),
    ):
        done = daemon.adm("--trace", *words, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"tcpvsadm: {why}"), done.stderr
    for options in (("--for", "0"), ("--count",), ("--for", "1d"), ("--count", "x"), ("more",)):
        assert daemon.adm("--trace", "", *options, check=False).returncode == 2
