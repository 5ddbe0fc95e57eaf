"""A real switch for a test: a daemon with one service, on a free port of loopback, with servers if need be."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from attrs import frozen

from ktcpvs.control.client import connect_blocking
from ktcpvs.control.client_errors import NoAnswer
from ktcpvs.control.typed_client import BlockingClient
from ktcpvs.testing.local_servers import LOOPBACK, LocalServer

START_TIMEOUT = 30.0
"""Seconds for the daemon to begin to serve."""

STOP_TIMEOUT = 10.0
"""Seconds for the daemon to end after SIGTERM; then it gets SIGKILL."""

POLL_INTERVAL = 0.02

_LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Passes the listening socket to the daemon as a service manager does (sd_listen_fds(3)), so that nobody else can take
the port meanwhile."""

_DAEMON = "from ktcpvs.daemon import run; run()"


class NotStarted(Exception):
    """The daemon has not begun to serve; the text is what it said."""


@frozen
class SwitchResponse:
    """A response through the switch. server: the address of the `LocalServer` that it comes from, or whatever the body
    is."""

    status: int
    server: str
    headers: Mapping[str, str]


class RunningSwitch:
    """A daemon with one service `tested`; a context manager.

    address: of the service, as in 127.0.0.1:40123. servers: those that were started for it. control: the address of
    its control socket, for `tcpvsadm --control`. client: administers it.
    """

    ident = "tested"

    def __init__(
        self,
        scheduler: str = "wlc",
        servers: int | Sequence[str] = 2,
        *,
        options: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> None:
        """scheduler: its name; the daemon finds the plugins that this process would find. servers: how many to start,
        or what stands behind `server =`. options, settings: lines of the configuration, as `eject = 5`; for the
        service, and for the switch. Raises NotStarted."""
        self._folder = tempfile.TemporaryDirectory(prefix="ktcpvs-")
        self.servers: list[LocalServer] = []
        self._process: subprocess.Popen[bytes] | None = None
        folder = Path(self._folder.name)
        self._log = folder / "daemon.log"
        self.control = f"unix:{folder}/control.sock"
        self._socket = socket.create_server((LOOPBACK, 0), backlog=128)
        self.address = f"{LOOPBACK}:{self._socket.getsockname()[1]}"
        try:
            if isinstance(servers, int):
                self.servers = [LocalServer() for _ in range(servers)]
                servers = [server.address for server in self.servers]
            lines = [f"listen = {self.address}", f"scheduler = {scheduler}", *options]
            lines += [f"server = {server}" for server in servers]
            text = "".join(f"{line}\n" for line in (*settings, f"Virtual {self.ident} {{", *lines, "}"))
            (folder / "switch.conf").write_text(text, encoding="utf-8")
            self._start(folder / "switch.conf")
            self.client: BlockingClient = connect_blocking(self.control)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunningSwitch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def log(self) -> str:
        """Return the log of the daemon."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def get(self, path: str = "/", headers: Mapping[str, str] | None = None, timeout: float = 10.0) -> SwitchResponse:
        """Send a GET on a new connection. timeout: seconds. Raises OSError and http.client.HTTPException."""
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            body = response.read().decode("utf-8", "replace")
            return SwitchResponse(response.status, body, dict(response.getheaders()))
        finally:
            connection.close()

    def close(self) -> None:
        """End the daemon and the servers that were started for it. A second call does nothing."""
        client = getattr(self, "client", None)
        if client is not None:
            client.close()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._socket.close()
        for server in self.servers:
            server.stop()
        self._folder.cleanup()

    def _start(self, configuration: Path) -> None:
        daemon = [sys.executable, "-c", _DAEMON, "--workers", "0", "--control", self.control]
        daemon += ["--config", str(configuration)]
        path = ":".join(dict.fromkeys([os.getcwd(), *filter(None, sys.path)]))
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(self._socket.fileno()), *daemon],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder.name,
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=(self._socket.fileno(),),
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(f"the switch has not started:\n{self.log}")
            time.sleep(POLL_INTERVAL)

    def _is_ready(self) -> bool:
        if not os.path.exists(self.control.removeprefix("unix:")):
            return False
        try:
            with connect_blocking(self.control) as client:
                return client.service(self.ident).running
        except NoAnswer:
            return False
