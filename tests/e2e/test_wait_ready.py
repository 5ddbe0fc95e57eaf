"""--wait-ready: it returns when the daemon serves, and otherwise says what is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import pytest
from servers import LOOPBACK, SocketServer, dial, echo, echoes, free_port, wait_for

from .harness import Daemon

pytestmark = pytest.mark.e2e


def test_it_waits_for_a_daemon_that_starts_serves_hangs_and_ends(
    make_daemon: Callable[..., Daemon], serve: Callable[..., SocketServer], stack: contextlib.ExitStack
) -> None:
    daemon = make_daemon()

    def wait(seconds: int) -> tuple[int, str]:
        done = daemon.adm("--wait-ready", seconds, check=False)
        assert not done.stdout
        return done.returncode, done.stderr.removeprefix("tcpvsadm: ").removesuffix("\n")

    missing = f"no daemon answers at {daemon.control} (No such file or directory)"
    advice = "start it with 'ktcpvs', or give its address with --control"
    assert wait(0) == (3, f"{missing}: {advice}")
    began = time.monotonic()
    assert wait(1) == (3, f"{missing} after 1 s: {advice}")
    assert time.monotonic() - began > 0.8

    daemon.run()
    assert wait(60) == (0, "")
    assert daemon.call("why_not_ready") == ""

    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        assert wait(1) == (3, f"the daemon at {daemon.control} does not answer after 1 s")
    finally:
        os.kill(daemon.pid, signal.SIGCONT)

    port = free_port()
    daemon.service("s", port, serve(echo).address)
    client = stack.enter_context(dial((LOOPBACK, port)))
    assert echoes(client)
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: wait(0)[0] == 1, "the daemon to end")
    assert wait(0) == (1, "wait-ready: the daemon is not ready: ending")
    client.close()
    assert daemon.wait() == 0
