"""Programs that run for as long as a measurement needs them, each pinned to its cores.

Whatever ends the benchmark, they end with it: leaving the block ends the program and all its children, and the kernel
ends it when the benchmark itself is killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.failure import Failure

PACKAGES = {"nginx": "nginx-light", "cc": "gcc", "taskset": "util-linux", "setpriv": "util-linux"}
"""Program -> the Debian package that has it, where the name differs."""


def program(name: str) -> str:
    """The path of a program. Raises Failure, which says what to install."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise Failure(f"{name} is missing: install the Debian package {PACKAGES.get(name, name)}")
    return found


def placed(command: list[str], cores: set[int], nice: int) -> list[str]:
    """The command, made to run on these cores only and to get SIGTERM when the benchmark is gone. nice: -20..19; less
    than 0 is for root, for others it stays 0."""
    there = [program("taskset"), "-c", ",".join(map(str, sorted(cores)))]
    there += [program("setpriv"), "--pdeathsig", "TERM"]
    if nice > 0 or (nice < 0 and os.geteuid() == 0):
        there += [program("nice"), "-n", str(nice)]
    return [*there, *command]


class Running:
    """A program that runs. pid: int. said(): all that it wrote so far."""

    def __init__(self, command: list[str], cores: set[int], log: Path, nice: int, **options: object) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("wb") as output:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
                placed(command, cores, nice),
                start_new_session=True,
                **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT, **options},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raises Failure when it has ended."""
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended with {self.process.returncode}: {self.said()}")

    def wait_until_open(self, port: int, host: str = "127.0.0.1", seconds: float = 60) -> None:
        """Wait until somebody listens. Raises Failure when the program ends, or when it takes too long."""
        end = time.monotonic() + seconds
        while True:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
                return
            if time.monotonic() > end:
                raise Failure(f"{self.name} does not listen on port {port} after {seconds} s: {self.said()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it and all of its process group; safe to call twice."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(command: list[str], cores: set[int], log: Path, nice: int = 0, **options: object) -> Iterator[Running]:
    """A program for as long as the block lasts.

    cores: where it may run. log: the file for what it says. nice: -20..19. options: more for subprocess.Popen.
    """
    started = Running(command, cores, log, nice, **options)
    try:
        yield started
    finally:
        started.stop()


def output_of(command: list[str], cores: set[int], seconds: float = 60, nice: int = 0) -> str:
    """Return the output of a program that ends. Raises Failure when it ends badly, or not in time."""
    process = subprocess.Popen(
        placed(command, cores, nice),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(command)} did not end in {seconds} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise Failure(f"{' '.join(command)} ended with {process.returncode}: {said}")
    return said


_ports = iter(random.SystemRandom().sample(range(20000, 32000), 12000))


def free_port() -> int:
    """A port of loopback that nobody has, below those that the kernel gives to clients."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Failure("no free port")
