"""Long transfers in both directions at once, while TCP retransmits packets: every byte must arrive.

On the loopback interface, packets overtake each other when the machine is busy. The sender then presumes some lost, and
retransmits them with other boundaries.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.harness import Daemon
from servers import LOOPBACK, SocketServer, dial, free_port, read_all, wait_for

SIZE = 20_000_000
"""Bytes, each way."""

AT_ONCE = 2
TIMEOUT = 60.0


def bulk(daemon: Daemon, relays: Sequence[str], count: int, seed: int) -> list[str]:
    """Run `count` transfers through each of `relays`; return the errors, a line each."""
    wrong: list[str] = []
    there = random.Random(seed).randbytes(SIZE)
    back = there[::-1]
    for relay in relays:
        name = f"bulk, relay = {relay}"
        server = SocketServer(lambda sock, who=f"{name}: the server": _exchange(sock, back, there, who, wrong))
        try:
            port = free_port()
            daemon.service(f"bulk-{relay}", port, server.address, relay=relay)
            began, repeated = time.monotonic(), _repeated()
            for done in range(0, count, AT_ONCE):
                print(f"\r{name}: {done:,} of {count:,}, {time.monotonic() - began:.0f} s ", end="", flush=True)
                callers = [
                    threading.Thread(target=_call, args=(port, there, back, f"{name}: the client", wrong))
                    for _ in range(min(AT_ONCE, count - done))
                ]
                for caller in callers:
                    caller.start()
                for caller in callers:
                    caller.join()
            daemon.wait_until_empty()
            # The kernel may still hold bytes for a server that reads slowly; `stop` would cut them off.
            wait_for(lambda: server.living == 0, "the servers to read all", timeout=TIMEOUT)  # noqa: B023
        finally:
            server.stop()
        stats = daemon.stats(f"bulk-{relay}")["stats"]
        if (counted := (stats["total"], stats["bytes_in"], stats["bytes_out"])) != (count, count * SIZE, count * SIZE):
            wrong.append(f"{name}: counted {counted}")
        seconds, repeated = time.monotonic() - began, _repeated() - repeated
        print(f"\r{name}: {count:,} of 2 x {SIZE / 1e6:.0f} MB, {seconds:.0f} s; TCP repeated {repeated:,} packets")
    return wrong


def _call(port: int, said: bytes, wanted: bytes, who: str, wrong: list[str]) -> None:
    try:
        with dial((LOOPBACK, port), TIMEOUT) as sock:
            _exchange(sock, said, wanted, who, wrong)
    except OSError as error:
        wrong.append(f"{who}: {error}")


def _exchange(sock: socket.socket, said: bytes, wanted: bytes, who: str, wrong: list[str]) -> None:
    """Send `said` and meanwhile receive `wanted`."""

    def say() -> None:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)

    speaker = threading.Thread(target=say)
    speaker.start()
    heard = read_all(sock)
    speaker.join()
    if heard != wanted:
        at = next((at for at, (one, other) in enumerate(zip(heard, wanted, strict=False)) if one != other), len(heard))
        wrong.append(f"{who} has heard {len(heard):,} bytes, which are wrong from {at:,} on")


def _repeated() -> int:
    """Return the number of packets that TCP has retransmitted on this machine."""
    names, numbers = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Tcp:"]
    return int(numbers[names.index("RetransSegs")])
