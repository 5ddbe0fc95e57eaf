"""Starts the daemon, its workers and tcpvsadm without starting Python and importing Twisted each time.

A server process imports all that the programs need, except the reactor, and forks for each start. Each start is a
process of its own, with its own arguments, environment, folder, standard streams and exit status. It saves only the
imports: 0.8 s of CPU time of a daemon's start, 0.5 s of a worker's, and 0.1 s of a run of tcpvsadm.

The protocol, on a unix socket: the client sends a JSON object and the three standard streams. It receives the number of
the process, and its exit code when it has ended, both as 4 bytes.

A daemon with workers has a server of its own, since it must be the parent of the processes that it starts: see
`ChildPrograms`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

NUMBER = struct.Struct("!i")

SCHEDULERS = (
    "chash",
    "chttp",
    "first",
    "fo",
    "http",
    "maglev",
    "p2c",
    "peak_ewma",
    "rr",
    "sed",
    "sh",
    "sni",
    "tcp",
    "wlc",
    "wrr",
)

CLUSTER = (
    "acme_sharing",
    "administration",
    "editing",
    "known_nodes",
    "live_nodes",
    "options",
    "sealed_store",
    "secret_file",
    "shared_health",
    "shared_secrets",
)

MODULES = (
    "ktcpvs.adm",
    *(f"ktcpvs.cluster.{name}" for name in CLUSTER),
    "ktcpvs.control.client",
    "ktcpvs.control.tcpvsadm.addresses",
    "ktcpvs.control.tcpvsadm.colours",
    "ktcpvs.control.tcpvsadm.draining",
    "ktcpvs.control.tcpvsadm.output",
    "ktcpvs.control.tcpvsadm.session",
    "ktcpvs.offline",
    *(f"ktcpvs.schedulers.{name}" for name in SCHEDULERS),
    "ktcpvs.switch_service",
    "ktcpvs.tap",
    "ktcpvs.workers.worker",
    "twisted.internet.endpoints",
    "twisted.internet.epollreactor",
    "twisted.internet.process",
    "twisted.internet.task",
    "twisted.scripts.twistd",
    "twisted.trial.itrial",
    "uvloop",
)
"""The modules that all started processes share, those that plugins import when twistd starts among them. None may
import twisted.internet.reactor, nor twisted.plugins, whose folders are those of PYTHONPATH when it is imported."""

SCRIPT = """#!{python} -ISE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
request = {{"program": {program!r}, "arguments": sys.argv[1:], "folder": os.getcwd(), "environment": {{**os.environ}}}}
server.sendall(json.dumps(request).encode())
server.shutdown(socket.SHUT_WR)
server.recv(4)
status = int.from_bytes(server.recv(4), "big", signed=True)
sys.exit(status if status >= 0 else 128 - status)
"""
"""Starts a program and waits for its end, for shells. It imports nothing else, so it takes a tenth of the program's
time."""

WORKER = "ktcpvs.workers"

MAIN = {
    "tcpvsadm": ("ktcpvs.adm", "run"),
    "twistd": ("twisted.scripts.twistd", "run"),
    WORKER: ("ktcpvs.workers.worker", "run"),
}
"""The function that the console script or the module of each program calls."""


class PreloadedProcess:
    """A process that was started; its methods are those of subprocess.Popen."""

    def __init__(self, arguments: Sequence[str], server: socket.socket, timeout: float) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._server = server
        server.settimeout(timeout)
        try:
            self.pid = self._receive()
        except BaseException:
            server.close()
            raise

    def poll(self) -> int | None:
        if self.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._server.settimeout(timeout)
            try:
                self.returncode = self._receive()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        try:
            data = self._server.recv(NUMBER.size)  # whole: the other end sends these bytes at once
        except ConnectionResetError:
            data = b""
        assert len(data) == NUMBER.size, "the server of preloaded programs has ended; its standard error says why"
        return int(NUMBER.unpack(data)[0])


class PreloadedPrograms:
    """The client of such a server, which is started when it is first needed."""

    def __init__(self, environment: dict[str, str], timeout: float) -> None:
        """environment: of the server. timeout: seconds that a start and a run of tcpvsadm may take."""
        self._environment = environment
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        streams: Sequence[int],
        folder: Path,
        environment: dict[str, str],
        *,
        has_workers: bool = False,
    ) -> PreloadedProcess:
        """Start a program of MAIN.

        streams: descriptors of its standard input, output and error. has_workers: its workers are preloaded too.
        """
        self._begin()
        server = socket.socket(socket.AF_UNIX)
        server.settimeout(self._timeout)
        server.connect(self._address)
        request = {
            "program": program,
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": environment,
            "has_workers": has_workers,
        }
        socket.send_fds(server, [b"."], list(streams))
        server.sendall(json.dumps(request).encode())
        server.shutdown(socket.SHUT_WR)
        return PreloadedProcess([program, *arguments], server, self._timeout)

    def run_tcpvsadm(
        self, arguments: Sequence[str], input: str, folder: Path, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run tcpvsadm and wait until it has ended, as subprocess.run does."""
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(input.encode())
            streams[0].seek(0)
            numbers = [stream.fileno() for stream in streams]
            process = self.start("tcpvsadm", arguments, numbers, folder, environment)
            try:
                status = process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            for stream in streams:
                stream.seek(0)
            out, err = (stream.read().decode().replace("\r\n", "\n") for stream in streams[1:])
        return subprocess.CompletedProcess(process.args, status, out, err)

    def write_script(self, path: Path, program: str) -> None:
        """Make `path` an executable file that runs a program of MAIN as its console script does."""
        self._begin()
        path.write_text(SCRIPT.format(python=sys.executable, address=self._address, program=program))
        path.chmod(0o755)

    def _begin(self) -> None:
        """Start the server unless it runs."""
        if self._process is not None:
            return
        self._address = f"\0ktcpvs-tests-{os.getpid()}-{id(self)}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen(100)
            number = listener.fileno()
            command = [sys.executable, __file__, str(number)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(number,), env=self._environment
            )
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the server. What it has started goes on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


# The server process.


class Server:
    """Forks a process for each client, tells the client its number, and its exit code when it has ended.

    It waits for each of them, so that the CPU time that they take counts as that of the tests.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until the tests have ended."""
        parent = os.getppid()
        while os.getppid() == parent:
            for key, _ in self._selector.select(5):
                if key.fileobj is self._listener:
                    self._start()
                else:
                    self._tell_exit_code(key.fd, *key.data)

    def _start(self) -> None:
        client, _ = self._listener.accept()
        streams = array.array("i")
        request = b""
        with contextlib.suppress(OSError):  # a client that has given up, on a busy machine, ends no other one's program
            for _, _, data in client.recvmsg(1, socket.CMSG_SPACE(3 * NUMBER.size))[1]:
                streams = array.array("i", data)
            while more := client.recv(1 << 16):
                request += more
        if len(streams) == 3 and request:
            self._fork(client, request, streams)
        else:
            client.close()
        for descriptor in streams:
            os.close(descriptor)

    def _fork(self, client: socket.socket, request: bytes, streams: Sequence[int]) -> None:
        pid = os.fork()
        if pid == 0:
            client.close()
            self._close()
            _become(json.loads(request), streams)
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, client))
        try:
            client.sendall(NUMBER.pack(pid))
        except OSError:
            os.kill(pid, signal.SIGKILL)

    def _close(self) -> None:
        """Close what a forked process must not keep open."""
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self._listener:
                os.close(key.fd)
                key.data[1].close()
        self._selector.close()
        self._listener.close()

    def _tell_exit_code(self, descriptor: int, pid: int, client: socket.socket) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        with client, contextlib.suppress(OSError):
            client.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def serve(listener: socket.socket) -> None:
    """Import what the programs need, and serve."""
    for name in MODULES:
        importlib.import_module(name)
    assert not {"twisted.internet.reactor", "twisted.plugins"} & sys.modules.keys()
    gc.freeze()
    Server(listener).serve()


def _become(request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """Do what the console script does, and end."""
    for number, descriptor in enumerate(streams):
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
    if request.get("has_workers"):
        ChildPrograms().install()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # PYTHONPATH may begin with folders of plugins. None of them has a module that is loaded already.
    folders = filter(None, os.environ.get("PYTHONPATH", "").split(":"))
    sys.path[:] = dict.fromkeys([*folders, *sys.path])
    script = str(Path(sys.executable).with_name(request["program"]))
    sys.argv = [script, *request["arguments"]]
    sys.orig_argv = [sys.executable, *sys.argv]
    if request["program"] == WORKER:
        sys.orig_argv[1:2] = ["-P", "-m", WORKER]
        Path("/proc/self/comm").write_text(WORKER)
    status = 1
    try:
        module, function = MAIN[request["program"]]
        getattr(sys.modules[module], function)()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


# Processes that a daemon starts.

_CHILD_SUBREAPER = 36
"""From linux/prctl.h."""


class ChildPrograms:
    """Starts the workers of this process, a daemon, by forking a server that was forked before the daemon began.

    The daemon must be the parent of its workers, to be told of their end. So the server forks twice and ends the
    process in between, and the kernel makes the daemon, which is a subreaper (prctl(2)), the parent of the orphan.
    """

    def __init__(self) -> None:
        """Fork the server, before this process has changed anything that a new program would not have."""
        assert ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        self._server, its = socket.socketpair()
        if os.fork() == 0:
            self._server.close()
            _serve_children(its)
        its.close()
        self._user = os.getresuid()

    def install(self) -> None:
        """Let Twisted start workers so. All other programs, and workers of another user, are started as usual."""
        process = sys.modules["twisted.internet.process"].Process
        spawn = process._trySpawnInsteadOfFork

        def start(
            self: Any, path: Any, uid: Any, gid: Any, executable: Any, words: Any, environment: Any, more: Any
        ) -> bool:
            command = [os.fsdecode(word) for word in words]
            if command[1:4] != ["-P", "-m", WORKER] or os.getresuid() != programs._user:
                return bool(spawn(self, path, uid, gid, executable, words, environment, more))
            descriptors = [number for _, number in sorted(more["fdmap"].items())]
            self.pid = programs._start(WORKER, command[4:], descriptors, environment)
            self.status = -1  # as Twisted does: there is no exit status yet
            return True

        programs = self
        process._trySpawnInsteadOfFork = start

    def _start(self, program: str, arguments: list[str], descriptors: list[int], environment: Any) -> int:
        """Return the number of the new process."""
        given = {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}
        request = {"program": program, "arguments": arguments, "folder": os.getcwd(), "environment": given}
        data = json.dumps(request).encode()
        socket.send_fds(self._server, [NUMBER.pack(len(data))], descriptors)
        self._server.sendall(data)
        answer = self._server.recv(NUMBER.size)
        assert len(answer) == NUMBER.size, "the server of workers has ended; the daemon's standard error says why"
        return int(NUMBER.unpack(answer)[0])


def _serve_children(daemon: socket.socket) -> NoReturn:
    """Be the server of ChildPrograms, until the daemon has ended."""
    status = 1
    try:
        with open(os.devnull, "rb+", buffering=0) as nothing:
            for number in (0, 1):
                os.dup2(nothing.fileno(), number)
        while True:
            size, descriptors, _, _ = socket.recv_fds(daemon, NUMBER.size, 16)
            if not size:
                break
            data = b""
            while len(data) < NUMBER.unpack(size)[0]:
                data += daemon.recv(1 << 20)
            daemon.sendall(NUMBER.pack(_fork_orphan(daemon, json.loads(data), descriptors)))
            for descriptor in descriptors:
                os.close(descriptor)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        os._exit(status)


def _fork_orphan(daemon: socket.socket, request: dict[str, Any], descriptors: Sequence[int]) -> int:
    """Fork a process and make the daemon its parent; return its number. It begins when the daemon is its parent."""
    begin, end = os.pipe()
    numbers, number = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid:
            os.write(number, NUMBER.pack(pid))
            os._exit(0)
        daemon.close()
        for descriptor in (end, numbers, number):
            os.close(descriptor)
        os.read(begin, 1)
        os.close(begin)
        _become(request, descriptors)
    for descriptor in (begin, number):
        os.close(descriptor)
    os.waitpid(between, 0)
    pid = NUMBER.unpack(os.read(numbers, NUMBER.size))[0]
    for descriptor in (end, numbers):
        os.close(descriptor)
    return int(pid)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    serve(socket.socket(fileno=int(sys.argv[1])))
