"""HTTP/2 under load: edits and takeovers fail no request, long bodies take little memory, attacks hold up nobody.

`make soak-http2` does the same for longer, and prints the figures.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import SERVER, Authority
from http2_load import BulkServer, H2Load, StreamLoad, body, download, upload
from servers import LOOPBACK, Nginx, free_port, wait_for

from .harness import Daemon
from .test_takeover import Make, taken_over

pytestmark = [pytest.mark.e2e, pytest.mark.load]

NAME = "localhost"
SIZE = 48 << 20
"""Bytes of a long body: more than all buffers together hold."""

MAX_GROWTH = 24 << 20
"""Bytes by which the daemon may grow while it passes a long body on."""


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2], ids=["alone", "workers"])
def test_edits_and_takeovers_fail_no_request(
    make_daemon: Make, web: list[Nginx], tmp_path: Path, stack: contextlib.ExitStack, workers: int
) -> None:
    state, port = tmp_path / "state", free_port()
    daemon = make_daemon("--state", state, workers=workers)
    daemon.start()
    addresses = [server.address for server in web]
    daemon.service("web", port, *addresses, rules=tuple((".*", one) for one in addresses), scheduler="phttp")
    load, streams = H2Load(f"http://{LOOPBACK}:{port}/hello"), StreamLoad(port)
    stack.callback(load.stop)
    stack.callback(streams.stop)

    def goes_on() -> None:
        seen = load.requests, streams.requests
        wait_for(
            lambda: (load.requests > seen[0] and streams.requests > seen[1] + 20) or load.problems or streams.problems,
            "the load to go on",
            timeout=60,
        )

    chance = random.Random(1)
    for _ in range(2):
        for number in range(20):
            daemon.call("edit_server", "web", addresses[0], chance.randint(1, 9))
            daemon.call("edit_service", "web", via=("off", "append")[number & 1])
            daemon.call("set", {"pool_size": chance.choice((0, 4, 64))})
        goes_on()
        load.changes += 1
        old, daemon = daemon, taken_over(make_daemon, daemon, "--state", state, workers=workers)
        assert old.wait() == 0
        load.changes += 1
    goes_on()
    load.stop()
    streams.stop()
    assert load.problems == []
    assert streams.problems == []


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_long_bodies_with_slow_readers_take_little_memory(
    daemon: Daemon, tmp_path: Path, stack: contextlib.ExitStack, is_tls: bool
) -> None:
    server = BulkServer(pause=0.02)
    stack.callback(server.stop)
    authority = Authority(tmp_path)
    port = free_port()
    words, options = "", {}
    if is_tls:
        words = " tls"
        options = {"certificate": [str(authority.issue("site", NAME, purposes=(SERVER,)))]}
    daemon.service("bulk", f"{LOOPBACK}:{port}{words}", server.address, scheduler="phttp", **options)
    daemon.call("add_rule", "bulk", ".*", server.address)
    url = f"{'https' if is_tls else 'http'}://{NAME}:{port}"
    ca = authority.pem if is_tls else None
    expected = body(SIZE)
    assert download(f"{url}/1000", ca, 1 << 20) == body(1000)
    before = daemon.memory()
    assert download(f"{url}/{SIZE}", ca, 30 << 20) == expected
    assert daemon.memory() - before < MAX_GROWTH
    assert upload(f"{url}/upload", ca, SIZE) == expected
    assert daemon.memory() - before < MAX_GROWTH


def test_attacks_hold_up_nobody() -> None:
    """The program has a process of its own for the clients that it times. Its output shows their latency and the
    daemon's memory during each attack."""
    soak = Path(__file__).parents[1] / "soak" / "http2.py"
    command = [sys.executable, str(soak), "--mebibytes", "0", "--edits", "0", "--seconds", "0.5"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    print(result.stdout)
    assert result.stdout.endswith("all as it must be\n"), result.stdout + result.stderr
    assert result.returncode == 0
    attacks = [line.partition(":")[0] for line in result.stdout.splitlines() if "good requests" in line]
    assert "no attack" in attacks
    assert len(attacks) == 13
