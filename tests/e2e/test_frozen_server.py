"""A server that SIGSTOP has stopped still accepts connections and never responds: no request fails."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from servers import LOOPBACK, Nginx, free_port, wait_for

from .harness import Daemon, child_processes

pytestmark = pytest.mark.e2e

CLIENTS = 8


@pytest.mark.load
@pytest.mark.parametrize(
    ("workers", "settings", "options"),
    [
        (0, {}, {"first_byte_timeout": 1}),
        (2, {"response_timeout": 2}, {}),
        (2, {}, {"check": "http /", "check_interval": 1, "check_timeout": 1, "check_fall": 2}),
    ],
    ids=["the service says what is silence", "no response in time", "its checks fail"],
)
def test_a_frozen_server_fails_no_request(
    daemon: Daemon,
    nginx: Callable[[str], Nginx],
    workers: int,
    settings: dict[str, int],
    options: dict[str, str | int],
) -> None:
    daemon.set(**settings)
    freezes, lives = nginx("freezes"), nginx("lives")
    port = free_port()
    rule = (".*", freezes.address), (".*", lives.address)
    daemon.service("web", port, freezes.address, lives.address, scheduler="phttp", balance="rr", rules=rule, **options)
    enough = threading.Event()
    answers: list[list[bytes]] = [[] for _ in range(CLIENTS)]

    def ask(mine: list[bytes]) -> None:
        with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=30)) as client:
            while not enough.is_set():
                client.request("GET", "/")
                answer = client.getresponse()
                mine.append(str(answer.status).encode() + b" " + answer.read().split()[0])

    asking = [threading.Thread(target=ask, args=(mine,)) for mine in answers]
    for thread in asking:
        thread.start()
    wait_for(lambda: all(b"200 freezes" in mine for mine in answers))
    children = child_processes(freezes.process.pid)
    for pid in (freezes.process.pid, *children):
        os.kill(pid, signal.SIGSTOP)
    before = [len(mine) for mine in answers]
    try:
        wait_for(
            lambda: all(len(mine) > count + 1 for mine, count in zip(answers, before, strict=True)),
            "the other server to answer all clients",
            timeout=60,
        )
    finally:
        enough.set()
        for thread in asking:
            thread.join(60)
        for pid in (freezes.process.pid, *children):
            os.kill(pid, signal.SIGCONT)
    said = {line for mine in answers for line in mine}
    assert said == {b"200 freezes", b"200 lives"}
    assert daemon.stats("web")["servers"][0]["stats"]["failures"] > 0
