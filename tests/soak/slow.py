"""Clients that read nothing for a minute while their server sends: memory stays bounded, and no byte is lost."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from borrowed import borrowed, descriptors
from e2e.harness import Daemon
from servers import LOOPBACK, SocketServer, chunks, free_port

from ktcpvs.model.grants import FIRST_WINDOW
from ktcpvs.relay.kernel import WHOLE_QUEUE

BLOCK = random.Random(3).randbytes(1 << 20)

CLIENTS = 4
"""The number of clients of each relay."""

SMALL = 128 << 10
"""Bytes that the buffers of clients and servers hold."""


HELD = {"copy": 1 << 20, "splice": 1 << 20, "kernel": FIRST_WINDOW + WHOLE_QUEUE}
"""Bytes that each relay may hold for one direction besides what sockets hold: two reads; a pipe; a grant and a read."""


class Sender:
    """A server that sends until it is stopped. sent: how many bytes the kernel has accepted, per client."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.digests: list[str] = []
        self.enough = threading.Event()
        self.server = SocketServer(self.serve)

    def serve(self, sock: socket.socket) -> None:
        number = len(self.sent)
        self.sent.append(0)
        self.digests.append("")
        digest = hashlib.sha256()
        sock.settimeout(0.2)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        while not self.enough.is_set():
            try:
                size = sock.send(BLOCK)
            except TimeoutError:
                continue
            digest.update(BLOCK[:size])
            self.sent[number] += size
        self.digests[number] = digest.hexdigest()
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(30)
        sock.recv(1)


def kernel_memory() -> int:
    """Bytes that all TCP sockets of this machine hold in the kernel."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * 4096
    raise AssertionError("no TCP in /proc/net/sockstat")


def buffers(pid: int) -> int:
    """The most bytes that the buffers of one connection's two sockets in that process may hold."""
    largest = [0, 0]
    for number, kind, _ in descriptors(pid):
        if kind.startswith("socket:"):
            with borrowed(pid, number) as fd, socket.socket(fileno=os.dup(fd)) as sock:
                if sock.family == socket.AF_INET:
                    for place, option in enumerate((socket.SO_RCVBUF, socket.SO_SNDBUF)):
                        largest[place] = max(largest[place], sock.getsockopt(socket.SOL_SOCKET, option))
    return sum(largest)


def slow(daemon: Daemon, relays: Sequence[str], seconds: int) -> list[str]:
    """Run it; return the violations."""
    daemon.set(relay_after=0, read_timeout=0)
    wrong: list[str] = []
    for relay in relays:
        port, sender = free_port(), Sender()
        daemon.service(relay, port, sender.server.address, relay=relay)
        memory = kernel_memory()
        clients = [_client((LOOPBACK, port)) for _ in range(CLIENTS)]
        for left in range(seconds, 0, -1):
            print(f"\rslow, relay = {relay}: {left} s ", end="", flush=True)
            time.sleep(1)
        grown = (kernel_memory() - memory) / CLIENTS
        held = max(sender.sent)
        ends = (sender.server.sockets[0], socket.SO_SNDBUF), (clients[0], socket.SO_RCVBUF)
        most = buffers(daemon.pid) + sum(sock.getsockopt(socket.SOL_SOCKET, option) for sock, option in ends)
        carried = {kind: number for kind, number in daemon.stats(relay)["stats"]["relay"]["joined"].items() if number}
        most += max(HELD[kind] for kind in carried)
        sender.enough.set()
        heard = sorted(_digest(client) for client in clients)
        for client in clients:
            client.close()
        sender.server.stop()
        if heard != sorted(sender.digests):
            wrong.append(f"slow, relay = {relay}: what came is not what was sent")
        if held > most:
            wrong.append(f"slow, relay = {relay}: {held} bytes are held, and {most} may be")
        print(
            f"\rslow, relay = {relay}: after {seconds} s {held / 2**20:.1f} MiB are on the way to one client, of "
            f"{most / 2**20:.1f} that may be; the kernel holds {grown / 2**20:.1f} MiB for each; carried by {carried}"
        )
    return wrong


def _client(where: tuple[str, int]) -> socket.socket:
    """Connect with a small receive buffer: what the client does not read waits in the switch."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    sock.settimeout(30)
    sock.connect(where)
    return sock


def _digest(client: socket.socket) -> str:
    digest = hashlib.sha256()
    for data in chunks(client):
        digest.update(data)
    return digest.hexdigest()
