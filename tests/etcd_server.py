"""A real etcd with one member, in a temporary folder."""

from __future__ import annotations

import signal
from pathlib import Path

from servers import LOOPBACK, Program, answers, free_port


class EtcdServer(Program):
    """url: of its one member."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._peer_port = free_port(), free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, or start it again after `stop()` with what it has stored."""
        peer = f"http://{LOOPBACK}:{self._peer_port}"
        arguments = ["--data-dir", str(self.folder / "etcd"), "--logger", "zap", "--unsafe-no-fsync"]
        arguments += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        arguments += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        arguments += ["--initial-cluster", f"default={peer}"]
        super().__init__("etcd", arguments, self.folder)
        self.wait_until(lambda: answers(self.port))

    def freeze(self) -> None:
        """Let it accept connections and never respond."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.thaw()
        super().stop()
