"""The relay in the kernel over real sockets: all that holds for the splicing one, and who carries the bytes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_relay_splice as like_splice
from reactors import ReactorThread
from servers import wait_for
from test_relay_splice import thread as thread

from ktcpvs.system import bpf
from ktcpvs.transport.relay.kernel import Kernel, KernelRelay
from ktcpvs.transport.stream import Stream

pytestmark = pytest.mark.skipif(bpf.available() is not None, reason=str(bpf.available()))


class Relays(like_splice.Relays):
    def __init__(self, thread: ReactorThread, folder: Path) -> None:
        super().__init__(thread, socket.AF_INET, 0, folder)
        self.kernel: Kernel = thread.run(Kernel, self.watch)

    def make(self, client: Stream, server: Stream, finished: Callable[[], object]) -> Any:
        return KernelRelay(client, server, self.wheel, finished, self.watch, self.kernel)

    def close(self) -> None:
        self.clients.close()
        self.servers.close()
        wait_for(lambda: self.thread.run(len, self.watch) == len(self.kernel._programs))
        for program in self.kernel._programs:
            wait_for(lambda: len(self.kernel._free) == program.slots // 2)  # noqa: B023
        self.thread.run(self.kernel.close)
        super().close()


@pytest.fixture(params=["TCP"])
def family() -> int:
    return socket.AF_INET


@pytest.fixture
def most() -> int:
    return 0


@pytest.fixture
def relays(thread: ReactorThread, family: int, most: int, tmp_path: Path) -> Iterator[Relays]:
    thread.failures.clear()
    relays = Relays(thread, tmp_path)
    yield relays
    relays.close()
    assert thread.failures == []


for name, test in vars(like_splice).items():
    if name.startswith("test_") and "relays" in getattr(test, "__annotations__", {}):
        globals()[name] = test
