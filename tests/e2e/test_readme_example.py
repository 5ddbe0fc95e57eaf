"""The example of KTCPVS's README, line for line, with three web servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, answers, free_port

from .harness import Daemon
from .test_http import status, who

pytestmark = pytest.mark.e2e

COMMANDS = """
tcpvsadm -A -i http -s http
tcpvsadm -a -i http -r r1:80
tcpvsadm -a -i http -r r2:80
tcpvsadm -a -i http -r r3:80
tcpvsadm --add-rule -i http --pattern=/images/.* -r r1:80
tcpvsadm --add-rule -i http --pattern=/html/.* -r r2:80
tcpvsadm --add-rule -i http --pattern=.* -r r3:80
"""


def test_the_commands_of_the_readme(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    port = free_port()
    for line in COMMANDS.strip().splitlines():
        for number, server in enumerate(web, 1):
            line = line.replace(f"r{number}:80", server.address)
        assert daemon.adm(*line.split()[1:]).stdout == ""
    assert daemon.call("table")["services"][0]["listen"] == "0.0.0.0:8080"
    daemon.adm("-E", "-i", "http", "-l", f"{LOOPBACK}:{port}")  # another program may use 8080

    r1, r2, r3 = (server.address for server in web)
    listed = daemon.adm("--list").stdout.splitlines()
    assert listed[0].startswith("TCP Virtual Server version ")
    assert [line for line in listed[1:] if line and "#" not in line] == [
        "Virtual http {",
        f"    listen = {LOOPBACK}:{port}",
        "    scheduler = http",
        f"    server = {r1} 1",
        f"    server = {r2} 1",
        f"    server = {r3} 1",
        f'    rule = pattern "/images/.*" use server {r1}',
        f'    rule = pattern "/html/.*" use server {r2}',
        f'    rule = pattern ".*" use server {r3}',
        "}",
    ]
    assert daemon.adm().stdout.splitlines() == listed

    file = tmp_path / "config-file"
    file.write_text("\n".join(listed[1:]))
    daemon.adm("-F")
    assert daemon.call("table")["services"] == []
    daemon.adm("-f", file)
    assert daemon.adm("--list").stdout.splitlines() == listed

    assert not answers(port)
    daemon.adm("--start", "-i", "http")
    assert [who(port, path) for path in ("/images/x", "/html/x", "/other")] == ["r1", "r2", "r3"]
    assert status(port, "/images/x")[0] == 200
    refused = daemon.adm("-F", check=False)
    assert refused.returncode == 1
    assert "http is running: stop it first" in refused.stderr
    daemon.adm("--stop", "-i", "http")
    assert not answers(port)
    daemon.adm("-F")
    assert daemon.call("table")["services"] == []
