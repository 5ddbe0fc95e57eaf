"""Certificates replaced, and daemons taken over, while clients connect by TLS: `make soak-certificates`.

No handshake may fail, every certificate must be seen by a client, and at least a third of the handshakes must be
resumed. Exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from authority import Authority  # noqa: E402
from e2e.harness import ControlThread, Daemon  # noqa: E402
from servers import LOOPBACK, SocketServer, echo, free_port, wait_for  # noqa: E402
from tls_load import Site, TLSLoad  # noqa: E402
from world import print_outcome  # noqa: E402

NAME = "a.example"

HANDSHAKES = 12
"""Handshakes between two changes, so that some have begun after the first one."""

TIMEOUT = 60.0


class Run:
    """A daemon with one service, whose clients connect all the time."""

    def __init__(self, folder: Path, workers: int, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._workers = workers
        self._thread = ControlThread()
        stack.callback(self._thread.stop)
        self._daemons: list[Daemon] = []
        stack.callback(self._finish)
        server = SocketServer(echo)
        stack.callback(server.stop)
        authority = Authority(folder)
        self.site = Site(folder, authority, NAME)
        self.made: set[int] = set()
        port = free_port()
        self._start()
        self.daemon.service("s", f"{LOOPBACK}:{port} tls", server.address, certificate=str(self.site.live))
        self.load = TLSLoad(port, authority, NAME)
        stack.callback(self.load.stop)

    @property
    def daemon(self) -> Daemon:
        """The one that serves."""
        return self._daemons[-1]

    def _start(self, *options: str, control: str | None = None) -> None:
        folder = self._folder / f"daemon{len(self._daemons)}"
        folder.mkdir()
        state = str(self._folder / "state")
        daemon = Daemon(self._thread, folder, "--state", state, *options, workers=self._workers, control=control)
        self._daemons.append(daemon)
        daemon.start()

    def _finish(self) -> None:
        self.daemon.finish()
        for old in self._daemons[:-1]:
            old.may_have_ended = True
            old.finish()

    def replace(self, is_asked: bool) -> None:
        """Replace the certificate. is_asked: with the command, else the daemon must find it by itself."""
        self.made.add(new := self.site.renew())
        if is_asked:
            self.daemon.call("reload_certificates")
            before = self.load.done
            wait_for(lambda: self.load.done > before + HANDSHAKES, timeout=TIMEOUT)
        else:
            wait_for(lambda: new in self.load.serials, timeout=TIMEOUT)

    def take_over(self) -> None:
        """Let a new daemon take over."""
        old = self.daemon
        self._start("--takeover", old.control, control=old.control)
        self.daemon.wait_for_log("taken over from", timeout=TIMEOUT)
        before = self.load.done
        wait_for(lambda: self.load.done > before + HANDSHAKES, timeout=TIMEOUT)

    def wrong(self) -> Iterator[str]:
        """Return the faults, a line each."""
        self.load.stop()
        yield from self.load.failures
        if unseen := self.made - self.load.serials:
            yield f"{len(unseen)} of {len(self.made)} certificates were seen by no client"
        if self.load.resumed < self.load.done / 3:
            yield f"only {self.load.resumed} of {self.load.done} handshakes were resumed"


def run(replacements: int, takeovers: int, workers: int) -> list[str]:
    """Return what was wrong."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ktcpvs-soak-") as folder, contextlib.ExitStack() as stack:
        one = Run(Path(folder), workers, stack)
        one.daemon.set(certificate_check_interval=1, drain_timeout=3600)
        for number in range(replacements):
            one.replace(is_asked=number % 10 != 0)
        for _ in range(takeovers):
            one.take_over()
            one.replace(is_asked=True)
        wrong = list(one.wrong())
        load, seconds = one.load, time.monotonic() - began
    print(
        f"{workers} workers: {replacements} replacements, {takeovers} takeovers, {load.done:,} handshakes, "
        f"{load.resumed:,} of them resumed, {seconds:.0f} s"
    )
    return [f"{workers} workers: {line}" for line in wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replacements", type=int, default=200, help="of the certificate [200]")
    parser.add_argument("--takeovers", type=int, default=20, help="of the daemon [20]")
    options = parser.parse_args()
    wrong = [line for workers in (0, 2) for line in run(options.replacements, options.takeovers, workers)]
    return print_outcome(wrong)


if __name__ == "__main__":
    sys.exit(main())
