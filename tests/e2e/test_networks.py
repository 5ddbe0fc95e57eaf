"""allow and deny, with clients of several loopback addresses."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, echo, free_port, read_exactly, wait_for

from .harness import Daemon, served

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]


@pytest.fixture(params=[0, 2], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def comes_in(port: int, source: str, host: str = LOOPBACK) -> bool:
    """True when a client with that address is served; False when it is reset."""
    with contextlib.ExitStack() as stack:
        return served(port, source, stack, host) is not None


def test_lists_apply_to_new_clients(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)
    live = stack.enter_context(socket.create_connection((LOOPBACK, port), 10, ("127.0.0.2", 0)))
    live.sendall(b"?")
    assert read_exactly(live, 1) == b"?"

    daemon.adm("--deny", "-i", "s", "127.0.0.0/30", "2001:db8::/32")
    daemon.adm("--allow", "-i", "s", "127.0.0.1", "127.0.1.0/24")
    who = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.1.9", "127.0.2.1")
    assert [comes_in(port, one) for one in who] == [True, False, False, True, False]
    live.sendall(b"!")
    assert read_exactly(live, 1) == b"!"  # served clients stay
    counters = daemon.stats("s")["stats"]
    assert (counters["denied"], counters["total"]) == (3, 3)
    assert "  rejected: denied 3\n" in daemon.adm("--stats").stdout
    daemon.wait_for_log("service s: clients rejected by allow and deny, for example 127.0.")

    listed = daemon.adm("--save").stdout
    assert "    allow = 127.0.0.1 127.0.1.0/24\n    deny = 127.0.0.0/30 2001:db8::/32\n" in listed
    daemon.call("edit_service", "s", allow="")
    assert [comes_in(port, one) for one in who] == [False, False, False, True, True]
    daemon.call("load", listed)
    assert [comes_in(port, one) for one in who] == [True, False, False, True, False]

    (tmp_path / "drop").write_text("# nobody's\n127.0.2.0/24\n")
    daemon.adm("--deny", "--only", "-i", "s", f"@{tmp_path}/drop")
    daemon.adm("--del-network", "-i", "s", "127.0.0.1", "@-", input="127.0.1.0/24")
    assert [comes_in(port, one) for one in who] == [True, True, True, True, False]
    (tmp_path / "drop").write_text("::1\n127.0.0.1/8\n")
    refused = daemon.adm("--deny", "-i", "s", f"@{tmp_path}/drop", check=False)
    assert refused.returncode == 1
    assert f"deny s: {tmp_path}/drop: line 2: '127.0.0.1/8': the address has bits beyond the prefix" in refused.stderr
    assert daemon.call("table")["services"][0]["deny"] == ["127.0.2.0/24"]

    explained = daemon.call("explain", "s", client="127.0.2.1")["answer"]
    assert explained == {
        "outcome": "nobody",
        "server": None,
        "reason": "client denied by 127.0.2.0/24: the connection is reset",
        "why": "deny",
    }
    assert daemon.call("explain", "s", client="127.0.0.1")["answer"]["outcome"] == "server"


@pytest.mark.load
def test_ten_thousand_networks_by_command_and_by_file(daemon: Daemon, serve: Serve, tmp_path: Path) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)
    chance = random.Random(7)
    numbers = chance.sample(range(1 << 24), 10_000)
    drop = tmp_path / "drop"
    drop.write_text("".join(f"{11 + number % 100}.{number >> 16}.{number >> 8 & 255}.0/24\n" for number in numbers))
    daemon.adm("--deny", "-i", "s", f"@{drop}", "127.0.0.9")
    assert len(daemon.call("table")["services"][0]["deny"]) > 9_000
    assert [comes_in(port, one) for one in ("127.0.0.1", "127.0.0.9")] == [True, False]
    saved = daemon.adm("--save").stdout
    daemon.call("edit_service", "s", deny="")
    assert comes_in(port, "127.0.0.9")
    daemon.call("load", saved)
    assert not comes_in(port, "127.0.0.9")
    daemon.adm("--del-network", "-i", "s", f"@{drop}")
    assert daemon.call("table")["services"][0]["deny"] == ["127.0.0.9"]


def test_ipv6_clients_and_unix_sockets(daemon: Daemon, serve: Serve, tmp_path: Path) -> None:
    server, port = serve(echo), free_port()
    daemon.service("six", f"[::1]:{port}", server.address, deny="::/64")
    daemon.service("unix", f"unix:{tmp_path}/s", server.address, deny="0.0.0.0/0 ::/0")
    assert not comes_in(port, "::1", "::1")
    daemon.call("edit_service", "six", allow="::1")
    assert comes_in(port, "::1", "::1")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
        client.sendall(b"?")
        assert read_exactly(client, 1) == b"?"
    wait_for(lambda: daemon.stats("six")["stats"]["denied"] == 1)
