"""--wait-ready: it returns when the daemon serves, and otherwise says what is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from servers import LOOPBACK, SocketServer, dial, echo, echoes, free_port, wait_for

from .harness import Daemon, has_ended

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


def test_the_log_says_that_workers_serve_when_they_do(make_daemon: Callable[..., Daemon]) -> None:
    """They take a while to start: the log has what the services are before."""
    daemon = make_daemon(workers=2, preloaded_workers=False)
    daemon.run()
    daemon.wait_for_log("2 workers serve")
    assert daemon.call("why_not_ready") == ""
    before, _, after = daemon.log().partition("2 workers serve")
    assert "the table has no services" in before
    assert "control at" in before
    assert "control at" not in after


def test_it_tells_the_new_daemon_of_a_takeover_from_the_old_one(make_daemon: Callable[..., Daemon]) -> None:
    old = make_daemon()
    old.start()

    def wait(*words: object) -> tuple[int, str]:
        done = old.adm("--wait-ready", *words, check=False)
        assert not done.stdout
        return done.returncode, done.stderr.removeprefix("tcpvsadm: wait-ready: ").removesuffix("\n")

    old_pid = old.pid
    assert old.call("readiness") == {"reason": "", "pid": old_pid, "draining": []}
    assert wait("--pid", old_pid) == (0, "")
    assert wait("0", "--not-pid", old_pid) == (
        1,
        f"the expected daemon does not serve: that of process {old_pid} serves, and no other one",
    )
    other = os.getpid()
    serves = f"that of process {old_pid} serves, and not that of process {other}"
    assert wait("1", "--pid", other) == (1, f"the expected daemon does not serve after 1 s: {serves}")
    why = "has ended, and does not serve; its messages or its log say why"
    with subprocess.Popen(["true"]) as ended:
        wait_for(lambda: wait("60", "--pid", ended.pid) == (1, f"process {ended.pid} {why}"), "the end of a child")
    assert wait("60", "--pid", ended.pid) == (1, f"process {ended.pid} {why}")

    new = make_daemon("--takeover", old.control, control=old.control)
    new.run()
    assert wait("60", "--pid", new.pid) == (0, "")
    assert "taken over" in old.log(), "it did not serve before"
    assert wait("60", "--not-pid", old_pid) == (0, "")
    assert old.wait() == 0
    assert new.call("readiness")["pid"] == new.pid

    new_pid = new.pid
    new.signal(signal.SIGUSR2)
    assert wait("60", "--not-pid", new_pid) == (0, "")
    assert new.wait() == 0
    third = old.call("readiness")["pid"]
    assert third not in (old_pid, new_pid)
    os.kill(third, signal.SIGTERM)
    wait_for(lambda: has_ended(third), "the end of the last daemon")
