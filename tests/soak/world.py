"""Kills and freezes servers and workers, and observes processes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from borrowed import descriptors
from servers import Nginx


@dataclass
class Kill:
    """when: seconds, monotonic. what: "server NAME" or "worker PID". ports: of the clients that it served."""

    when: float
    what: str
    ports: set[int] = field(default_factory=set)


def children(pid: int) -> list[int]:
    """The living child processes."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(word) for word in words]


def kill_server(server: Nginx) -> Kill:
    """Kill all processes of a server at once, as a crash would."""
    processes = [server.process.pid, *children(server.process.pid)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    return Kill(time.monotonic(), f"server {server.name}")


def freeze_server(server: Nginx, seconds: float) -> None:
    """Stop the processes of a server for so many seconds: it accepts connections and does not respond."""
    processes = [server.process.pid, *children(server.process.pid)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in processes:
        os.kill(pid, signal.SIGCONT)


def kill_worker(pid: int, listening: set[int]) -> Kill:
    """Kill a process of the switch; return it with the ports of its clients. listening: the switch's ports."""
    os.kill(pid, signal.SIGSTOP)
    ports = {client for here, client in connections(pid) if here in listening}
    os.kill(pid, signal.SIGKILL)
    return Kill(time.monotonic(), f"worker {pid}", ports)


def connections(pid: int) -> set[tuple[int, int]]:
    """(local port, remote port) of each TCP connection of the process."""
    inodes = {kind[8:-1] for _, kind, _ in descriptors(pid) if kind.startswith("socket:[")}
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[9] in inodes:
            found.add((int(words[1].partition(":")[2], 16), int(words[2].partition(":")[2], 16)))
    return found


def sockets(pid: int) -> int:
    """Return the number of sockets of the process."""
    return sum(kind.startswith("socket:[") for _, kind, _ in descriptors(pid))


def memory(pid: int) -> int:
    """Resident bytes; 0 for a process that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def answers(port: int) -> bool:
    """True when a server accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def cpu(pid: int) -> float:
    """Seconds of CPU time that the process has used; 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kinds_of_descriptors(pid: int) -> Counter[str]:
    """Return the number of descriptors of each kind, such as "socket:", "pipe:", "anon_inode:" and "/dev/null"."""
    return Counter(kind if kind.startswith("/") else kind[: kind.index(":") + 1] for _, kind, _ in descriptors(pid))


def unreclaimable_slab() -> int:
    """Bytes of the kernel's own objects, such as sockets and packets, that it cannot give back (SUnreclaim)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SUnreclaim:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no SUnreclaim in /proc/meminfo")


def print_outcome(wrong: list[str]) -> int:
    """Print the violations; return the exit status of the program."""
    for line in wrong[:50]:
        print(f"WRONG {line}")
    print(f"{len(wrong)} wrong" if wrong else "all as it must be")
    return 1 if wrong else 0
