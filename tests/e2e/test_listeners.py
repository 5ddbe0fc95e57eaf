"""A service on several addresses: adding, moving and removing one disturbs no client of the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, answers, free_port, wait_for

from .harness import TIMEOUT, Daemon
from .test_takeover import Load, stop_all, taken_over_in_turn, undisturbed

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]


@pytest.mark.load
@pytest.mark.long
@pytest.mark.parametrize("sizes", [[0, 0], [2, 3, 1]], ids=["alone", "workers"])
def test_listeners_change_and_are_taken_over_under_load(
    make_daemon: Make, web: list[Nginx], stack: contextlib.ExitStack, tmp_path: Path, sizes: list[int]
) -> None:
    steady, moving, brief, path = free_port(), free_port(), free_port(), str(tmp_path / "web.sock")
    state = tmp_path / "state"
    daemon = make_daemon("--state", state, workers=sizes[0])
    daemon.start()
    server = web[0].address
    where = [f"{LOOPBACK}:{steady}", f"{LOOPBACK}:{moving}", f"unix:{path}"]
    daemon.call("add_service", "web", listen=where, scheduler="phttp")
    daemon.call("add_server", "web", server)
    daemon.call("start", "web")
    loads = [
        Load((LOOPBACK, steady), 2, keeps=True, pause=0.005),
        Load((LOOPBACK, steady), 2, keeps=False, pause=0.005),
        Load((LOOPBACK, moving), 2, keeps=False, pause=0.005),
        Load(path, 1, keeps=False, pause=0.005),
    ]
    for load in loads:
        stack.callback(load.stop)
    for host in ("0.0.0.0", LOOPBACK) * 2:
        daemon.adm("--add-listener", "-i", "web", "-l", f"{LOOPBACK}:{brief}")
        with undisturbed(loads):
            assert answers(brief)
            daemon.call("edit_service", "web", listen=[where[0], f"{host}:{moving}", f"{LOOPBACK}:{brief}", where[2]])
            daemon.adm("--del-listener", "-i", "web", "-l", f"{LOOPBACK}:{brief}")
            assert not answers(brief)
    daemon = taken_over_in_turn(make_daemon, daemon, sizes[1:], loads, "--state", state)
    stop_all(loads)
    (shown,) = daemon.json("--list")["services"]
    listed = [{"listen": at, "tls": False, "on": None, "here": True} for at in where]
    assert (shown["listen"], shown["listeners"]) == (where[0], listed)
    daemon.adm("--del-listener", "-i", "web", "-l", f"unix:{path}")
    wait_for(lambda: not Path(path).exists(), timeout=TIMEOUT)
    daemon.adm("-E", "-i", "web", "certificate=/a", "certificate=/b")
    refused = daemon.adm("--add-listener", "-i", "web", "-l", f"{LOOPBACK}:{brief}", "tls", check=False)
    assert (refused.returncode, "service web: /a: No such file or directory" in refused.stderr) == (1, True)
