"""The state file: after a crash the table and the running services are as after the last answered command.

An edit that cannot be saved is refused. A state file or a configuration that cannot be read refuses the start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, answers, dial, echo, free_port, read_exactly

from ktcpvs.errors import CannotSave
from ktcpvs.model.language.parser import parse
from ktcpvs.state import read_configuration
from ktcpvs.system.names import service_port

from .harness import Daemon

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]
Serve = Callable[..., SocketServer]


def test_every_answered_command_survives_a_crash(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    server, port, more = serve(echo).address, free_port(), free_port()
    daemon = make_daemon("--state", tmp_path / "state")
    daemon.start()
    odd = 'a "quoted" \\" back\\\\slash \\d+#{3}'
    commands: list[tuple[object, ...]] = [
        ("add_service", "web", {"listen": f"{LOOPBACK}:{port}", "redirect": "[::1]:81", "startservers": 4}),
        ("add_server", "web", server, 65535),
        ("add_server", "web", "unix:/tmp/with space.sock", 0),
        ("add_rule", "web", odd, server),
        ("add_rule", "web", ".*", "unix:/tmp/with space.sock"),
        ("add_service", "relay", {"listen": f"{LOOPBACK}:{more}", "scheduler": "wlc"}),
        ("add_server", "relay", server),
        ("start",),
        ("edit_service", "relay", {"maxclients": 7}),
        ("stop", "web"),
        ("set", {"read_timeout": 77, "debug_level": 3}),
        ("delete_rule", "web", odd, server),
        ("delete_service", "web"),
    ]
    for name, *arguments in commands:
        named = arguments.pop() if arguments and isinstance(arguments[-1], dict) and name != "set" else {}
        daemon.call(str(name), *arguments, **named)
        before = daemon.call("table")
        saved = daemon.adm("--save").stdout if name in ("start", "add_rule") else ""
        daemon.restart()
        assert daemon.call("table") == before
        if saved:
            assert daemon.adm("--save").stdout == saved
        if name == "start":
            with dial((LOOPBACK, more)) as client:
                client.sendall(b"ping")
                assert read_exactly(client, 4) == b"ping"
    assert [service["ident"] for service in daemon.call("table")["services"]] == ["relay"]
    assert answers(more)
    assert not answers(port)


def test_services_run_again_after_sigterm(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    daemon = make_daemon("--state", tmp_path / "state")
    daemon.start()
    daemon.service("s", port, serve(echo).address)
    daemon.signal(15)
    assert daemon.wait() == 0
    daemon.start()
    assert answers(port)


def test_an_edit_that_cannot_be_saved_is_refused(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    port = free_port()
    daemon = make_daemon("--state", folder / "state")
    daemon.start()
    daemon.service("s", port, serve(echo).address)
    before = daemon.call("table")
    shutil.rmtree(folder)
    for method, arguments in (("add_service", ("t",)), ("stop", ("s",)), ("set", ({"read_timeout": 1},))):
        with pytest.raises(CannotSave, match=r"state cannot be written: No such file or directory"):
            daemon.call(method, *arguments)
    refused = daemon.adm("--set", "read_timeout=1", check=False)
    assert refused.returncode == 1
    assert str(folder / "state") in refused.stderr
    assert daemon.call("table") == before
    assert answers(port)
    folder.mkdir()
    daemon.call("set", {"read_timeout": 5})
    daemon.restart()
    assert daemon.call("table")["settings"]["read_timeout"] == 5


def test_a_fifo_or_a_link_in_the_place_of_a_file_does_not_block(make_daemon: Make, tmp_path: Path) -> None:
    config, state, beside, victim = (tmp_path / name for name in ("conf", "state", "state.new", "victim"))
    config.write_text("Virtual s {\n    server = 10.0.0.1:80\n    listen = " + f"{LOOPBACK}:{free_port()}" + "\n}\n")
    victim.write_text("precious")
    daemon = make_daemon("--config", config, "--state", state)
    daemon.start()
    for number, plant in enumerate((lambda: beside.symlink_to(victim), lambda: os.mkfifo(beside)), 1):
        plant()
        daemon.call("set", {"read_timeout": number})
        assert not beside.is_symlink()
        assert not beside.exists()
        assert state.stat().st_mode == stat.S_IFREG | 0o600
    assert victim.read_text() == "precious"
    config.unlink()
    os.mkfifo(config)
    daemon.signal(1)
    daemon.wait_for_log(f"SIGHUP: nothing is changed: {config}: not a regular file")
    assert daemon.call("table")["settings"]["read_timeout"] == 2


def configuration(port: int, server: str) -> str:
    return f"Virtual c {{\n    listen = {LOOPBACK}:{port}\n    scheduler = wlc\n    server = {server}\n}}\n"


def test_the_first_start_loads_the_configuration_and_later_ones_the_state(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    config, state, port = tmp_path / "conf", tmp_path / "state", free_port()
    config.write_text(configuration(port, serve(echo).address))
    daemon = make_daemon("--config", config, "--state", state)
    daemon.start()
    assert answers(port)
    daemon.wait_for_log(f"the table comes from {config}, since there was no state file {state}: ")
    assert state.stat().st_mode & 0o777 == 0o600
    daemon.call("add_service", "added", port=free_port())
    daemon.call("stop", "c")
    daemon.restart()
    idents = [(service["ident"], service["running"]) for service in daemon.call("table")["services"]]
    assert idents == [("c", False), ("added", False)]
    daemon.wait_for_log(f"the table comes from the state file {state}, and {config} was not loaded: ")
    new_port = free_port()
    config.write_text(config.read_text() + configuration(new_port, "10.0.0.1:80").replace("Virtual c", "Virtual new"))
    daemon.signal(1)
    daemon.wait_for_log(f"SIGHUP: {config} is loaded")
    idents = [(service["ident"], service["running"]) for service in daemon.call("table")["services"]]
    assert idents == [("c", False), ("new", True)]
    assert answers(new_port)


def test_services_run_again_after_an_unload(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    config, state, port = tmp_path / "conf", tmp_path / "state", free_port()
    config.write_text(configuration(port, serve(echo).address))
    daemon = make_daemon("--config", config, "--state", state)
    daemon.start()
    daemon.call("add_service", "stopped", port=free_port())
    daemon.adm("--set", "unload=1")
    assert daemon.wait() == 0
    daemon.start()
    assert answers(port)
    daemon.wait_for_log("stopped: stopped; 'tcpvsadm --start -i ID' starts one")


def test_an_empty_configuration_starts_without_services(make_daemon: Make, tmp_path: Path) -> None:
    config = tmp_path / "conf"
    config.write_text("# nothing yet\n")
    daemon = make_daemon("--config", config)
    daemon.start()
    assert daemon.call("table")["services"] == []
    daemon.wait_for_log(f"{config} configures no services")


def test_a_state_file_that_cannot_be_read_refuses_the_start(make_daemon: Make, tmp_path: Path) -> None:
    state = tmp_path / "state"
    daemon = make_daemon("--state", state)
    good = json.dumps({"format": 1, "running": [], "configuration": ""})
    for text in (
        "",
        "garbage",
        good[:-5],
        "[]",
        "[" * 100_000,
        good.replace("1", "2"),
        json.dumps({"format": 1, "running": 5, "configuration": ""}),
        json.dumps({"format": 1, "running": [[]], "configuration": ""}),
        json.dumps({"format": 1, "running": [], "configuration": "Virtual s {\n  colour = red\n}\n"}),
        json.dumps({"format": 1, "running": ["s"], "configuration": "Virtual s {\n  scheduler = nobodys\n}\n"}),
        "\udcff",
    ):
        state.write_text(text, errors="surrogateescape")
        said = daemon.refused()
        assert re.fullmatch(r"ktcpvs: .+", said), (text[:100], said)
        assert "state" in said or "nobodys" in said, said
        assert state.read_text(errors="surrogateescape") == text
    state.unlink()
    state.mkdir()
    assert f"{state} cannot be read" in daemon.refused()


def test_a_configuration_with_an_error_refuses_the_start(make_daemon: Make, tmp_path: Path) -> None:
    config = tmp_path / "conf"
    daemon = make_daemon("--config", config)
    assert re.fullmatch(rf"ktcpvs: {config}: No such file or directory", daemon.refused())
    for text, place in (("Virtual s {\n  listen == 1\n}\n", "2:3"), ("Virtual s {\n", "2:1"), ("nonsense", "1:1")):
        config.write_text(text)
        assert re.fullmatch(rf"ktcpvs: {config}:{place}: .+", daemon.refused())
    config.write_bytes(b"# \xff\n")
    assert re.fullmatch(rf"ktcpvs: {config}.+not UTF-8 text", daemon.refused())
    config.write_text("Virtual s {\n    scheduler = best\n}\n")
    assert re.fullmatch(
        rf"ktcpvs: {config}:2:17: service s: no scheduler 'best'; there are: .*http.* \(a plugin must be .*\)",
        daemon.refused(),
    )


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_all_line_ends_are_read_alike(daemon: Daemon, tmp_path: Path, end: str) -> None:
    """In files of --config, -f, --check and --diff, and in lists of networks."""
    lines = ["# a comment", f"Virtual s {{ # {LOOPBACK}", f"listen = {LOOPBACK}:{free_port()}", "server = 10.0.0.1:80"]
    lines += ['rule = pattern ".*" use server 10.0.0.1:80', 'test "GET /" -> 10.0.0.1:80', "}", ""]
    config, networks = tmp_path / "conf", tmp_path / "networks"
    config.write_bytes(end.join(lines).encode())
    networks.write_bytes(end.join(("# ours", "192.0.2.0/24 # all", "2001:db8::/32")).encode())
    assert daemon.adm("--check", config).stdout == ""
    daemon.adm("-f", config)
    assert daemon.adm("--diff", config).stdout == ""
    daemon.adm("--deny", "-i", "s", f"@{networks}")
    (service,) = daemon.call("table")["services"]
    assert service["deny"] == ["192.0.2.0/24", "2001:db8::/32"]
    assert (len(service["servers"]), len(service["rules"]), len(service["tests"])) == (1, 1, 1)
    read = read_configuration(str(config), service_port)
    assert read.services["s"] == parse("\n".join(lines), "conf", service_port).services["s"]
    config.write_bytes(end.join(("# a comment", "Virtual s {", "  colour = red")).encode())
    for refused in (daemon.adm("--check", config, check=False), daemon.adm("-f", config, check=False)):
        assert f"{config}:3:3: unknown keyword 'colour'" in refused.stderr
    config.write_bytes(f"# a comment{end}  ".encode() + b"\xff")
    assert f"{config}:2:3: byte 0xff is not UTF-8 text" in daemon.adm("-f", config, check=False).stderr


def test_a_port_in_use_refuses_the_start(make_daemon: Make, serve: Serve, tmp_path: Path) -> None:
    server, config = serve(echo), tmp_path / "conf"
    config.write_text(configuration(server.port, server.address))
    daemon = make_daemon("--config", config, "--state", tmp_path / "state")
    refused = daemon.refused()
    assert refused.startswith(f"ktcpvs: cannot listen on {server.address}: another program, ")
    assert refused.endswith(f", listens there already (process {os.getpid()})")
    assert not (tmp_path / "state").exists()
    assert not Path(daemon.control.removeprefix("unix:")).exists()

    log = tmp_path / "twistd.log"
    pid = tmp_path / "twistd.pid"
    daemon = make_daemon("--config", config, arguments=(f"--pidfile={pid}", f"--logfile={log}"))
    daemon.run()
    assert daemon.wait() == 1
    assert refused in daemon.log() + log.read_text()
    assert not pid.exists()


def test_a_stale_control_socket_is_replaced(daemon: Daemon) -> None:
    path = Path(daemon.control.removeprefix("unix:"))
    before = path.stat().st_ino
    daemon.kill()
    assert path.stat().st_ino == before
    daemon.start()
    assert daemon.adm("--list").stdout.startswith("TCP Virtual Server version ")


def test_a_second_daemon_at_the_same_control_is_refused(make_daemon: Make, tmp_path: Path) -> None:
    first = make_daemon()
    first.start()
    second = make_daemon(control=first.control)
    path = first.control.removeprefix("unix:")
    refused = second.refused()
    assert refused.startswith(f"ktcpvs: cannot listen on {first.control}: another ")
    assert " listens there already (process " in refused
    assert Path(path).exists()
    first.call("add_service", "s")
    Path(path).unlink()
    Path(path).write_text("not a socket")
    assert " listens there already" in second.refused()
    assert Path(path).read_text() == "not a socket"
