"""Every command of tcpvsadm against a running daemon, and every exit code."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, answers, dial, echo, free_port, read_exactly

from ktcpvs import __version__

from .harness import TCPVSADM, TIMEOUT, Daemon, command

pytestmark = pytest.mark.e2e

READY = {"priority": 0, "mode": "ready", "check": None, "max_pending": 0, "start": None, "labels": {}}
"""A server that was given no words about its use, as JSON has it."""


def refused(daemon: Daemon, code: int, *arguments: object) -> str:
    """Run a command that must be refused: with this exit code, one line on standard error and no output."""
    before = daemon.call("table")
    done = daemon.adm(*arguments, check=False)
    assert done.returncode == code, done
    assert done.stdout == ""
    assert re.match(r"tcpvsadm: .+\n", done.stderr)
    assert done.stderr.count("\n") == 1 or code == 2
    assert daemon.call("table") == before
    return done.stderr


def test_every_command(daemon: Daemon, serve: Callable[..., SocketServer], tmp_path: Path) -> None:
    adm, server, port, other = daemon.adm, serve(echo), free_port(), free_port()

    def one() -> dict[str, object]:
        return dict(daemon.call("table", "s")["services"][0])

    # Services.
    assert adm("-A", "-i", "s", "-s", "wlc", "-l", LOOPBACK, "-P", port, "--maxclients", "9").stdout == ""
    adm("--add-service", "--ident", "t")
    assert (one()["listen"], one()["maxclients"], one()["running"]) == (f"{LOOPBACK}:{port}", 9, False)
    adm("-E", "-i", "s", "--redirect", "[::1]:81", "--scheduler=http")
    assert (one()["listen"], one()["redirect"], one()["scheduler"]) == (f"{LOOPBACK}:{port}", "[::1]:81", "http")
    adm("--edit-service", "-i", "s", "-s", "wlc", "--redirect", "none")
    assert daemon.json("--list", "-i", "s")["services"] == [one()]
    assert one()["redirect"] is None
    adm("--delete-service", "-i", "t")
    assert "service s exists already" in refused(daemon, 1, "-A", "-i", "s")

    # Servers and rules.
    adm("-a", "-i", "s", "-r", server.address)
    adm("--add-server", "-i", "s", "-r", "10.0.0.1", "-w", "0")
    adm("-e", "-i", "s", "-r", server.address, "-w", "5")
    assert one()["servers"] == [
        {"address": server.address, "weight": 5, "maxconn": 0, "tls": None, "h2": False, "proxy": "off", **READY},
        {"address": f"10.0.0.1:{port}", "weight": 0, "maxconn": 0, "tls": None, "h2": False, "proxy": "off", **READY},
    ]
    adm("--add-rule", "-i", "s", "-p", "^/(a|b)", "-r", server.address, "-m", "1")
    adm("--add-rule", "-i", "s", "--pattern=^/(a|b)", "-r", "10.0.0.1")
    assert "uses server" in refused(daemon, 1, "-d", "-i", "s", "-r", "10.0.0.1")
    adm("--del-rule", "-i", "s", "-p", "^/(a|b)", "-r", "10.0.0.1")
    adm("-d", "-i", "s", "-r", "10.0.0.1")
    assert "out of range" in refused(daemon, 1, "-e", "-i", "s", "-r", server.address, "-w", "70000")
    adm("-e", "-i", "s", "-r", server.address, "--maxconn", "7")
    assert "Nothing to change" in refused(daemon, 2, "-e", "-i", "s", "-r", server.address)
    assert one()["servers"] == [
        {"address": server.address, "weight": 5, "maxconn": 7, "tls": None, "h2": False, "proxy": "off", **READY}
    ]
    adm("-e", "-i", "s", "-r", server.address, "--maxconn", "0")

    # Running.
    adm("--start", "-i", "s")
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        shown = adm("--list", "--stats").stdout
        assert re.search(rf"-> {server.address}\s+5\s+-\s+1\s+1\s+0\s+0\s+0\s+5\s+5\n", shown), shown
        assert re.search(r"\n1 |^s +running +wlc +", shown, re.M)
        shown = adm("-L", "--rate", "-n").stdout
        assert re.search(rf"-> {server.address}\s+5\s+-\s+0\s+0\s+0\n", shown), shown
        shown = adm("--list", "--connections", "-i", "s").stdout
        assert re.search(
            rf"^[0-9a-f]{{8}} +s +127\.0\.0\.1:\d+ +{server.address} +relaying +\d+ +\d+ +5 +5$", shown, re.M
        ), shown
        assert daemon.json("-L", "--stats")["services"][0]["stats"]["active"] == 1
        assert len(daemon.json("--list", "--connections")) == 1
    assert "is running: stop it first" in refused(daemon, 1, "-D", "-i", "s")
    adm("-E", "-i", "s", "-P", other)
    assert answers(other)
    adm("--stop", "-i", "s")
    assert not answers(other)
    adm("--start")
    assert answers(other)
    adm("--stop")

    # Settings.
    adm("--set", "read_timeout=60", "debug_level=3")
    assert adm("--get", "read_timeout").stdout == "read_timeout = 60\n"
    assert "max_backlog = 2048\n" in adm("--get").stdout
    assert {row["name"]: row["value"] for row in daemon.json("--get")}["debug_level"] == 3
    assert "out of range" in refused(daemon, 1, "--set", "read_timeout=1", "debug_level=13")
    assert "no setting 'colour'" in refused(daemon, 1, "--get", "colour")
    assert re.search(r"^wlc +connection +1 ", adm("--schedulers").stdout, re.M)

    # Configurations.
    saved = adm("--save").stdout
    file = tmp_path / "saved"
    file.write_text(saved)
    before = daemon.call("table")
    adm("-F")
    assert daemon.call("table")["services"] == []
    adm("--restore", input=saved)
    assert daemon.call("table") == before
    adm("--flush")
    adm("--load-configfile", file)
    assert daemon.call("table") == before
    assert f"{file}x: No such file" in refused(daemon, 1, "-f", f"{file}x")
    broken = daemon.adm("--restore", input="Virtual s {\n    colour = red\n}\n", check=False)
    assert broken.returncode == 1
    assert "<stdin>:2:5: unknown keyword 'colour'" in broken.stderr
    assert daemon.call("table") == before

    # Options that need no daemon.
    assert adm("--version").stdout.strip().endswith(__version__)
    assert "--load-configfile" in adm("-h").stdout


def test_a_wrong_command_line_exits_with_2(daemon: Daemon) -> None:
    for arguments, why in (
        (("--start", "-w", "1"), "Illegal 'weight' option with the 'start' command"),
        (("-a", "-r", "h:1"), "You need to supply the 'ident' option for the 'add-server' command: -i ID, "),
        (("-A", "-D", "-i", "s"), "Two commands"),
        (("-A", "-i", "s", "-i", "t"), "given twice"),
        (("--colour",), "Unknown option"),
        (("-L", "more"), "Unexpected argument"),
        (("--set", "read_timeout"), "'read_timeout': not NAME=VALUE"),
        (("-a", "-i", "s", "-r", "h:1", "-w", "many"), "a whole number"),
    ):
        assert why in refused(daemon, 2, *arguments)


def test_without_a_daemon_the_exit_code_is_3(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    for arguments in (("--list",), ("--start",), ("--restore",)):
        done = daemon.adm(*arguments, check=False)
        assert done.returncode == 3
        assert done.stdout == ""
        assert re.fullmatch(r"tcpvsadm: no daemon answers at unix:.+\n", done.stderr)
    assert daemon.adm("--version").returncode == 0


def test_the_control_address_is_read_from_the_environment(daemon: Daemon) -> None:
    environment = {**daemon.environment, "KTCPVS_CONTROL": daemon.control}
    daemon.adm("-A", "-i", "s")
    done = subprocess.run(
        [*command("tcpvsadm", TCPVSADM), "--save"], capture_output=True, text=True, timeout=TIMEOUT, env=environment
    )
    assert done.returncode == 0
    assert "Virtual s {" in done.stdout


def test_a_closed_pipe_is_no_error(daemon: Daemon) -> None:
    """tcpvsadm --list | head -1"""
    server_lines = "".join(f"server = 10.1.{number // 250}.{number % 250}:80\n" for number in range(20_000))
    daemon.call("load", f"Virtual s {{\n{server_lines}}}\n")
    read, write = os.pipe()
    adm = subprocess.Popen(
        [*command("tcpvsadm", TCPVSADM), "--control", daemon.control, "--list"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=daemon.environment,
    )
    os.close(write)
    assert os.read(read, 10).startswith(b"TCP ")
    os.close(read)
    _, complaint = adm.communicate(timeout=TIMEOUT)
    assert "Traceback" not in complaint
    assert adm.returncode in (0, 141)


def test_concurrent_edits_are_all_applied(daemon: Daemon) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: daemon.adm("-A", "-i", f"s{number}"), range(6)))
    idents = {service["ident"] for service in daemon.call("table")["services"]}
    assert idents == {f"s{number}" for number in range(6)}


def test_rules_by_conditions_and_names(daemon: Daemon) -> None:
    adm, port = daemon.adm, free_port()

    def rules() -> list[str]:
        return [line.strip() for line in adm("--save").stdout.splitlines() if line.strip().startswith("rule")]

    adm("-A", "-i", "s", "-s", "phttp", "-l", f"{LOOPBACK}:{port}")
    for server in ("10.0.0.1", "10.0.0.2"):
        adm("-a", "-i", "s", "-r", server)
    one, two = (f"server 10.0.0.{number}:{port}" for number in (1, 2))
    adm("--add-rule", "-i", "s", "path", "/a/", "not", "from", "10.0.0.0/8", "-r", "10.0.0.1")
    adm("--add-rule", "-i", "s", "--name", "beta", "--before", "1", "Header", "X-Beta", "^(1|on)$", "-r", "10.0.0.1")
    adm("--add-rule", "-i", "s", "--name", "beta", "-r", "10.0.0.2")
    adm("--add-rule", "-i", "s", "-p", "^/b", "host", "b.example", "-r", "10.0.0.2")
    assert rules() == [
        f'rule = name beta header X-Beta "^(1|on)$" use {one} {two}',
        f"rule = path /a/ not from 10.0.0.0/8 use {one}",
        f'rule = pattern "^/b" host b.example use {two}',
    ]
    adm("--edit-rule", "-i", "s", "--rule", "path /a/ not from 10.0.0.0/8", "--name", "a", "path", "/a/")
    adm("--move-rule", "-i", "s", "--rule", "beta")
    adm("--move-rule", "-i", "s", "--rule", "2", "--before", "a")
    assert rules() == [
        f'rule = pattern "^/b" host b.example use {two}',
        f"rule = name a path /a/ use {one}",
        f'rule = name beta header X-Beta "^(1|on)$" use {one} {two}',
    ]
    shown = adm("--explain", "-i", "s", "GET /a/x").stdout
    assert re.search(r"^  1  pattern .* does not match: host b\.example$", shown, re.M), shown
    assert re.search(r"^  2  a +matches$", shown, re.M), shown
    adm("--del-rule", "-i", "s", "--rule", "beta", "-r", "10.0.0.1")
    adm("--del-rule", "-i", "s", "pattern", "^/b", "host", "b.example", "-r", "10.0.0.2")
    assert rules() == [f"rule = name a path /a/ use {one}", f'rule = name beta header X-Beta "^(1|on)$" use {two}']
    assert "no rule 'x'" in refused(daemon, 1, "--move-rule", "-i", "s", "--rule", "x")
    assert "so write it decoded" in refused(daemon, 1, "--add-rule", "-i", "s", "path", "/%61", "-r", "10.0.0.1")
    assert "listens on" in refused(daemon, 1, "--explain", "-i", "s", "-P", "1", "GET /")
    adm("--start", "-i", "s")
    assert "scheduler tcp does not see path" in refused(daemon, 1, "-E", "-i", "s", "-s", "tcp")
