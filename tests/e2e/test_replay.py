"""tcpvsadm --replay: of a log that a daemon has written, with its table; and of a file, without a daemon."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from servers import Nginx, free_port, wait_for

from ktcpvs.system.process import Process

from .harness import TCPVSADM, TIMEOUT, Daemon, child_processes, command, environment, tcpvsadm

pytestmark = pytest.mark.e2e

CONFIGURATION = """
Virtual web {
    listen = 127.0.0.1:8080
    scheduler = phttp
    server = 10.0.0.1:80
    server = 10.0.0.2:80
}
"""
LINE = '192.0.2.%d - - [23/Nov/2026:03:31:34 +0000] "GET /%d HTTP/1.1" 200 5 "-" "curl/8.1"\n'


def test_a_log_of_the_daemon_is_replayed_with_its_table(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "web.log"
    options = {"access_log": str(log), "access_log_format": "json"}
    daemon.service("web", port, web[0].address, web[1].address, scheduler="phttp", **options)
    for number in range(6):
        assert get(port, f"/{number}") in (200, 404)
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 6, "the lines of the log")
    found = json.loads(daemon.adm("--replay", str(log), "-i", "web", "-s", "rr", "--json").stdout)
    assert found["service"] == "web"
    assert found["scheduler"] == "rr"
    assert found["happened"]["requests"] == found["replayed"]["requests"] == 6
    assert [server["replayed"]["requests"] for server in found["servers"]] == [3, 3]
    assert sum(server["happened"]["requests"] for server in found["servers"]) == 6
    assert found["happened"]["p50"] > 0
    refused = daemon.adm("--replay", str(log), "-i", "wbe", check=False)
    assert (refused.returncode, refused.stderr) == (
        1,
        "tcpvsadm: replay wbe: no service 'wbe'; did you mean 'web'?\n",
    )


def get(port: int, path: str) -> int:
    """Return the status of a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_log_is_replayed_with_a_file_and_without_a_daemon(tmp_path: Path) -> None:
    (tmp_path / "try.conf").write_text(CONFIGURATION)
    lines = "".join(LINE % (number % 9, number) for number in range(100)) + "damaged\n"
    (tmp_path / "access.log.gz").write_bytes(gzip.compress(lines.encode()))
    given = ["--replay", "access.log.gz", "--config", "try.conf", "--control", "unix:/nonexistent"]
    done = tcpvsadm(*given, "--seconds", "0.2", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "100 requests of access.log.gz" in done.stdout
    assert "malformed lines: 1, the first is line 101" in done.stdout
    assert "200" in done.stdout
    for options, status, why in (
        (["-s", "wcl"], 1, "no scheduler 'wcl'; did you mean 'wlc'?"),
        (["--seconds", "much"], 2, "seconds 'much': expected seconds up to 3600 (example: 0.05)"),
        (["-H", "Host"], 2, "header 'Host': not 'NAME: VALUE'"),
    ):
        refused = tcpvsadm(*given, *options, folder=tmp_path)
        assert refused.returncode == status
        assert why in refused.stderr
    missing = tcpvsadm("--replay", "none.log", "--config", "try.conf", folder=tmp_path)
    assert missing.stderr == "tcpvsadm: replay: none.log: No such file or directory\n"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the log is read by a process of its own on two cores")
@pytest.mark.parametrize("is_interrupted", [False, True], ids=["the reader is killed", "Ctrl-C"])
def test_the_process_that_reads_the_log_ends(tmp_path: Path, is_interrupted: bool) -> None:
    (tmp_path / "try.conf").write_text(CONFIGURATION)
    program = [*command("tcpvsadm", TCPVSADM), "--replay", "-", "--config", str(tmp_path / "try.conf")]
    with subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        process_group=0,
    ) as adm:
        assert adm.stdout is not None
        assert adm.stderr is not None
        wait_for(lambda: child_processes(adm.pid), "the process that reads", TIMEOUT)
        (reader,) = child_processes(adm.pid)
        process = Process(reader)
        if is_interrupted:
            os.killpg(adm.pid, signal.SIGINT)
        else:
            os.kill(reader, signal.SIGKILL)
        status, output, complaint = adm.wait(TIMEOUT), adm.stdout.read(), adm.stderr.read()
    killed = "the process that reads it was ended by signal 9 (Killed) near line 0; run the command again"
    expected = (130, "") if is_interrupted else (1, f"tcpvsadm: replay: <stdin>: {killed}\n")
    assert (status, complaint, output) == (*expected, "")
    wait_for(process.has_ended, "the process that reads to end")
