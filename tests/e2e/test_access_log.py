"""The access log of a running daemon: its formats, rotation, and log files that cannot be written."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, free_port, wait_for

from ktcpvs.errors import BadValue

from .harness import Daemon

pytestmark = pytest.mark.e2e


def serve(daemon: Daemon, web: list[Nginx], *options: str, scheduler: str = "phttp") -> int:
    """Start a service with that scheduler and these options; return its port."""
    port = free_port()
    lines = [f"listen = {LOOPBACK}:{port}", f"scheduler = {scheduler}", *options]
    lines += [f"server = {web[0].address}", f'rule = pattern ".*" use server {web[0].address}']
    daemon.call("load", "Virtual web {\n" + "\n".join(lines) + "\n}\n")
    daemon.call("start")
    return port


def ask(port: int, path: str) -> None:
    client = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    client.request("GET", path, headers={"User-Agent": "me", "Referer": "http://there/"})
    assert client.getresponse().read().startswith(b"r1")
    client.close()


def lines(path: Path, count: int) -> list[str]:
    wait_for(lambda: path.exists() and path.read_text().count("\n") >= count, f"{count} lines in {path}")
    return path.read_text().splitlines()


def test_the_combined_format_and_rotation(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    log, old = tmp_path / "web.log", tmp_path / "web.log.1"
    port = serve(daemon, web, f"access_log = {log}")
    ask(port, '/images/a?b="c"')
    (line,) = lines(log, 1)
    assert re.fullmatch(
        r"127\.0\.0\.1 - - \[[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9:]{8} \+0000\] "
        r'"GET /images/a\?b=\\x22c\\x22 HTTP/1\.1" 200 [0-9]+ "http://there/" "me"',
        line,
    )
    log.rename(old)
    ask(port, "/before")
    assert len(lines(old, 2)) == 2
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGUSR1)
    wait_for(log.exists, "the new file")
    ask(port, "/after")
    (line,) = lines(log, 1)
    assert "/after" in line
    assert len(lines(old, 2)) == 2


def test_json_names_the_server_and_the_reason(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    log = tmp_path / "web.json"
    port = serve(daemon, web, f"access_log = {log}", "access_log_format = json")
    ask(port, "/x")
    told = json.loads(lines(log, 1)[0])
    assert (told["service"], told["server"], told["status"]) == ("web", web[0].address, 200)
    assert told["reason"] == "rule 1 '.*', the only server"
    assert 0 <= told["connect"] <= told["first"] <= told["total"]
    daemon.call("stop")


def test_connections_are_logged_to_syslog(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslogd:
        syslogd.bind(str(tmp_path / "log"))
        syslogd.settimeout(10)
        port = serve(daemon, web, f"access_log = syslog:{tmp_path}/log", "access_log_format = json", scheduler="wlc")
        ask(port, "/x")
        line = syslogd.recv(65536)
    told = json.loads(line.partition(b": ")[2])
    assert (told["server"], told["method"]) == (web[0].address, None)
    assert told["bytes_in"] > 0
    assert told["bytes_out"] > 0


def test_a_log_file_that_cannot_be_written_is_refused(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    port = serve(daemon, web)
    with pytest.raises(BadValue, match="no such folder"):
        daemon.call("edit_service", "web", access_log=f"{tmp_path}/no such folder/web.log")
    (tmp_path / "checked.conf").write_text(
        f"Virtual other {{\nscheduler = wlc\naccess_log = {tmp_path}/none/web.log\n}}\n"
    )
    checked = daemon.adm("--check", tmp_path / "checked.conf")
    why = f"service other: access_log = {tmp_path}/none/web.log: {tmp_path}/none: No such file or directory"
    assert f"tcpvsadm: warning: {why}\n" in checked.stderr
    assert not (tmp_path / "none").exists()
    with pytest.raises(BadValue, match="the absolute path of a file"):
        daemon.call("edit_service", "web", access_log="web.log")
    ask(port, "/x")
    daemon.call("edit_service", "web", access_log=str(tmp_path / "web.log"))
    ask(port, "/y")
    assert "/y" in lines(tmp_path / "web.log", 1)[0]
    daemon.call("edit_service", "web", access_log="off")
    ask(port, "/z")
    assert len(lines(tmp_path / "web.log", 1)) == 1
