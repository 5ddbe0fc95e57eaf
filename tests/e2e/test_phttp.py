"""phttp with real web servers: each request of a kept connection goes to its own server."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from servers import LOOPBACK, Nginx, dial, free_port, program, read_all, wait_for

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e

TREQ = """
import json, sys, treq
from twisted.internet import defer, task
from twisted.web.client import HTTPConnectionPool

async def ask(reactor, pool, path):
    answer = await treq.get(sys.argv[1] + path, pool=pool)
    return (await answer.text()).split()[0]

async def main(reactor):
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = 4
    for _ in range(20):
        asked = [defer.Deferred.fromCoroutine(ask(reactor, pool, path)) for path in ("/images/x", "/html/x", "/x")]
        print(json.dumps([await one for one in asked]))
    await pool.closeCachedConnections()

task.react(main)
"""


@pytest.fixture
def port(daemon: Daemon, web: list[Nginx]) -> int:
    port = free_port()
    r1, r2, r3 = (server.address for server in web)
    rules = (("/images/.*", r1), ("/html/.*", r2), (".*", r3))
    daemon.service("web", port, r1, r2, r3, scheduler="phttp", rules=rules)
    return port


def test_requests_of_one_connection_go_to_three_servers(port: int) -> None:
    urls = [f"http://{LOOPBACK}:{port}/{path}" for path in ("images/x", "html/x", "x", "images/y")]
    done = subprocess.run(
        [program("curl"), "-sS", "--noproxy", "*", "-w", "%{num_connects}\n", *urls], capture_output=True, text=True
    )
    words = done.stdout.split()
    assert [word for word in words if word in ("r1", "r2", "r3")] == ["r1", "r2", "r3", "r1"]
    assert [word for word in words if word in ("0", "1")] == ["1", "0", "0", "0"]


def test_a_pooling_client(port: int, daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TREQ, f"http://{LOOPBACK}:{port}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["r1", "r2", "r3"]] * 20
    stats = daemon.stats("web")
    assert stats["stats"]["total"] < 10
    assert [server["stats"]["total"] for server in stats["servers"]] == [20, 20, 20]


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    paths = ["/images/1", "/x", "/html/1", "/x", "/images/2"]
    requests = [f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n" for path in paths]
    requests.append("GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    with dial((LOOPBACK, port)) as client:
        client.sendall("".join(requests).encode())
        heard = read_all(client).decode()
    names = [line.split()[0] for line in heard.splitlines() if line[:2] in ("r1", "r2", "r3")]
    assert names == ["r1", "r3", "r2", "r3", "r1", "r3"]


def test_servers_that_die_and_come_back_fail_no_idempotent_request(
    daemon: Daemon, nginx: Callable[[str], Nginx]
) -> None:
    one, two = nginx("one"), nginx("two")
    port = free_port()
    rules = ((".*", one.address), (".*", two.address))
    daemon.service("web", port, one.address, two.address, scheduler="phttp", rules=rules)
    failures: list[object] = []
    answered = [0] * 4
    enough = threading.Event()

    def load(number: int) -> None:
        client = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
        while not enough.is_set():
            try:
                client.request("GET", "/x")
                answer = client.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                failures.append(error)
                client.close()
                continue
            answered[number] += 1
            if answer.status != 200:
                failures.append((answer.status, body))
        client.close()

    def each_has_more(more: int) -> None:
        """Wait until each client has so many more responses."""
        wanted = [count + more for count in answered]
        wait_for(lambda: all(map(int.__ge__, answered, wanted)), timeout=TIMEOUT)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            for server in (one, two):
                server.stop()
                each_has_more(12)
                server.start()
                each_has_more(2)  # each client has retried a request that began while this server was away
    finally:
        enough.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert sum(answered) >= 300


def test_stats_count_each_request(port: int, daemon: Daemon) -> None:
    client = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
    for path in ("/images/x", "/x", "/x"):
        client.request("GET", path)
        client.getresponse().read()
    stats = daemon.stats("web")
    assert stats["stats"]["active"] == 1
    assert [server["stats"]["total"] for server in stats["servers"]] == [1, 0, 2]
    assert all(server["stats"]["active"] == 0 for server in stats["servers"])
    assert stats["stats"]["bytes_out"] == sum(server["stats"]["bytes_out"] for server in stats["servers"])
    client.close()
