"""Upgrade in place: a new daemon takes over from the one that runs, under load, and nobody notices."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, SocketServer, dial, echo, free_port, read_exactly, wait_for

from .harness import CALM, Daemon

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]
Serve = Callable[..., SocketServer]


class Load:
    """Clients that ask all the time, each in a thread, with a short pause after each answer.

    answered: how many requests were. wrong: what else happened to any, in words.
    """

    def __init__(self, where: Any, clients: int, keeps: bool, pause: float = 0.002) -> None:
        """keeps: a client keeps its connection until it is told that this one ends; else it has one for each request."""
        self.answered = 0
        self.wrong: list[str] = []
        self._where, self._keeps, self._pause = where, keeps, pause
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        connection: socket.socket | None = None
        ask = b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % (b"" if self._keeps else b"Connection: close\r\n")
        while not self._over.is_set():
            step = "connect"
            try:
                if connection is None:
                    connection = dial(self._where)
                step = "ask"
                connection.sendall(ask)
                step = "answer"
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += read_exactly(connection, 1) if not answer else _some(connection)
                head, _, body = answer.partition(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next(int(line[16:]) for line in lines if line.startswith(b"content-length: "))
                while len(body) < length:
                    body += _some(connection)
                assert head.startswith(b"HTTP/1.1 200 "), head
                self.answered += 1
                if b"connection: close" in lines:
                    connection.close()
                    connection = None
            except Exception as error:
                self.wrong.append(f"{step}: {error!r}")
                if connection is not None:
                    connection.close()
                connection = None
            self._over.wait(self._pause)
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(CALM)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise EOFError("the end in the middle of an answer")
    return data


def took_over(daemon: Daemon) -> Callable[[], bool]:
    def look() -> bool:
        assert daemon.is_alive, daemon.log()
        return "taken over from" in daemon.log()

    return look


def taken_over(make_daemon: Make, old: Daemon, *options: str | Path, **named: Any) -> Daemon:
    """A daemon that has taken over from `old`."""
    new = make_daemon(*options, "--takeover", old.control, control=old.control, **named)
    new.run()
    wait_for(took_over(new), f"a takeover: {new.log()}", timeout=CALM)
    return new


@pytest.mark.parametrize(
    ("sizes", "times"), [((0,), 20), ((2,), 10), ((0, 2, 1, 0, 3, 1), 6)], ids=["alone", "workers", "sizes"]
)
def test_nobody_notices_a_takeover(
    make_daemon: Make, web: list[Nginx], stack: contextlib.ExitStack, tmp_path: Path, sizes: tuple[int, ...], times: int
) -> None:
    port, path, state = free_port(), str(tmp_path / "web.sock"), tmp_path / "state"
    daemon = make_daemon("--state", state, workers=sizes[0])
    daemon.start()
    addresses = [server.address for server in web]
    rules = tuple((".*", address) for address in addresses)
    daemon.service("web", port, *addresses, rules=rules, scheduler="phttp")
    daemon.service("unix", f"unix:{path}", *addresses, rules=rules, scheduler="phttp")
    loads = [
        Load((LOOPBACK, port), 4, keeps=True),
        Load((LOOPBACK, port), 4, keeps=False),
        Load((LOOPBACK, port), 2, keeps=True, pause=0.4),
        Load(path, 1, keeps=False),
    ]
    for load in loads:
        stack.callback(load.stop)
    old = []
    for number in range(times):
        before = [load.answered for load in loads]
        new = taken_over(make_daemon, daemon, "--state", state, workers=sizes[(number + 1) % len(sizes)])
        old.append(daemon)
        daemon = new
        wait_for(lambda: all(load.answered > count for load, count in zip(loads, before, strict=True)))
        assert [load.wrong for load in loads] == [[], [], [], []], number
    for load in loads:
        load.stop()
    assert [load.wrong for load in loads] == [[], [], [], []]
    assert [one.wait() for one in old] == [0] * times
    assert daemon.is_alive
