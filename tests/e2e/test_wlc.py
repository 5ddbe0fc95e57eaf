"""wlc with servers of any protocol: a new connection goes to the server with the fewest for its weight."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import (
    LOOPBACK,
    PostgreSQL,
    Redis,
    SocketServer,
    dial,
    free_port,
    program,
    read_all,
    speak_first,
    wait_for,
)

from .harness import Daemon

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]


def run(*command: str) -> str:
    done = subprocess.run([program(command[0]), *command[1:]], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    yield server
    server.stop()


def test_redis_behind_the_switch(daemon: Daemon, redis: Redis) -> None:
    port = free_port()
    daemon.service("redis", port, redis.address)
    client = ("redis-cli", "-h", LOOPBACK, "-p", str(port))
    assert run(*client, "SET", "colour", "green") == "OK"
    assert run(*client, "GET", "colour") == "green"
    assert run("redis-cli", "-h", LOOPBACK, "-p", str(redis.port), "GET", "colour") == "green"
    daemon.wait_until_empty()
    assert daemon.stats("redis")["servers"][0]["stats"]["total"] == 2


@pytest.mark.programs
def test_postgresql_behind_the_switch(daemon: Daemon, postgresql: PostgreSQL) -> None:
    port = free_port()
    daemon.service("sql", port, postgresql.address)
    query = "select sum(n), md5(string_agg(n::text, ',')) from generate_series(1, 100000) n"
    answers = {
        run("psql", "-h", LOOPBACK, "-p", str(where), "-U", "postgres", "-At", "-c", query)
        for where in (port, postgresql.port)
    }
    assert len(answers) == 1
    assert answers.pop().startswith("5000050000|")
    daemon.wait_until_empty()


def names(count: int, port: int, stack: contextlib.ExitStack) -> list[str]:
    """Open `count` connections; return the greetings of their servers."""
    clients = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(count)]
    return [client.recv(1).decode() for client in clients]


def test_open_connections_follow_the_weights(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    light, heavy, port = serve(speak_first(b"1")), serve(speak_first(b"3")), free_port()
    daemon.service("s", port, (light.address, 1), (heavy.address, 3))
    assert Counter(names(40, port, stack)) == {"1": 10, "3": 30}
    rows = daemon.stats("s")["servers"]
    assert [row["stats"]["active"] for row in rows] == [10, 30]
    daemon.call("edit_server", "s", light.address, 3)  # it has room for 20 more now
    assert Counter(names(20, port, stack)) == {"1": 20}
    stack.close()
    daemon.wait_until_empty()
    wait_for(lambda: light.living == heavy.living == 0)


def test_ties_rotate(daemon: Daemon, serve: Serve) -> None:
    """Equal servers get the same number of connections that come one after another."""
    servers, port = [serve(speak_first(name)) for name in (b"a", b"b", b"c")], free_port()
    daemon.service("s", port, *(server.address for server in servers))
    greeted = []
    for _ in range(30):
        with dial((LOOPBACK, port)) as client:
            greeted.append(client.recv(1))
        wait_for(lambda: daemon.active("s") == 0)
    assert Counter(greeted) == {b"a": 10, b"b": 10, b"c": 10}


def test_a_server_of_weight_0_gets_no_new_connection(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    one, other, port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port()
    daemon.service("s", port, one.address, other.address)
    assert set(names(4, port, stack)) == {"1", "2"}
    daemon.call("edit_server", "s", one.address, 0)
    assert set(names(6, port, stack)) == {"2"}
    assert one.living == 2


def test_the_next_server_then_the_redirect_server_then_a_refusal(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    one, other, sorry, port = serve(speak_first(b"1")), serve(speak_first(b"2")), serve(speak_first(b"s")), free_port()
    daemon.service("s", port, (one.address, 10), (other.address, 1), redirect=sorry.address)
    assert names(1, port, stack) == ["1"]
    one.stop()
    assert names(5, port, stack) == ["2"] * 5
    other.stop()
    assert names(5, port, stack) == ["s"] * 5
    failures = [row["stats"]["failures"] for row in daemon.stats("s")["servers"]]
    assert failures in ([9, 5], [10, 5])  # at the first choice the two were equal
    assert daemon.stats("s")["redirect_stats"]["active"] == 5
    sorry.stop()
    for _ in range(3):
        with dial((LOOPBACK, port)) as client:
            assert read_all(client) == b""
    stack.close()
    daemon.wait_until_empty()
    assert daemon.stats("s")["stats"]["refused"] == 3


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a listener whose backlog is full: it does not answer at all, as a dead machine."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((LOOPBACK, free_port()))
        listener.listen(0)
        while True:
            caller = stack.enter_context(socket.socket())
            caller.settimeout(0.2)
            try:
                caller.connect(listener.getsockname())
            except TimeoutError:
                break
        yield "{}:{}".format(*listener.getsockname())


def test_a_server_that_does_not_answer_delays_a_client_by_connect_timeout(
    daemon: Daemon, serve: Serve, silent: str, stack: contextlib.ExitStack
) -> None:
    server, port = serve(speak_first(b"1")), free_port()
    daemon.set(connect_timeout=1)
    daemon.service("s", port, (silent, 100), (server.address, 1))
    began = time.monotonic()
    assert names(3, port, stack) == ["1"] * 3
    assert 0.9 <= time.monotonic() - began < 5  # the default of connect_timeout


def test_stop_ends_a_client_whose_server_connection_is_pending(daemon: Daemon, silent: str) -> None:
    port = free_port()
    daemon.set(drain_timeout=1)
    daemon.service("s", port, silent)
    with dial((LOOPBACK, port)) as client:
        wait_for(lambda: [shown["state"] for shown in daemon.connections()] == ["connecting"])
        daemon.call("stop", "s")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    daemon.wait_until_empty()


def test_a_client_that_leaves_while_its_server_connection_is_pending(daemon: Daemon, silent: str) -> None:
    port = free_port()
    daemon.set(connect_timeout=2)
    daemon.service("s", port, silent)
    before = daemon.descriptors()
    dial((LOOPBACK, port)).close()
    daemon.wait_until_empty()
    assert daemon.descriptors() <= before
