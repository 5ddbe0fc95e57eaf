"""Runs the daemon as a process of its own: in the foreground or in the background, with a log and a pid file.

It is twistd's runner with other messages: one line for each error, and a log that begins with the daemon's own lines.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from attrs import frozen
from twisted.application.service import Application
from twisted.logger import (
    ILogObserver,
    LogEvent,
    formatEvent,
    globalLogBeginner,
    globalLogPublisher,
    textFileLogObserver,
)
from twisted.python import usage
from twisted.scripts._twistd_unix import ServerOptions, UnixApplicationRunner
from zope.interface import provider

from ktcpvs.command_line import WrongUsage
from ktcpvs.errors import CannotStart
from ktcpvs.system.log import EventLog
from ktcpvs.system.processes import is_running
from ktcpvs.system.syslog import open_syslog
from ktcpvs.tap import Options, makeService

SYSLOG_SOCKET = "/dev/log"
MAX_STATUS_LENGTH = 4000
"""The most bytes of the line that a daemon in the background sends to the process that has started it."""

_NOISE = re.compile(r"Unable to write to plugin cache |\S+ starting on |\(\S+ Port .*Closed\)")
"""Lines of Twisted that tell an operator nothing: plugins are found without the cache too, and the daemon itself says
where it listens."""


@frozen
class ProcessOptions:
    """Options of the daemon's process. is_background: leave the terminal. pid_file: its path; "": none. log_file: its
    path; None: standard output, or syslog in the background. has_syslog: log to syslog."""

    is_background: bool = False
    pid_file: str = ""
    log_file: str | None = None
    has_syslog: bool = False


def run_daemon(process: ProcessOptions, words: Sequence[str]) -> None:
    """Run the daemon until it has ended. words: its options, each `--NAME=VALUE`.

    In the background, the process that was started exits here with 0 when the daemon serves. Raises WrongUsage, and a
    Refusal where the daemon has not started.
    """
    config = ServerOptions()
    config.parseOptions([])
    config["nodaemon"] = not process.is_background
    config["no_save"] = config["originalname"] = True
    config["pidfile"] = os.path.abspath(process.pid_file) if process.pid_file else ""
    config["logfile"] = os.path.abspath(process.log_file) if process.log_file else None
    config["syslog"] = process.has_syslog or (process.is_background and not process.log_file)
    options = Options()
    options.parent = config
    try:
        options.parseOptions(list(words))  # type: ignore[no-untyped-call]
    except usage.UsageError as error:
        raise WrongUsage(str(error)) from None
    try:
        _Runner(config, options).run()  # type: ignore[no-untyped-call]
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        why = end.code.removeprefix("ktcpvs: ")
        if config["logfile"] or config["syslog"]:
            EventLog().warn("not started: {why}", why=why)
        raise CannotStart(why) from None


class _LogFile:
    """A file that is appended to, and opened again when another program has renamed it."""

    def __init__(self, path: str) -> None:
        """Open it. Raises OSError."""
        self._path = path
        self._file = self._open()

    def write(self, text: str) -> None:
        self._file.write(text)

    def flush(self) -> None:
        self._file.flush()

    def reopen(self) -> None:
        """Continue in the file that has the path now. If it cannot be opened, as without root's rights: go on in the
        one before."""
        try:
            after = self._open()
        except OSError as error:
            self.write(f"{self._path} cannot be opened again: {error.strerror}\n")
            return
        before, self._file = self._file, after
        before.close()

    def _open(self) -> TextIO:
        return open(self._path, "a", encoding="utf-8", errors="backslashreplace")


class _Log:
    """The daemon's log: a file, syslog or standard output. Twisted's runner starts and stops it."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def start(self, application: Any) -> None:
        write = self._open()

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            if not _is_noise(event):
                write(event)

        self._observer = observe
        globalLogBeginner.beginLoggingTo([observe])

    def stop(self) -> None:
        globalLogPublisher.removeObserver(self._observer)

    def _open(self) -> ILogObserver | Callable[[LogEvent], object]:
        """Open the log, and return what writes an event to it. Raises CannotStart."""
        if self._config["syslog"]:
            return open_syslog()
        if self._config["logfile"] is None:
            return textFileLogObserver(sys.stdout)
        try:
            file = _LogFile(self._config["logfile"])
        except OSError as error:
            raise CannotStart(f"--logfile {self._config['logfile']}: {error.strerror}") from None
        signal.signal(signal.SIGUSR1, lambda *_: file.reopen())
        return textFileLogObserver(file)  # type: ignore[arg-type]


class _Runner(UnixApplicationRunner):
    """Runs one daemon with twistd's options `config`; `options`: those of the daemon."""

    loggerFactory = _Log  # type: ignore[assignment]

    def __init__(self, config: ServerOptions, options: Options) -> None:
        super().__init__(config)  # type: ignore[no-untyped-call]
        self._options = options

    def preApplication(self) -> None:
        path = self.config["pidfile"]
        if path and (pid := _running_process(path)) is not None:
            raise CannotStart(
                f"--pidfile {path}: process {pid} runs already; --takeover takes over from it without losing clients"
            )
        self.oldstdout, self.oldstderr = sys.stdout, sys.stderr

    def createOrGetApplication(self) -> Any:
        application = Application("ktcpvs")
        makeService(self._options).setServiceParent(application)
        return application

    def setupEnvironment(
        self, chroot: str | None, rundir: str, nodaemon: bool, umask: int | None, pidfile: str
    ) -> None:
        try:
            super().setupEnvironment(chroot, rundir, nodaemon, umask, pidfile)  # type: ignore[no-untyped-call]
        except OSError as error:
            self.config["pidfile"] = ""  # there is none to remove
            raise CannotStart(f"--pidfile {pidfile}: {error.strerror}") from None

    def daemonize(self, reactor: Any) -> int:
        """Fork twice and leave the terminal. The first process exits with 0 when the last one has started. Returns the
        descriptor to which twistd's runner writes that it has."""
        reading, writing = os.pipe()
        if os.fork():
            os.close(writing)  # so that the end of the last process ends the waiting
            os._exit(self._waitForStart(reading))
        os.close(reading)
        os.setsid()
        if os.fork():
            os._exit(0)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        if nothing > 2:
            os.close(nothing)
        os.write(writing, b"%d\n" % os.getpid())
        return writing

    def _formatChildException(self, exception: Exception) -> bytes:
        """Return what the process in the background sends to the one that waits for its start."""
        line = " ".join(str(exception).split()) or repr(exception)
        return f"1 {line}".encode("utf-8", "backslashreplace")[:MAX_STATUS_LENGTH]

    def _waitForStart(self, readPipe: int) -> int:
        """Wait until the process in the background has started, and say where it is. Returns the exit status."""
        data = b""
        while not data.partition(b"\n")[2] and (more := os.read(readPipe, MAX_STATUS_LENGTH)):
            data += more
        pid, _, status = data.partition(b"\n")
        if status == b"0":
            log = self.config["logfile"] or "syslog"
            if not self.config["logfile"] and not os.path.exists(SYSLOG_SOCKET):
                log += f", but nothing listens at {SYSLOG_SOCKET}: use --logfile FILE"
            line = f"ktcpvs serves in the background, process {pid.decode('ascii')}; its log is {log}\n"
            with contextlib.suppress(OSError):  # nobody has to read it
                os.write(1, line.encode("utf-8", "backslashreplace"))
            return 0
        why = status[2:].decode("utf-8", "replace").removeprefix("ktcpvs: ")
        line = f"ktcpvs: {why or 'the process in the background has ended; its log says why'}\n"
        os.write(2, line.encode("utf-8", "backslashreplace"))
        return 1


def _is_noise(event: LogEvent) -> bool:
    return event.get("log_namespace") == "log_legacy" and _NOISE.match(formatEvent(event)) is not None


def _running_process(path: str) -> int | None:
    """Return the number of the process that a pid file names and that runs; None: there is none. Removes a file that
    names a process that has ended. Raises CannotStart."""
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotStart(f"--pidfile {path}: {error.strerror}") from None
    except ValueError:
        raise CannotStart(f"--pidfile {path}: the file exists, and does not contain the number of a process") from None
    if pid > 0 and pid != os.getpid() and is_running(pid):  # in containers, the one before has had the same number
        return pid
    try:
        os.remove(path)
    except OSError as error:
        raise CannotStart(f"--pidfile {path}: {error.strerror}") from None
    return None
