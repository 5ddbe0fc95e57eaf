"""The protocols of service managers such as systemd: inherited sockets and notifications."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, SocketServer, dial, echo, echoes, free_port, program, wait_for

from .harness import TIMEOUT, Daemon, has_ended

pytestmark = [pytest.mark.e2e, pytest.mark.starts]

Make = Callable[..., Daemon]
Serve = Callable[..., SocketServer]

HAND_IN = """
import fcntl, os, sys
names, *program = sys.argv[1:]
descriptors = [int(one) for one in os.environ.pop("HANDED").split()]
for place, descriptor in enumerate([fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in descriptors]):
    os.dup2(descriptor, 3 + place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(descriptors)))
if names:
    os.environ.update(LISTEN_FDNAMES=names)
os.execv(program[0], program)
"""
"""The steps of a service manager between fork(2) and execve(2)."""

WATCHDOG = 400_000
"""Microseconds."""


class Manager:
    """Holds sockets, starts the daemon with them, and receives its notifications."""

    def __init__(self, folder: Path, *where: Any) -> None:
        """where: the addresses of its sockets, the first that of the control connection."""
        self.sockets = [self._listening(one) for one in where]
        self.path = str(folder / "notify")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(self.path)
        self._notify.settimeout(TIMEOUT)

    @staticmethod
    def _listening(where: Any) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(128)
        return sock

    def hand_in(self, daemon: Daemon, has_names: bool = True) -> None:
        """Let the daemon inherit the sockets. has_names: with names, as systemd gives them."""
        descriptors = [sock.fileno() for sock in self.sockets]
        names = ":".join(["control", *["ktcpvs.socket"] * (len(descriptors) - 1)]) if has_names else ""
        daemon.prefix(sys.executable, "-c", HAND_IN, names)
        daemon.inherited = tuple(descriptors)
        daemon.environment |= {
            "HANDED": " ".join(map(str, descriptors)),
            "NOTIFY_SOCKET": self.path,
            "WATCHDOG_USEC": str(WATCHDOG),
        }

    def hear(self, wanted: str) -> dict[str, str]:
        """Wait for a message with the name `wanted`; return its names and values."""
        while True:
            said = dict(line.split("=", 1) for line in self._notify.recv(4096).decode().splitlines())
            if wanted in said:
                return said

    def forget(self) -> None:
        """Discard the messages received so far."""
        self._notify.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._notify.recv(4096)
        self._notify.settimeout(TIMEOUT)

    def hears_nothing(self, seconds: float) -> bool:
        """True when no message comes for so many seconds."""
        self._notify.settimeout(seconds)
        try:
            self._notify.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._notify.settimeout(TIMEOUT)
        return False

    def close(self) -> None:
        for sock in (*self.sockets, self._notify):
            sock.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    control = str(tmp_path / "control.sock")
    manager = Manager(tmp_path, control, (LOOPBACK, free_port()), str(tmp_path / "s.sock"))
    yield manager
    manager.close()


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_a_daemon_under_a_service_manager(
    make_daemon: Make,
    serve: Serve,
    stack: contextlib.ExitStack,
    tmp_path: Path,
    manager: Manager,
    workers: int,
) -> None:
    server, file = serve(echo), tmp_path / "ktcpvs.conf"
    where, path = manager.sockets[1].getsockname(), manager.sockets[2].getsockname()
    file.write_text(
        f"Virtual tcp {{ listen = {where[0]}:{where[1]} scheduler = wlc server = {server.address} }}\n"
        f"Virtual unix {{ listen = unix:{path} scheduler = wlc server = {server.address} }}\n"
    )
    control = f"unix:{manager.sockets[0].getsockname()}"
    daemon = make_daemon("--config", file, control=control, workers=workers)
    manager.hand_in(daemon, has_names=workers == 0)

    # Clients that connect before the daemon has started wait.
    early = [stack.enter_context(dial(one)) for one in (where, path)]
    daemon.run()
    ready = manager.hear("READY")
    assert ready["STATUS"].startswith("2 of 2 services run, ")
    assert all(echoes(client) for client in early)
    assert len(daemon.call("table")["services"]) == 2

    # A service that stops and starts uses its inherited socket again.
    daemon.call("stop", "tcp")
    waiting = stack.enter_context(dial(where))
    daemon.call("start", "tcp")
    assert echoes(waiting)

    # SIGHUP, with a file that is good and one that is not.
    daemon.signal(signal.SIGHUP)
    assert int(manager.hear("RELOADING")["MONOTONIC_USEC"]) > 0
    assert "is loaded" in manager.hear("READY")["STATUS"]
    file.write_text("nonsense")
    daemon.signal(signal.SIGHUP)
    assert "nothing is changed: " in manager.hear("READY")["STATUS"]

    # The daemon does not notify the watchdog while a process that serves does not answer.
    assert manager.hear("WATCHDOG")
    victim = daemon.workers()[-1] if workers else daemon.pid
    os.kill(victim, signal.SIGSTOP)
    manager.hears_nothing(WATCHDOG / 4e6)  # for the answer to an earlier ping
    manager.forget()
    assert manager.hears_nothing(3 * WATCHDOG / 4e6)
    os.kill(victim, signal.SIGCONT)
    assert manager.hear("WATCHDOG")

    # SIGUSR2: a new daemon takes over, with the inherited sockets.
    late = stack.enter_context(dial(where))
    assert echoes(late)
    daemon.signal(signal.SIGUSR2)
    new = int(manager.hear("MAINPID")["MAINPID"])
    try:
        assert new != daemon.pid
        assert manager.hear("READY")["STATUS"].startswith("2 of 2 services run, ")
        assert all(echoes(client) for client in (*early, waiting, late))
        after = stack.enter_context(dial(where))
        assert echoes(after)
        for client in (*early, waiting, late, after):  # the old one may have accepted the last one just before
            client.close()
        assert daemon.wait() == 0
        last = stack.enter_context(dial(where))
        assert echoes(last)
        assert manager.hear("WATCHDOG")
        assert len(daemon.call("table")["services"]) == 2
        assert manager.hear("WATCHDOG").keys() == {"WATCHDOG"}

        # The sockets outlive the daemon.
        last.close()
        os.kill(new, signal.SIGTERM)
        assert int(manager.hear("STOPPING")["EXTEND_TIMEOUT_USEC"]) > 30_000_000
        wait_for(lambda: has_ended(new), "the new one to end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(new, signal.SIGKILL)
    waiting = stack.enter_context(dial(where))
    file.write_text(f"Virtual tcp {{ listen = {where[0]}:{where[1]} scheduler = wlc server = {server.address} }}\n")
    daemon.start()
    assert echoes(waiting)


def test_wrong_inherited_sockets_are_refused(make_daemon: Make, tmp_path: Path) -> None:
    manager = Manager(tmp_path, str(tmp_path / "elsewhere"))
    with contextlib.closing(manager):
        daemon = make_daemon()
        manager.hand_in(daemon)
        assert f"handed in as 'control' listens at {tmp_path}/elsewhere; --control is unix:" in daemon.refused()
        manager.sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        daemon = make_daemon()
        manager.hand_in(daemon)
        assert "descriptor 4 (ktcpvs.socket) of the service manager is no listening stream socket" in daemon.refused()


def test_socket_activation_by_systemd_socket_activate(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    """It gives no names to the sockets, and they accept clients of both address families."""
    port, control, file = free_port("::"), tmp_path / "control.sock", tmp_path / "ktcpvs.conf"
    server = serve(echo).address
    file.write_text(f"Virtual s {{ listen = 0.0.0.0:{port} allow = 127.0.0.0/8 scheduler = wlc server = {server} }}\n")
    daemon = make_daemon("--config", file, control=f"unix:{control}")
    daemon.prefix(program("systemd-socket-activate"), "-E", "PYTHONPATH", "-l", str(control), "-l", str(port))
    daemon.run()
    daemon.wait_for_log(f"Listening on [::]:{port}")
    with dial((LOOPBACK, port)) as client:
        assert echoes(client)
        daemon.wait_until_ready()
        (connection,) = daemon.connections()
        assert connection["client"] == f"{LOOPBACK}:{client.getsockname()[1]}"
    with pytest.raises(ConnectionResetError), dial(("::1", port)) as refused:
        refused.recv(1)
