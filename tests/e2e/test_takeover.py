"""Upgrade in place: a new daemon takes over from the running one, under load, and no request fails."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, SocketServer, dial, echo, free_port, read_exactly, wait_for
from twisted.python.usage import UsageError

from ktcpvs.control.client import connect
from ktcpvs.control.endpoints import parse_control
from ktcpvs.control.server import MAX_CONNECTIONS
from ktcpvs.errors import CannotTakeOver
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.takeover.commands import TakeOver
from ktcpvs.takeover.handover_target import HandoverTarget
from ktcpvs.tap import Options

from .harness import TIMEOUT, ControlThread, Daemon, add_fatal_scheduler, has_ended

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]
Serve = Callable[..., SocketServer]


class Load:
    """Clients that send requests, each in a thread, with a short pause after each response.

    answered: how many responses have arrived. wrong: errors, a line each.
    """

    def __init__(
        self,
        where: Any,
        clients: int,
        keeps: bool,
        pause: float = 0.002,
        tls: ssl.SSLContext | None = None,
        name: str = "localhost",
    ) -> None:
        """keeps: a client keeps its connection until `Connection: close`; else each request has its own. tls: they
        speak TLS. name: that they ask for by TLS."""
        self._tls, self._name = tls, name
        self.answered = 0
        self.wrong: list[str] = []
        self._where, self._keeps, self._pause = where, keeps, pause
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        connection: socket.socket | None = None
        ask = b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"" if self._keeps else b"Connection: close\r\n")
        while not self._over.is_set():
            step = "connect"
            try:
                if connection is None:
                    connection = dial(self._where)
                    if self._tls is not None:
                        connection = self._tls.wrap_socket(connection, server_hostname=self._name)
                step = "ask"
                connection.sendall(ask)
                step = "answer"
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += read_exactly(connection, 1) if not answer else _some(connection)
                head, _, body = answer.partition(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next(int(line[16:]) for line in lines if line.startswith(b"content-length: "))
                while len(body) < length:
                    body += _some(connection)
                assert head.startswith(b"HTTP/1.1 200 "), head
                self.answered += 1
                if b"connection: close" in lines:
                    connection.close()
                    connection = None
            except Exception as error:
                self.wrong.append(f"{step}: {error!r}")
                if connection is not None:
                    connection.close()
                connection = None
            self._over.wait(self._pause)
        if connection is not None:
            connection.close()

    def wait(self, count: int) -> None:
        """Wait until more than `count` responses have arrived."""
        wait_for(lambda: self.answered > count, timeout=TIMEOUT)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(TIMEOUT)


@contextlib.contextmanager
def undisturbed(loads: Sequence[Load]) -> Iterator[None]:
    """The actions within the block disturb none of the loads: afterwards each gets responses, and none has failed."""
    before = [load.answered for load in loads]
    yield
    for load, count in zip(loads, before, strict=True):
        load.wait(count)
    assert [load.wrong for load in loads] == [[]] * len(loads)


def stop_all(loads: Sequence[Load]) -> None:
    """Stop them. None may have failed."""
    for load in loads:
        load.stop()
    assert [load.wrong for load in loads] == [[]] * len(loads)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise EOFError("the end in the middle of an answer")
    return data


def took_over(daemon: Daemon) -> Callable[[], bool]:
    def look() -> bool:
        assert daemon.is_alive, daemon.log()
        return "taken over from" in daemon.log()

    return look


def taken_over(make_daemon: Make, old: Daemon, *options: str | Path, **named: Any) -> Daemon:
    """Start a daemon and wait until it has taken over from `old`."""
    new = make_daemon(*options, "--takeover", old.control, control=old.control, **named)
    new.run()
    wait_for(took_over(new), f"a takeover: {new.log()}", timeout=TIMEOUT)
    return new


def taken_over_in_turn(
    make_daemon: Make, daemon: Daemon, sizes: Sequence[int], loads: Sequence[Load], *options: str | Path
) -> Daemon:
    """Let daemons with so many workers take over one after another, under these loads; return the last one."""
    for size in sizes:
        with undisturbed(loads):
            new = taken_over(make_daemon, daemon, *options, workers=size)
        assert daemon.wait() == 0
        daemon = new
    return daemon


@pytest.mark.load
@pytest.mark.long
@pytest.mark.parametrize("sizes", [[0] * 20 + [2], [2, 2, 3, 2, 2, 1]], ids=["alone", "workers"])
def test_a_takeover_under_load_fails_no_request(
    make_daemon: Make, web: list[Nginx], stack: contextlib.ExitStack, tmp_path: Path, sizes: list[int]
) -> None:
    port, path, state = free_port(), str(tmp_path / "web.sock"), tmp_path / "state"
    daemon = make_daemon("--state", state, workers=sizes[0])
    daemon.start()
    addresses = [server.address for server in web]
    rules = tuple((".*", address) for address in addresses)
    daemon.service("web", port, *addresses, rules=rules, scheduler="phttp")
    daemon.service("unix", f"unix:{path}", *addresses, rules=rules, scheduler="phttp")
    loads = [
        Load((LOOPBACK, port), 4, keeps=True, pause=0.01),
        Load((LOOPBACK, port), 4, keeps=False, pause=0.01),
        Load((LOOPBACK, port), 2, keeps=True, pause=0.4),
        Load(path, 1, keeps=False, pause=0.005),
    ]
    for load in loads:
        stack.callback(load.stop)
    old = []
    for size in sizes[1:]:
        with undisturbed(loads):
            new = taken_over(make_daemon, daemon, "--state", state, workers=size)
        old.append(daemon)
        daemon = new
    assert [one.wait() for one in old] == [0] * len(old)
    stop_all(loads)
    assert Path(path).is_socket()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert not Path(path).exists()
    assert not Path(daemon.control.removeprefix("unix:")).exists()


def health(daemon: Daemon, server: str) -> str:
    """The health of a server of the service `ill`."""
    rows: list[dict[str, Any]] = daemon.stats("ill")["servers"]
    return next(str(row["health"]["state"]) for row in rows if row["address"] == server)


def test_a_takeover_fails_no_command(
    make_daemon: Make, control_thread: ControlThread, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """The old or the new daemon answers each command, and in the end every edit is in the table."""
    old = make_daemon("--state", tmp_path / "state", workers=1)
    old.start()
    old.service("web", free_port(), scheduler="phttp")
    old.service("ill", free_port(), dead := f"{LOOPBACK}:{free_port()}", check="tcp", check_fall=1, check_interval=1)
    wait_for(lambda: health(old, dead) == "down", "the server to be down")
    old.call("edit_service", "ill", check_interval=3600)  # the new daemon can know it only from the old one
    wrong: list[str] = []
    done: list[str] = []
    over = threading.Event()

    async def ask(number: int) -> None:
        switch = await connect(control_thread.reactor, old.control)
        try:
            await switch.add_server("web", f"10.0.0.{number}:80")
            assert f"10.0.0.{number}:80" in str(await switch.table())
        finally:
            switch.close()

    def administer() -> None:
        for number in range(1, 255):
            if over.is_set():
                return
            try:
                control_thread.run(ask, number)
                done.append(f"10.0.0.{number}:80")
            except Exception as error:
                wrong.append(f"{number}: {error!r}")
            time.sleep(0.02)

    stack.callback(over.set)
    thread = threading.Thread(target=administer)
    thread.start()
    stack.callback(thread.join, TIMEOUT)
    daemon = old
    for workers in (0, 1):
        new = taken_over(make_daemon, daemon, "--state", tmp_path / "state", workers=workers)
        assert health(new, dead) == "down"
        assert daemon.wait() == 0
        daemon = new
        done_by_then = done[-1]
        wait_for(lambda last=done_by_then: done[-1] != last)
    over.set()
    thread.join(TIMEOUT)
    assert wrong == []
    shown = daemon.call("table")["services"][0]["servers"]
    assert [server["address"] for server in shown] == done
    daemon.kill()
    again = make_daemon("--state", tmp_path / "state", control=old.control)
    again.start()
    assert again.call("table")["services"][0]["servers"] == shown


def test_the_new_daemon_serves_when_the_old_one_dies_meanwhile(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    server, path = serve(echo), str(tmp_path / "s.sock")
    old = make_daemon()
    old.start()
    old.service("s", f"unix:{path}", server.address)
    new = make_daemon("--takeover", old.control, control=old.control, workers=2)
    new.run()
    wait_for(new.workers, "it to have all, and to start workers", timeout=TIMEOUT)
    old.kill()
    wait_for(took_over(new), timeout=TIMEOUT)
    with dial(path) as client:
        client.sendall(b"ping")
        assert read_exactly(client, 4) == b"ping"
    assert len(new.call("table")["services"]) == 1


# Refusals.


def test_a_takeover_that_fails_leaves_the_old_daemon_unchanged(
    make_daemon: Make, control_thread: ControlThread, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    file, plugins = tmp_path / "fatal", tmp_path / "plugins"
    add_fatal_scheduler(plugins, "only", file)
    path, server = str(tmp_path / "s.sock"), serve(echo)
    daemon = make_daemon(workers=2, python_path=(plugins,))
    daemon.start()
    daemon.service("s", free_port(), server.address, scheduler="only")
    daemon.service("unix", f"unix:{path}", server.address)
    client = stack.enter_context(dial(path))
    before = daemon.call("table")

    def goes_on() -> None:
        client.sendall(b"ping")
        assert read_exactly(client, 4) == b"ping"
        with dial(path) as another:
            another.sendall(b"pong")
            assert read_exactly(another, 4) == b"pong"
        assert daemon.call("table") == before
        daemon.set(debug_level=0)

    def refused_meanwhile(**named: Any) -> str:
        return make_daemon("--takeover", daemon.control, control=daemon.control, **named).refused()

    def refused(**named: Any) -> str:
        said = refused_meanwhile(**named)
        goes_on()
        return said

    # A version that lacks something of the table, or that speaks otherwise.
    assert "only" in refused()

    async def otherwise() -> None:
        switch = await connect(control_thread.reactor, daemon.control)
        try:
            await switch.call(TakeOver, protocol=99, version="9.9")
        finally:
            switch.close()

    with pytest.raises(CannotTakeOver, match=r"hands over by protocol 1, and ktcpvs 9\.9 takes by protocol 99"):
        control_thread.run(otherwise)

    # One whose worker cannot begin.
    file.touch()
    assert "nothing is taken over: worker 1 cannot begin" in refused(workers=1, python_path=(plugins,))
    file.unlink()

    # While a table is on trial.
    daemon.call("load", daemon.adm("--save").stdout, confirm=3600)
    assert "the table is on trial for " in refused_meanwhile()
    daemon.call("confirm")

    # One that goes away when it has everything; and another meanwhile.
    where = parse_control(daemon.control)
    first = HandoverTarget(where, InheritedSockets())
    assert "another daemon takes over already" in refused_meanwhile()
    first.abandon()
    daemon.wait_for_log("before it had taken over; this one continues")
    goes_on()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--takeover", "tcp:7777:interface=127.0.0.1"], "expected unix:/PATH, since sockets can be passed only"),
        (["--takeover", "tls:7777:interface=0.0.0.0"], "--takeover tls:...: expected unix:/PATH, since sockets can be"),
        (["--takeover", "unix:/a", "--control", "unix:/b"], "--takeover and --control name different unix sockets"),
        (["--takeover", "here"], "control 'here'"),
    ],
)
def test_contradictory_options_are_refused(options: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Options().parseOptions(options)  # type: ignore[no-untyped-call]


def test_a_takeover_without_a_daemon_is_refused(make_daemon: Make) -> None:
    lonely = make_daemon("--takeover", "unix:/nowhere/x", control="unix:/nowhere/x")
    assert lonely.refused() == (
        "ktcpvs: no daemon to take over at unix:/nowhere/x (No such file or directory): start without --takeover"
    )


def test_a_daemon_that_has_too_many_control_connections_is_not_taken_over(make_daemon: Make) -> None:
    old = make_daemon()
    old.start()
    path = old.control.removeprefix("unix:")
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(path)
        refused = make_daemon("--takeover", old.control, control=old.control).refused()
        assert "closed the connection" in refused
        assert "its log says why" in refused
        assert "start without" not in refused
        old.wait_for_log(f"control connection refused: {MAX_CONNECTIONS} connections are open already")


# In the background.


def test_the_pid_file_names_the_daemon_that_serves(make_daemon: Make, tmp_path: Path) -> None:
    pid_file = tmp_path / "twistd.pid"

    def start(*options: str, control: str | None = None) -> int:
        before = pid_file.read_text() if pid_file.exists() else ""
        number = len(list(tmp_path.iterdir()))
        arguments = (f"--pidfile={pid_file}", f"--logfile={tmp_path / f'{number}.log'}")
        daemon = make_daemon(*options, control=control, arguments=arguments)
        daemon.run()
        assert daemon.wait() == 0, daemon.log()
        wait_for(lambda: pid_file.exists() and pid_file.read_text() not in ("", before))
        daemons.append(daemon)
        return int(pid_file.read_text())

    daemons: list[Daemon] = []
    old = start()
    new = start("--takeover", daemons[0].control, control=daemons[0].control)
    try:
        wait_for(lambda: has_ended(old), "the old one to end")
        assert pid_file.read_text() == str(new)
        daemons[1].call("table")
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: has_ended(new), "the new one to end")
        assert not pid_file.exists()
    finally:
        for pid in (old, new):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_daemon_that_ends_already_is_taken_over(make_daemon: Make, serve: Serve, workers: int) -> None:
    server, port = serve(echo), free_port()

    def echoes(sock: socket.socket) -> None:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"

    old = make_daemon(workers=workers)
    old.start()
    old.service("s", port, server.address)
    with dial((LOOPBACK, port)) as client:
        echoes(client)
        old.signal(signal.SIGTERM)
        old.wait_for_log("ending: 1 connections drain" if not workers else "ending: 2 workers drain")
        new = make_daemon("--takeover", old.control, control=old.control, workers=workers)
        new.start()
        new.wait_for_log("taken over from")
        with dial((LOOPBACK, port)) as other:
            echoes(other)
        echoes(client)
    assert old.wait() == 0
    assert "Traceback" not in old.log()
