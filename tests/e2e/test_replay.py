"""tcpvsadm --replay: of a log that a daemon has written, with its table; and of a file, without a daemon."""

from __future__ import annotations

import gzip
import http.client
import json
from pathlib import Path

import pytest
from servers import Nginx, free_port, wait_for

from .harness import Daemon, tcpvsadm

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
