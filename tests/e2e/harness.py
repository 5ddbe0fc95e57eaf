"""Starts the daemon as a program and administers it, with tcpvsadm and through ktcpvs.control.client.

Tests of tcpvsadm use `Daemon.adm`. The other tests set up their services with `Daemon.call`, which uses the same
control connection and does not start a process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from preloaded import PreloadedProcess, PreloadedPrograms
from servers import LOOPBACK, read_exactly, wait_for
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.threads import blockingCallFromThread

from ktcpvs.control.client import NoAnswer, connect
from ktcpvs.relay.pipes import MAX_SPARE_PIPES

ROOT = Path(__file__).parents[2]
KTCPVS = "from ktcpvs.daemon import run; run()"
TWISTD = "from twisted.scripts.twistd import run; run()"
TCPVSADM = "from ktcpvs.adm import run; run()"

AS_INSTALLED = Path(__file__).with_name("as_installed")
"""Hides what is installed for the tests alone."""

MAX_KEPT = {"pipe:": 2 * MAX_SPARE_PIPES + 8, "anon_inode:": 9 + 8}
"""The most descriptors of some kinds that a daemon may keep open: those that relays reuse, and a few of the
reactor's."""

TIMEOUT = 30.0
"""Seconds after which a step of a test has failed, unless the test gives another limit."""

PROMPT = 8.0
"""Seconds within which that must happen which takes one second on an idle machine. Less than timeouts' defaults."""


def is_installed() -> bool:
    """True when ktcpvs is installed beside this Python, with its programs."""
    return Path(sys.executable).with_name("tcpvsadm").exists()


def command(script: str, code: str) -> list[str]:
    """The installed script, or Python code that does the same in a source tree."""
    beside = Path(sys.executable).with_name(script)
    return [str(beside)] if beside.exists() else [sys.executable, "-c", code]


def environment(*python_path: Path, tls: bool = False) -> dict[str, str]:
    """The environment for the programs. python_path: folders in front of PYTHONPATH. tls: with the extra `tls`."""
    folders = [str(folder) for folder in (*python_path, *([] if tls else [AS_INSTALLED]))]
    folders += filter(None, os.environ.get("PYTHONPATH", "").split(":"))
    if not is_installed():
        folders.append(str(ROOT))
    # Without byte code, each start of a worker would compile all modules: 40 % of its time.
    return {**os.environ, "PYTHONPATH": ":".join(folders), "PYTHONDONTWRITEBYTECODE": ""}


@functools.cache
def _programs(tls: bool) -> PreloadedPrograms:
    """The preloaded programs of this test process. tls: with the extra `tls`."""
    return PreloadedPrograms(environment(tls=tls), TIMEOUT)


def tcpvsadm(
    *words: object, input: str = "", folder: Path = ROOT, tls: bool = False, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run tcpvsadm with these words in that folder.

    tls: it has the extra `tls` installed. more: further environment variables.
    """
    given = {**environment(tls=tls), **more}
    return _programs(tls).run_tcpvsadm(list(map(str, words)), input, folder, given)


def write_tcpvsadm(path: Path, tls: bool = False) -> None:
    """Make `path` a program for shells that does what tcpvsadm does, and starts faster. tls: with the extra `tls`."""
    _programs(tls).write_script(path, "tcpvsadm")


IN_FOREGROUND = ("--nodaemon", "--pidfile=")
"""Options of twistd."""


def child_processes(pid: int) -> list[int]:
    """The processes that this one has started and that it has not reaped yet."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_worker(pid: int) -> bool:
    """True for a worker: by its command line, or by its name if it was forked by tests/preloaded.py."""
    try:
        folder = Path(f"/proc/{pid}")
        return b"ktcpvs.workers" in folder.joinpath("cmdline").read_bytes() + folder.joinpath("comm").read_bytes()
    except OSError:
        return False


def has_ended(pid: int) -> bool:
    """True when that process is gone, or dead and not yet reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class ControlThread:
    """A reactor in a thread, for the control client."""

    def __init__(self) -> None:
        self.reactor = EPollReactor()
        self._thread = threading.Thread(target=self.reactor.run, args=(False,), daemon=True)
        self._thread.start()

    def run(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Await `function(...)` there."""
        return blockingCallFromThread(
            self.reactor,
            lambda: Deferred.fromCoroutine(function(*arguments, **named)).addTimeout(TIMEOUT, self.reactor),
        )

    def stop(self) -> None:
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(TIMEOUT)
        self.reactor._poller.close()  # which Twisted leaves to the garbage collector, at a time of its choice


class Daemon:
    """One `twistd ktcpvs`, in its folder.

    options: further options of `ktcpvs`. workers: for --workers. descriptors: its hard limit of open files. tls: it has
    the extra `tls` installed. python: runs it and finds ktcpvs by `python_path`; None: the Python of the tests.
    preloaded: start it by tests/preloaded.py where that makes no difference. preloaded_workers: its workers, too.
    as_program: run the command `ktcpvs` instead. may_log_tracebacks: whether its log may hold tracebacks.
    may_have_ended: whether the test has ended it. inherited: descriptors that it inherits.
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
        arguments: tuple[str | Path, ...] = IN_FOREGROUND,
        preloaded: bool = False,
        preloaded_workers: bool = True,
        as_program: bool = False,
    ) -> None:
        self.folder = folder
        self.control = control or f"unix:{folder}/control.sock"
        self.log_path = folder / "daemon.log"
        self.may_log_tracebacks = False
        self.may_have_ended = False
        self.inherited: tuple[int, ...] = ()
        self.environment = environment(*python_path, tls=tls)
        self._has_tls = tls
        self._has_own_python = python is not None
        self._thread = thread
        self._switch: Any = None
        self._log_start = 0
        self._prefix: list[str] = []
        if descriptors is not None:
            self.prefix("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh")
        self._program = command("twistd", TWISTD) if python is None else [str(python), "-c", TWISTD]
        self._arguments = [*map(str, arguments), f"--reactor={reactor}", "ktcpvs"]
        if as_program:
            self._program, self._arguments = command("ktcpvs", KTCPVS), []
        self._arguments += ["--control", self.control, "--workers", str(workers), *map(str, options)]
        self._has_preloaded_workers = preloaded_workers and str(workers) != "0"
        self._may_be_preloaded = preloaded and not self._has_own_python and arguments == IN_FOREGROUND
        self.process: subprocess.Popen[bytes] | PreloadedProcess | None = None

    def prefix(self, *command: str) -> None:
        """Start it with another program: `command` goes before the daemon's own command."""
        self._prefix = [*command, *self._prefix]

    # Starting and ending.

    def run(self) -> None:
        """Start it and do not wait."""
        self._close_control_connection()
        self.may_have_ended = False
        with open(self.log_path, "ab") as log, open(os.devnull) as nothing:
            if self._is_preloaded:
                streams = [nothing.fileno(), log.fileno(), log.fileno()]
                programs = _programs(self._has_tls)
                self.process = programs.start(
                    "twistd",
                    self._arguments,
                    streams,
                    self.folder,
                    self.environment,
                    has_workers=self._has_preloaded_workers,
                )
                return
            self.process = subprocess.Popen(
                [*self._prefix, *self._program, *self._arguments],
                stdin=nothing,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                pass_fds=self.inherited,
            )

    @property
    def _is_preloaded(self) -> bool:
        return self._may_be_preloaded and not self._prefix and not self.inherited

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.run()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def has_answered() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the daemon ended: {self.log()}"
            if self.control.startswith("unix:") and not Path(self.control.removeprefix("unix:")).exists():
                return False  # an attempt to connect would take a hundred times longer
            try:
                self.call("settings")
            except NoAnswer:
                return False
            return True

        wait_for(has_answered, lambda: f"the daemon to answer: {self.log()}", timeout=TIMEOUT)

    def refused(self) -> str:
        """Start it, wait until it has refused to run with exit code 1, and return what it wrote to standard error."""
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

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        assert self.process is not None
        self.may_have_ended = True
        self._close_control_connection()
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
        """End it after a test: it must be alive, end when asked, and have logged no fault."""
        self._close_control_connection()
        if self.process is None or self.may_have_ended:
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
        """Between two tests: it must be alive and have logged no fault; then empty its table."""
        assert self.is_alive, self.log()
        self._check_log()
        self.set(drain_timeout=0)
        self.call("stop")
        self.call("load", "", allow_empty=True)
        self.wait_until_empty()

    def _check_log(self) -> None:
        log = self.log()
        if not self.may_log_tracebacks:
            for word in ("Traceback", "Unhandled", "never awaited", "never retrieved"):
                found = log.find(word)
                assert found < 0, f"the daemon's log has {word!r}: {log[max(found - 2000, 0) : found + 2000]}"

    # Observing it.

    def log(self) -> str:
        """Return what the daemon has written to its log and to standard error since `forget_log`."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[self._log_start :].decode()

    def wait_for_log(self, text: str, count: int = 1, timeout: float = TIMEOUT) -> None:
        """Wait until `log` has that text so many times."""
        wait_for(lambda: self.log().count(text) >= count, lambda: f"{text!r} in the log: {self.log()}", timeout=timeout)

    def forget_log(self) -> None:
        """Let `log` return only what is written from now on."""
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of CPU time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """Count its open descriptors, without those that it keeps for later connections.

        It may keep only so many of these: pipes, what watches sockets, and programs in the kernel with their maps.
        """
        kinds: list[str] = []
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):  # it has been closed since
                kinds.append(os.readlink(f"/proc/{self.pid}/fd/{name}").partition("[")[0])
        kept = {kind: kinds.count(kind) for kind in ("pipe:", "anon_inode:")}
        kept["anon_inode:"] += sum(kind.startswith("anon_inode:bpf") for kind in kinds)
        for kind, count in kept.items():
            assert count <= MAX_KEPT[kind], f"{count} descriptors of kind {kind}"
        return len([kind for kind in kinds if kind != "pipe:" and not kind.startswith("anon_inode:")])

    # Workers.

    def workers(self) -> list[int]:
        """The process numbers of its workers."""
        return [pid for pid in child_processes(self.pid) if _is_worker(pid)]

    def wait_until_workers_serve(self, count: int = 2, *, but: Collection[int] = ()) -> None:
        """Wait until there are `count` workers, none of them among `but`, and all have the table."""

        def they_serve() -> bool:
            before = self.workers()
            if len(before) != count or set(but) & set(before):
                return False
            self.set(debug_level=0)  # an edit waits for workers that have started
            return self.workers() == before

        wait_for(they_serve, lambda: f"{count} workers, {but} not among them: {self.log()}", timeout=TIMEOUT)

    # Administration.

    def adm(self, *arguments: object, check: bool = True, input: str = "") -> subprocess.CompletedProcess[str]:
        """Run tcpvsadm. check: it must succeed."""
        words = ["--control", self.control, *map(str, arguments)]
        if self._has_own_python:
            done = self.run_tcpvsadm(*words, input=input)
        else:
            path = self.environment["PYTHONPATH"]
            done = tcpvsadm(*words, input=input, folder=self.folder, tls=self._has_tls, PYTHONPATH=path)
        assert "Traceback" not in done.stderr, done.stderr
        assert not check or done.returncode == 0, (arguments, done.returncode, done.stderr, done.stdout)
        return done

    def run_tcpvsadm(self, *words: str, input: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the installed tcpvsadm with exactly these words. environment: more variables."""
        return subprocess.run(
            [*command("tcpvsadm", TCPVSADM), *words],
            input=input,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            cwd=self.folder,
            env={**self.environment, **environment},
        )

    def json(self, *arguments: object) -> Any:
        """The output of `tcpvsadm ARGUMENTS --json`, parsed."""
        return json.loads(self.adm(*arguments, "--json").stdout)

    @property
    def switch(self) -> Any:
        """The control client, a ktcpvs.control.client.Switch, connected."""
        if self._switch is None:
            self._switch = self._thread.run(connect, self._thread.reactor, self.control)
        return self._switch

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of the control client."""
        return self._thread.run(getattr(self.switch, method), *arguments, **named)

    def _close_control_connection(self) -> None:
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

    def set(self, **settings: int | str) -> None:
        self.call("set", settings)

    def stats(self, ident: str) -> dict[str, Any]:
        """The service as `stats` reports it."""
        return dict(self.call("stats", ident)["services"][0])

    def active(self, ident: str) -> int:
        """Return the number of clients of the service."""
        return int(self.stats(ident)["stats"]["active"])

    def connections(self) -> list[dict[str, Any]]:
        return list(self.call("connections"))

    def wait_until_empty(self) -> None:
        """Wait until no connection lives, and check that no client is counted any more."""
        try:
            wait_for(lambda: not self.connections())
        except AssertionError:
            raise AssertionError(f"connections that do not end: {self.connections()}") from None
        for service in self.call("stats")["services"]:
            assert service["stats"]["active"] == 0, service
            for server in service["servers"]:
                assert server["stats"]["active"] == 0, service


class SharedDaemons:
    """Running daemons that tests borrow one after another. Each test gets one whose table is empty.

    A start costs 0.03 s of CPU time, and 0.1 s with two workers.
    """

    def __init__(self, thread: ControlThread, make_folder: Callable[[], Path]) -> None:
        self._thread = thread
        self._make_folder = make_folder
        self._idle: dict[tuple[str, int], list[Daemon]] = {}

    @contextlib.contextmanager
    def borrow(self, reactor: str, workers: int) -> Iterator[Daemon]:
        """A daemon that no other test uses meanwhile. One that the test has ended is replaced by a new one."""
        idle = self._idle.setdefault((reactor, workers), [])
        daemon = idle.pop() if idle else self._started(reactor, workers)
        daemon.forget_log()
        if workers:
            daemon.wait_until_workers_serve(workers)
        processes = daemon.workers()
        try:
            yield daemon
        finally:
            if self._is_as_before(daemon, processes):
                idle.append(daemon)

    def _started(self, reactor: str, workers: int) -> Daemon:
        daemon = Daemon(self._thread, self._make_folder(), reactor=reactor, workers=workers, preloaded=True)
        daemon.start()
        return daemon

    @staticmethod
    def _is_as_before(daemon: Daemon, workers: list[int]) -> bool:
        """Clear it after a test; True when the next test may have it. workers: its workers before the test."""
        if daemon.may_have_ended or daemon.may_log_tracebacks:
            daemon.finish()
            return False
        try:
            daemon.clear()
        except BaseException:
            if daemon.process is not None:
                daemon.process.kill()
                daemon.process.wait()
            raise
        if daemon.workers() != workers:
            daemon.finish()
            return False
        return True

    def finish(self) -> None:
        """End all of them."""
        with contextlib.ExitStack() as stack:
            for idle in self._idle.values():
                for daemon in idle:
                    stack.callback(daemon.finish)


def served(port: int, source: str, stack: contextlib.ExitStack, host: str = LOOPBACK) -> socket.socket | None:
    """Connect from the address `source` to a service in front of `echo`.

    Returns the connection when it is served, and None when it is reset.
    """
    try:
        client = stack.enter_context(socket.create_connection((host, port), 10, (source, 0)))
        client.sendall(b"?")
        assert read_exactly(client, 1) == b"?"
    except (ConnectionResetError, BrokenPipeError):
        return None
    return client


_FATAL_SCHEDULER = '''
import os
import sys

from twisted.plugin import IPlugin
from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, ISchedulerFactory
from ktcpvs.schedulers.wlc import WLC


@implementer(IPlugin, ISchedulerFactory)
class Fatal:
    """wlc; but while a file exists, the process of a worker ends."""

    name = "{name}"
    unit = CONNECTION

    def bind(self, service, previous):
        if os.path.exists("{file}") and "ktcpvs.workers" in sys.orig_argv:
            print("the last words", end="", flush=True)
            os._exit(7)
        return WLC().bind(service, previous)


fatal = Fatal()
'''


def add_fatal_scheduler(folder: Path, name: str, file: Path) -> None:
    """Add a plugin to a folder of PYTHONPATH: the scheduler `name`, which ends each worker while `file` exists."""
    plugins = folder / "twisted/plugins"
    plugins.mkdir(parents=True)
    (plugins / f"{name}.py").write_text(_FATAL_SCHEDULER.format(name=name, file=file))
