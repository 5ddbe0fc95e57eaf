"""What the demonstrations have in common: programs that they start on loopback, and what they show and check."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

BIN = Path(sys.executable).parent


def free_port(wanted: int = 0) -> int:
    """Return `wanted` if it is free on loopback, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port on loopback")


def wait_until_open(port: int, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} after {seconds} seconds")


@contextlib.contextmanager
def running(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process while the block lasts."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Demonstration:
    """Shows commands with their output. folder: for files and logs. failures: the number of steps that went wrong."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        """stack: ends the programs that are started."""
        self.folder = folder
        self.failures = 0
        self.stack = stack
        self._is_terminal = sys.stdout.isatty()

    def say(self, text: str) -> None:
        print(f"\n\x1b[1m{text}\x1b[0m" if self._is_terminal else f"\n{text}", flush=True)

    def check(self, is_right: bool, what: str) -> None:
        if not is_right:
            self.failures += 1
            print(f"WRONG: {what}", flush=True)

    def run_tcpvsadm(self, options: tuple[str, ...], arguments: tuple[str, ...], prompt: str = "$") -> tuple[int, str]:
        """Run one command, and print it with its output. options: further ones, which are not shown. Returns its exit
        status and its output."""
        shown = " ".join(
            argument if argument.isascii() and " " not in argument else f"'{argument}'" for argument in arguments
        )
        print(f"{prompt} tcpvsadm {shown}", flush=True)
        done = subprocess.run([BIN / "tcpvsadm", *options, *arguments], capture_output=True, text=True, timeout=60)
        output = done.stdout + done.stderr
        print(output, end="", flush=True)
        return done.returncode, output

    def start_web_server(self, name: str) -> str:
        """Start a web server whose files are in the folder of that name. Returns its address."""
        port = free_port()
        root = str(self.folder / name)
        web = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", root]
        self.stack.enter_context(running(*web, log=self.folder / f"{name}.log"))
        wait_until_open(port)
        return f"127.0.0.1:{port}"


def run_until_interrupted(main: Callable[[], int]) -> NoReturn:
    """Run a demonstration, and exit with its status; SIGTERM and Ctrl-C end it and all that it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
