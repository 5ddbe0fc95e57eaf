"""Safe changes: --check, --diff, tests in the configuration, --confirm and --wait, as a user types them."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, dial, echo, free_port, read_exactly, speak_first, wait_for

from ktcpvs.errors import Busy

from .harness import TCPVSADM, TIMEOUT, Daemon, command, environment, tcpvsadm

pytestmark = pytest.mark.e2e

SITE = """
Virtual web {{
    listen = 127.0.0.1:{port}
    scheduler = phttp
    server = 10.0.0.1:80
    server = 10.0.0.2:80
    server = 10.0.0.3:80
    rule = pattern "^/images/" use server 10.0.0.1:80
    rule = pattern "^/both" use server 10.0.0.2:80 server 10.0.0.3:80
    deny = 192.0.2.0/24
    test "GET /images/x" -> 10.0.0.1:80
    test "GET /both" "Cookie: a=b" -> 10.0.0.3:80
    test "GET /both" -> 10.0.0.2:80 10.0.0.1:80
    test "GET /nothing" -> nobody
    test "GET /images/x" from 192.0.2.7 -> nobody
}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.conf"
    path.write_text(SITE.format(port=free_port()))
    return path


def changed(site: Path, old: str, new: str) -> Path:
    text = site.read_text()
    assert old in text
    path = site.with_name("changed.conf")
    path.write_text(text.replace(old, new))
    return path


def adm(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run tcpvsadm without a daemon."""
    return tcpvsadm(*arguments, KTCPVS_CONTROL="unix:/nonexistent")


# Without a daemon.


def test_check_accepts_a_correct_file(site: Path) -> None:
    done = adm("--check", site)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("scheduler = phttp", "scheduler = nope", "{file}:4:17: service web: no scheduler 'nope'; there are: chash, "),
        (
            "scheduler = phttp",
            "scheduller = phttp",
            "{file}:4:5: unknown keyword 'scheduller'; did you mean 'scheduler'?",
        ),
        (
            "use server 10.0.0.1:80", "use server 10.0.0.2:80",
            'service web: test "GET /images/x" -> 10.0.0.1:80 fails: 10.0.0.2:80 serves: rule 1 \'^/images/\', ',
        ),
        (
            "test \"GET /nothing\" -> nobody", "test \"GET /nothing\" -> redirect",
            'service web: test "GET /nothing" -> redirect fails: nobody: no server for this request: ',
        ),
        (
            " server 10.0.0.3:80\n", "\n",
            'service web: test "GET /both" "Cookie: a=b" -> 10.0.0.3:80 fails: 10.0.0.2:80 serves: ',
        ),
        (
            "deny = 192.0.2.0/24", "",
            'service web: test "GET /images/x" from 192.0.2.7 -> nobody fails: 10.0.0.1:80 serves',
        ),
        ('"GET /nothing" ->', '"GET" ->', "{file}:14:10: test 'GET': expected METHOD TARGET"),
        ("-> nobody", "", "{file}:15:5: expected '->', not 'test'"),
        ('"Cookie: a=b"', '"Cookie"', "{file}:12:10: test: header 'Cookie': expected \"NAME: VALUE\""),
        ("from 192.0.2.7", "from me", "{file}:15:10: test: client 'me': expected an IP address"),
    ],
)  # fmt: skip
def test_check_reports_errors_as_load_does(
    site: Path, make_daemon: Callable[..., Daemon], old: str, new: str, why: str
) -> None:
    path = changed(site, old, new)
    done = adm("--check", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"tcpvsadm: check: {why.format(file=path)}"), done.stderr
    assert done.stderr.count("\n") == 1


# With a daemon.


def test_options_without_effect_cause_warnings(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """tcpvsadm writes them to standard error and exits with 0; the daemon logs them once when it loads a file."""
    config = tmp_path / "site.conf"
    text = f"Virtual s {{ listen = {LOOPBACK}:{free_port()} scheduler = wlc server = 10.0.0.1:80 balance = rr\n"
    config.write_text(text + 'rule = pattern "/" use server 10.0.0.1:80 }\n')
    rules = "service s: its rules have no effect: scheduler wlc uses none; http, hhttp, phttp, chttp, sni and tcp do\n"
    balance = (
        "service s: balance = rr has no effect: scheduler wlc chooses by itself; with scheduler = rr it would choose\n"
    )
    both = f"tcpvsadm: warning: {rules}tcpvsadm: warning: {balance}"
    assert adm("--check", config).stderr == both
    daemon = make_daemon("--config", config, workers=2)
    daemon.start()
    logged = daemon.log()
    assert logged.count(f"warning: {rules}") == logged.count(f"warning: {balance}") == 1
    new = ("-A", "-i", "t", "-P", free_port())
    for arguments, said in (
        (("-f", config), both),
        (("--start",), both),
        (("-E", "-i", "s", "balance=p2c"), f"tcpvsadm: warning: {balance}".replace("rr", "p2c")),
        (("--add-rule", "-i", "s", "-p", "/x", "-r", "10.0.0.1:80"), f"tcpvsadm: warning: {rules}"),
        (("-E", "-i", "s", "maxclients=5"), ""),
        ((*new, "-s", "wlc", "via=append"), "tcpvsadm: warning: service t: via has no effect: scheduler wlc passes "
         "requests on unchanged; phttp and chttp add header fields\n"),
    ):  # fmt: skip
        done = daemon.adm(*arguments)
        assert (done.stdout, done.stderr) == ("", said)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"warning: {rules}", 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_change_that_breaks_a_test_is_refused(daemon: Daemon, site: Path, workers: int) -> None:
    daemon.adm("-f", site)
    daemon.adm("--start")
    saved = daemon.adm("--save").stdout
    assert '    test "GET /both" "Cookie: a=b" -> 10.0.0.3:80\n' in saved
    for arguments in (
        ("--add-rule", "-i", "web", "-p", "^/no", "-r", "10.0.0.1:80"),
        ("--del-rule", "-i", "web", "-p", "^/images/", "-r", "10.0.0.1:80"),
        ("-f", changed(site, '"^/images/"', '"^/pictures/"')),
        ("--del-network", "-i", "web", "192.0.2.0/24"),
    ):
        refused = daemon.adm(*arguments, check=False)
        assert refused.returncode == 1
        assert 'service web: test "GET ' in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert daemon.adm("--save").stdout == saved
    daemon.adm("-e", "-i", "web", "-r", "10.0.0.1:80", "-w", 0)  # breaks nothing


def test_diff_lists_what_a_file_would_change(daemon: Daemon, site: Path) -> None:
    before = daemon.adm("--diff", site, check=False)
    assert (before.returncode, before.stdout.startswith("+ service web: phttp at 127.0.0.1:")) == (4, True)
    daemon.adm("-f", site)
    assert daemon.adm("--diff", site).stdout == ""
    daemon.adm("-A", "-i", "old", "-l", f"{LOOPBACK}:{free_port()}")
    daemon.adm("--start", "-i", "old")
    daemon.set(read_timeout=60, cookie_key="secret-secret")
    daemon.adm("-e", "-i", "web", "-r", "10.0.0.2:80", "-w", 3)
    path = changed(site, "server = 10.0.0.3:80", "server = 10.0.0.4:80 2 maxconn 9\n    balance = rr")
    path.write_text(path.read_text().replace("server 10.0.0.3:80\n    deny", "server 10.0.0.4:80\n    deny"))
    text = daemon.adm("--diff", path, check=False)
    assert text.returncode == 4
    assert text.stdout.splitlines() == [
        "setting read_timeout: 60 -> 180",
        "setting cookie_key changes",
        "- service old (running): it stops and drains",
        "service web: balance: wlc -> rr",
        "service web: server 10.0.0.2:80: weight 3 -> 1",
        "service web: - server 10.0.0.3:80, which drains",
        "service web: + server 10.0.0.4:80, weight 2, maxconn 9",
        "service web: rule '^/both': 10.0.0.2:80 10.0.0.3:80 -> 10.0.0.2:80 10.0.0.4:80",
    ]
    unread = daemon.adm("--diff", changed(site, "listen", "listn"), check=False)
    assert unread.returncode == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unconfirmed_table_is_undone(
    make_daemon: Callable[..., Daemon], serve: Callable[..., SocketServer], tmp_path: Path, workers: int
) -> None:
    """A service that the unconfirmed table did not have runs again."""
    state = tmp_path / "state.json"
    daemon = make_daemon("--state", state, workers=workers)
    daemon.start()
    port = free_port()
    daemon.service("s", port, serve(speak_first(b"hello")).address)
    saved = state.read_text()
    empty = tmp_path / "empty.conf"
    empty.write_text("global { read_timeout = 7 }\n")
    daemon.call("settings")
    daemon.adm("-f", empty, "--allow-empty", "--confirm", "5s")
    assert 0 < daemon.call("table")["trial"] <= 5
    assert state.read_text() == saved
    with pytest.raises(ConnectionRefusedError):
        dial((LOOPBACK, port))
    with pytest.raises(Busy, match=r"^the table is on trial, and undone in [1-5] s: 'tcpvsadm --confirm' keeps it$"):
        daemon.set(read_timeout=8)
    wait_for(lambda: daemon.call("table")["trial"] is None)
    daemon.wait_for_log("the table before it is in force again")
    with dial((LOOPBACK, port)) as client:
        assert read_exactly(client, 5) == b"hello"
    assert state.read_text() == saved
    again = daemon.adm("--confirm", check=False)
    assert again.stderr == "tcpvsadm: confirm: no change is waiting for confirmation\n"


def test_a_daemon_that_dies_before_the_confirmation_starts_with_the_table_before(
    make_daemon: Callable[..., Daemon], site: Path, tmp_path: Path
) -> None:
    daemon = make_daemon("--state", tmp_path / "state.json")
    daemon.start()
    daemon.adm("-f", site)
    before = daemon.adm("--save").stdout
    daemon.adm("-f", changed(site, "scheduler = phttp", "scheduler = chttp"), "--confirm", "60s")
    assert daemon.adm("--save").stdout != before
    daemon.restart()
    assert daemon.adm("--save").stdout == before


def test_a_confirmed_table_is_saved(make_daemon: Callable[..., Daemon], site: Path, tmp_path: Path) -> None:
    daemon = make_daemon("--state", tmp_path / "state.json")
    daemon.start()
    daemon.adm("-f", site, "--confirm", "5m")
    assert "\n# On trial: undone in " in daemon.adm("--list").stdout
    daemon.adm("--confirm")
    assert daemon.call("table")["trial"] is None
    daemon.restart()
    assert daemon.adm("--diff", site).returncode == 0


# Waiting.


def test_wait_shows_how_many_connections_are_left(daemon: Daemon, serve: Callable[..., SocketServer]) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)
    clients = [dial((LOOPBACK, port)) for _ in range(3)]
    for client in clients:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    screen, terminal = pty.openpty()
    words = ["--control", daemon.control, "-e", "-i", "s", "-r", server.address, "-w", "0", "--wait"]
    waiting = subprocess.Popen(
        [*command("tcpvsadm", TCPVSADM), *words], stdin=terminal, stdout=terminal, stderr=terminal, env=environment()
    )
    os.close(terminal)
    shown = b""

    def seen(what: bytes) -> bool:
        nonlocal shown
        while select.select([screen], [], [], 0)[0]:
            try:
                shown += os.read(screen, 1000)
            except OSError:  # nobody has the terminal any more
                break
        return what in shown

    try:
        wait_for(lambda: seen(b"3 client connections, oldest "))
        clients.pop().close()
        wait_for(lambda: seen(b"\r\x1b[K2 client connections, oldest "))
        assert daemon.stats("s")["servers"][0]["weight"] == 0
        while clients:
            clients.pop().close()
        wait_for(lambda: seen(b"drained"))
        assert waiting.wait(10) == 0
    finally:
        waiting.kill()
        waiting.wait()
        os.close(screen)


def test_wait_in_a_pipe_for_a_deleted_server(daemon: Daemon, serve: Callable[..., SocketServer]) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address)
    done = daemon.adm("-d", "-i", "s", "-r", server.address, "--wait")
    assert done.stdout == "drained\n"
    assert daemon.stats("s")["servers"] == []


def test_wait_goes_on_while_a_daemon_that_was_taken_over_has_connections(
    make_daemon: Callable[..., Daemon], serve: Callable[..., SocketServer]
) -> None:
    """Its connections may use the server; no view of the new daemon shows them."""
    server, port = serve(echo), free_port()
    first = make_daemon(workers=2)
    first.start()
    first.service("s", port, server.address)
    daemons, waits = [first], []

    def wait() -> str:
        words = ["--control", first.control, "-e", "-i", "s", "-r", server.address, "-w", "0", "--wait"]
        program = [*command("tcpvsadm", TCPVSADM), *words]
        pipe = subprocess.PIPE
        waits.append(subprocess.Popen(program, stdout=pipe, stderr=pipe, env=environment(), text=True))
        assert waits[-1].stdout is not None
        return waits[-1].stdout.readline()

    try:
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert wait().startswith("1 client connection, oldest ")
            for _ in range(2):
                daemons.append(make_daemon("--takeover", first.control, control=first.control, workers=2))
                daemons[-1].run()
                daemons[-1].adm("--wait-ready", "60", "--pid", daemons[-1].pid)
            assert daemons[1].wait() == 0, "it has no connections"
            said = wait()
            assert said == f"connections of the daemon before the takeover still drain, process {first.pid}\n"
            client.sendall(b"y")
            assert client.recv(1) == b"y"
            assert [process.poll() for process in waits] == [None, None]
        assert first.wait() == 0
        for process in waits:
            out, err = process.communicate(timeout=TIMEOUT)
            assert (process.returncode, out) == (0, "drained\n")
            assert err.count("\n") == err.count("warning: service s: no server of it takes new clients, ")
    finally:
        for process in waits:
            process.kill()
            process.communicate()
