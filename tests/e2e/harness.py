"""Starts the daemon as a program and talks to it: as tcpvsadm, and through ktcpvs.control.client.

Tests that are about tcpvsadm call `adm`; the others set up their services with `call`, which is the same control
connection without the time that a new process takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from servers import LOOPBACK, wait_for
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.threads import blockingCallFromThread

from ktcpvs.control.client import NoAnswer, connect
from ktcpvs.relay.pipes import MAX_SPARE_PIPES

ROOT = Path(__file__).parents[2]
TWISTD = "from twisted.scripts.twistd import run; run()"
TCPVSADM = "from ktcpvs.adm import run; run()"

AS_INSTALLED = Path(__file__).with_name("as_installed")
"""Hides what is installed for the tests alone."""

KEPT = {"pipe:": 2 * MAX_SPARE_PIPES + 8, "anon_inode:": 9 + 8}
"""How many descriptors of some kinds a daemon may have: what relays keep, and a few of the reactor's."""

CALM = 30.0
"""Seconds that anything may take that is not measured."""


def installed() -> bool:
    """True when ktcpvs is installed beside this Python, with its programs."""
    return Path(sys.executable).with_name("tcpvsadm").exists()


def command(script: str, code: str) -> list[str]:
    """The installed script, or Python code that does the same in a source tree."""
    beside = Path(sys.executable).with_name(script)
    return [str(beside)] if beside.exists() else [sys.executable, "-c", code]


def environment(*python_path: Path, tls: bool = False) -> dict[str, str]:
    """What the programs run with; `python_path`: folders in front of PYTHONPATH; tls: with the extra `tls`."""
    folders = [str(folder) for folder in (*python_path, *([] if tls else [AS_INSTALLED]))]
    folders += filter(None, os.environ.get("PYTHONPATH", "").split(":"))
    if not installed():
        folders.append(str(ROOT))
    return {**os.environ, "PYTHONPATH": ":".join(folders)}


class ControlThread:
    """A reactor of its own in a thread, for the control client."""

    def __init__(self) -> None:
        self.reactor = EPollReactor()
        self._thread = threading.Thread(target=self.reactor.run, args=(False,), daemon=True)
        self._thread.start()

    def run(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Await `function(...)` there."""
        return blockingCallFromThread(
            self.reactor, lambda: Deferred.fromCoroutine(function(*arguments, **named)).addTimeout(CALM, self.reactor)
        )

    def stop(self) -> None:
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(CALM)
        self.reactor._poller.close()  # which Twisted leaves to the garbage collector, at a time of its choice


class Daemon:
    """One `twistd ktcpvs`, in its folder.

    workers: how many, as --workers wants it. descriptors: its hard limit. tls: it has the extra `tls` installed.
    python: runs it, and finds ktcpvs by `python_path`; None: the Python of the tests.
    options: further options of `ktcpvs`. broken: True when its log may hold tracebacks. ended: True when the test has
    ended it on purpose.
    """

    def __init__(
        self,
        thread: ControlThread,
        folder: Path,
        *options: str | Path,
        reactor: str = "uvloop",
        workers: int | str = 0,
        control: str | None = None,
        descriptors: int | None = None,
        python_path: tuple[Path, ...] = (),
        tls: bool = False,
        python: Path | None = None,
        arguments: tuple[str | Path, ...] = ("--nodaemon", "--pidfile="),
    ) -> None:
        self.folder = folder
        self.control = control or f"unix:{folder}/control.sock"
        self.log_path = folder / "daemon.log"
        self.broken = False
        self.ended = False
        self.handed: tuple[int, ...] = ()  # descriptors that it inherits
        self._thread = thread
        self._switch: Any = None
        self._environment = environment(*python_path, tls=tls)
        limit = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"] if descriptors is not None else []
        program = command("twistd", TWISTD) if python is None else [str(python), "-c", TWISTD]
        self._command = [*limit, *program, *map(str, arguments), f"--reactor={reactor}", "ktcpvs"]
        self._command += ["--control", self.control, "--workers", str(workers), *map(str, options)]
        self.process: subprocess.Popen[bytes] | None = None

    def prefix(self, *command: str) -> None:
        """Run it by that program: `command` is what stands before it."""
        self._command = [*command, *self._command]

    def environ(self, **words: str) -> None:
        """Run it with that in its environment."""
        self._environment.update(words)

    # Its life.

    def run(self) -> None:
        """Start it and do not wait."""
        self._hang_up()
        self.ended = False
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment,
                pass_fds=self.handed,
            )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.run()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def answered() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the daemon ended: {self.log()}"
            try:
                self.call("settings")
            except NoAnswer:
                return False
            return True

        wait_for(answered, f"the daemon to answer: {self.log()}", timeout=CALM)

    def refused(self) -> str:
        """Start it, wait until it has refused to run with exit code 1, and give what it said on standard error."""
        before = len(self.log())
        self.run()
        assert self.wait() == 1, self.log()
        said = self.log()[before:]
        assert "Traceback" not in said, said
        marked = (line.partition("[stderr#error] ")[2] for line in said.splitlines())  # twistd logs it
        return "\n".join(line for line in marked if line) or said

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = CALM) -> int:
        """Its exit code, when it has ended by itself."""
        assert self.process is not None
        self.ended = True
        self._hang_up()
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it as a crash would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self) -> None:
        """Crash, and start again."""
        self.kill()
        self.start()

    def finish(self) -> None:
        """The test is over: it must be alive, end when asked, and have nothing to complain of."""
        self._hang_up()
        if self.process is None or self.ended:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._check_log()
            return
        code = self.process.poll()
        assert code is None, f"the daemon has ended with {code}: {self.log()}"
        self.signal(signal.SIGTERM)
        try:
            code = self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGTERM)  # connections still drain: do not wait for them
            try:
                code = self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert code == 0, f"the daemon ended with {code}: {self.log()}"
        self._check_log()

    def clear(self) -> None:
        """Between two tests of this daemon: it must be alive and have nothing to complain of; then empty its table."""
        assert self.is_alive, self.log()
        self._check_log()
        self.set(drain_timeout=0)
        self.call("stop")
        self.call("load", "", allow_empty=True)
        self.wait_until_empty()

    def _check_log(self) -> None:
        log = self.log()
        if not self.broken:
            for word in ("Traceback", "Unhandled", "never awaited", "never retrieved"):
                found = log.find(word)
                assert found < 0, f"the daemon's log has {word!r}: {log[max(found - 2000, 0) : found + 2000]}"

    # What it tells.

    def log(self) -> str:
        """All it has written, to its log and to standard error."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of CPU time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """How many it has open, without those that relays keep for the next connection, of which there are not more
        than there should be: pipes, what watches sockets, and programs in the kernel with their maps."""
        kinds: list[str] = []
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):  # it has been closed since
                kinds.append(os.readlink(f"/proc/{self.pid}/fd/{name}").partition("[")[0])
        kept = {kind: kinds.count(kind) for kind in ("pipe:", "anon_inode:")}
        kept["anon_inode:"] += sum(kind.startswith("anon_inode:bpf") for kind in kinds)
        for kind, count in kept.items():
            assert count <= KEPT[kind], f"{count} descriptors of kind {kind}"
        return len([kind for kind in kinds if kind != "pipe:" and not kind.startswith("anon_inode:")])

    # Administration.

    def adm(self, *arguments: object, check: bool = True, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run tcpvsadm. check: it must succeed."""
        done = subprocess.run(
            [*command("tcpvsadm", TCPVSADM), "--control", self.control, *map(str, arguments)],
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            timeout=CALM,
            cwd=self.folder,
            env=self._environment,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert not check or done.returncode == 0, (arguments, done.returncode, done.stderr, done.stdout)
        return done

    def json(self, *arguments: object) -> Any:
        """What `tcpvsadm ARGUMENTS --json` prints."""
        return json.loads(self.adm(*arguments, "--json").stdout)

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A method of ktcpvs.control.client.Switch."""
        if self._switch is None:
            self._switch = self._thread.run(connect, self._thread.reactor, self.control)
        return self._thread.run(getattr(self._switch, method), *arguments, **named)

    def _hang_up(self) -> None:
        if self._switch is not None:
            self._thread.reactor.callFromThread(self._switch.close)
            self._switch = None

    # Short ways.

    def service(
        self,
        ident: str,
        listen: object,
        *servers: str | tuple[str, int],
        rules: tuple[tuple[str, str], ...] = (),
        scheduler: str = "wlc",
        **options: str | int,
    ) -> None:
        """Add a service with servers (address, or address and weight) and rules (pattern, address), and start it.

        listen: an address, or a port on 127.0.0.1.
        """
        address = f"{LOOPBACK}:{listen}" if isinstance(listen, int) else str(listen)
        self.call("add_service", ident, listen=address, scheduler=scheduler, **options)
        for server in servers:
            self.call("add_server", ident, *(server if isinstance(server, tuple) else (server,)))
        for pattern, server in rules:
            self.call("add_rule", ident, pattern, server)
        self.call("start", ident)

    def set(self, **settings: int) -> None:
        self.call("set", settings)

    def stats(self, ident: str) -> dict[str, Any]:
        """The service as `stats` tells it."""
        return dict(self.call("stats", ident)["services"][0])

    def active(self, ident: str) -> int:
        """How many clients it serves."""
        return int(self.stats(ident)["stats"]["active"])

    def connections(self) -> list[dict[str, Any]]:
        return list(self.call("connections"))

    def wait_until_empty(self) -> None:
        """Wait until no connection lives, and check that nobody is counted any more."""
        try:
            wait_for(lambda: not self.connections())
        except AssertionError:
            raise AssertionError(f"connections that do not end: {self.connections()}") from None
        for service in self.call("stats")["services"]:
            assert service["stats"]["active"] == 0, service
            for server in service["servers"]:
                assert server["stats"]["active"] == 0, service
