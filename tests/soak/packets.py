"""Packets of all sizes to servers that do not read: how much memory the kernel holds per connection."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from pathlib import Path

from e2e.harness import Daemon
from servers import LOOPBACK, free_port
from slow import kernel_memory

from ktcpvs.model.grants import FIRST_WINDOW

SIZES = {1: 2500, 100: 2500, 1448: 2000, 64 << 10: 100}
"""Bytes of a packet, and how many of them each client sends: more than a first grant is charged."""

MANY = 1000
"""Connections."""

MOST = 1 << 20
"""Bytes that each of many clients sends, so that the machine's memory for TCP (tcp_mem) is not what limits them."""

PATIENCE = 3.0
"""Seconds without a byte taken after which a client has been held back."""

BUFFERS = 10 << 20
"""Bytes that the buffers of the four sockets of a connection hold, by Linux's default limits."""


def slab() -> int:
    """Bytes of kernel memory that cannot be reclaimed."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SUnreclaim:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no SUnreclaim in /proc/meminfo")


class Silent:
    """A server that accepts and reads nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0), backlog=4096)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._accepted: list[socket.socket] = []
        self.address = "{}:{}".format(*self._listener.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._accepted.append(self._listener.accept()[0])

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._accepted:
            sock.close()


def packets(daemon: Daemon, relays: tuple[str, ...] = ("kernel", "copy")) -> list[str]:
    """Run it; return the violations."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wrong: list[str] = []
    for relay in relays:
        for count in (1, MANY):
            for size, each in SIZES.items():
                each_sends = each if count == 1 else min(each, MOST // size)
                held, most_slab = _measure(daemon, relay, count, size, each_sends)
                name = f"packets, relay = {relay}: {count:,} connections, packets of {size:,} bytes"
                print(f"\r{name}: for each, sockets {held / 2**20:.2f} MiB, slab {most_slab / 2**20:.2f} MiB")
                if held + most_slab > FIRST_WINDOW + BUFFERS:
                    wrong.append(f"{name}: {held + most_slab:.0f} bytes for each")
    return wrong


def _measure(daemon: Daemon, relay: str, count: int, size: int, each: int) -> tuple[float, float]:
    """Return (memory of all sockets, unreclaimable slab): the growth in bytes per connection."""
    server, port, name = Silent(), free_port(), f"{relay}{count}x{size}"
    daemon.set(relay_after=0, read_timeout=0)
    daemon.service(name, port, server.address, relay=relay)
    sockets = [socket.create_connection((LOOPBACK, port), timeout=30) for _ in range(count)]
    for sock in sockets:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and sum(daemon.stats(name)["stats"]["relay"]["joined"].values()) < count:
        time.sleep(0.2)
    before = kernel_memory(), slab()
    left = dict.fromkeys(sockets, each)
    block, moved = bytes(size), time.monotonic()
    while left and time.monotonic() - moved < PATIENCE:
        for sock in list(left):
            try:
                for _ in range(min(200, left[sock])):
                    sock.send(block, socket.MSG_EOR)
                    left[sock] -= 1
                    moved = time.monotonic()
            except BlockingIOError:
                continue
            except OSError:  # the switch could not connect to its server in time, on a busy machine
                left[sock] = 0
            if left[sock] <= 0:
                del left[sock]
    time.sleep(1)
    held, most_slab = kernel_memory() - before[0], slab() - before[1]
    for sock in sockets:
        sock.close()
    server.stop()
    daemon.clear()
    return held / count, most_slab / count
