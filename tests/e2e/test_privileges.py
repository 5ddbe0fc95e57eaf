"""A daemon that root starts as another user: its capabilities, and the users that may administer it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from servers import LOOPBACK, SocketServer, dial, echo, free_port, read_exactly, wait_for
from tls_load import Site, client_context, handshake

from ktcpvs.system import bpf
from ktcpvs.system.privileges import KEPT

from .harness import TCPVSADM, ControlThread, Daemon, child_processes, command, environment, has_ended
from .readable import NOBODY, everybodys_python, nobody_can_run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.starts,
]

ALL_KEPT = sum(1 << number for number in KEPT.values())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user `nobody` may use."""
    path = Path(tempfile.mkdtemp(prefix="ktcpvs-user-"))
    shutil.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(control_thread: ControlThread, folder: Path) -> Iterator[Callable[..., Daemon]]:
    """start(*options, ...): start a daemon with a Python that every user can read."""
    found = everybodys_python()
    if found is None:
        message = "there is no Python that everybody can read"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    python, path = found
    made: list[Daemon] = []

    def begin(*options: str, **named: Any) -> Daemon:
        if path is not None:
            named |= {"python": python, "python_path": (path,)}
        daemon = Daemon(control_thread, folder, *options, **named)
        made.append(daemon)
        daemon.start()
        return daemon

    yield begin
    for daemon in made:
        daemon.finish()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def low_port() -> int:
    for port in range(600, 1024):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port below 1024")


@pytest.mark.parametrize("workers", [0, 2])
def test_it_keeps_only_the_capabilities_that_it_needs(
    start: Callable[..., Daemon], serve: Callable[..., SocketServer], folder: Path, workers: int
) -> None:
    daemon = start("--user", "nobody", "--state", str(folder / "state.json"), workers=workers)
    daemon.wait_until_workers_serve(workers)
    port = low_port()
    daemon.service("s", port, serve(echo).address, relay="kernel" if bpf.available() is None else "auto")
    for pid in (daemon.pid, *daemon.workers()):
        seen = status(pid)
        assert set(seen["Uid"].split()) == {str(NOBODY.pw_uid)}
        assert set(seen["Gid"].split()) == {str(NOBODY.pw_gid)}
        assert seen["NoNewPrivs"] == "1"
        for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(seen[name], 16) & ~ALL_KEPT == 0, name
            assert int(seen[name], 16) & 1 << KEPT["CAP_NET_BIND_SERVICE"], name
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        wait_for(lambda: sum(daemon.stats("s")["stats"]["relay"]["joined"].values()) == 1)
    if bpf.available() is None:
        assert daemon.stats("s")["stats"]["relay"]["in_use"] == "kernel"
    assert (folder / "state.json").stat().st_uid == NOBODY.pw_uid
    refused = daemon.adm("-E", "-i", "s", "access_log=/root/access.log", check=False)
    assert refused.returncode == 1
    assert "/root/access.log" in refused.stderr


def test_a_program_that_it_starts_gets_none_of_them(start: Callable[..., Daemon], folder: Path) -> None:
    programs = folder / "programs"
    programs.mkdir(mode=0o755)
    (programs / "tells").write_text("#!/bin/sh\nexec grep -E '^(Uid|Cap)' /proc/self/status\n")
    (programs / "tells").chmod(0o755)
    daemon = start("--user", "nobody", "--start-folder", str(programs))
    port = free_port()
    lines = f"listen = {LOOPBACK}:{port}", "start_timeout = 1", f"server = {LOOPBACK}:{free_port()} 1 start tells"
    daemon.call("load", "\n".join(("Virtual s {", "scheduler = wlc", *lines, "}\n")))
    daemon.call("start", "s")
    with contextlib.suppress(OSError), dial((LOOPBACK, port)) as client:
        client.recv(1)
    daemon.wait_for_log(f"Uid:\t{NOBODY.pw_uid}")
    for name in ("CapPrm", "CapEff", "CapAmb"):
        daemon.wait_for_log(f"{name}:\t{0:016x}")
    assert int(status(daemon.pid)["CapAmb"], 16)


def test_certificates_that_only_root_can_read(start: Callable[..., Daemon], folder: Path) -> None:
    """The daemon uses them, and reloads them only when its user can read them."""
    ca = Authority(folder)
    cert, alice, port = ca.daemon(), ca.issue("alice"), low_port()
    cert.chmod(0o600)
    where = f"tls:{LOOPBACK}:{port}"
    daemon = start("--user", "nobody", "--control", f"{where}:cert={cert}:ca={ca.pem}", tls=True)
    daemon.wait_for_log(f"control {where}: user nobody cannot read {cert}, so SIGHUP cannot reload the certificates")
    adm = [*command("tcpvsadm", TCPVSADM), "--control", f"{where}:cert={alice}:ca={ca.pem}", "--list"]
    assert subprocess.run(adm, env=environment(tls=True), capture_output=True, timeout=30).returncode == 0
    daemon.signal(signal.SIGHUP)
    kept = "the certificates that were loaded before stay in use"
    daemon.wait_for_log(f"SIGHUP: control {where}: cert={cert}: Permission denied; {kept}")
    shutil.chown(cert, NOBODY.pw_uid)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"SIGHUP: control {where} uses the certificate of lb1")


def test_certificates_of_a_ca_are_kept_by_the_user(start: Callable[..., Daemon], folder: Path) -> None:
    """The reason is written to the folder, too: the CA does not respond."""
    daemon = start("--user", "nobody", "--state", str(folder / "state.json"), tls=True)
    daemon.set(acme_directory=f"https://{LOOPBACK}:{free_port()}/dir")
    daemon.service("s", f"{LOOPBACK}:{free_port()} tls", "10.0.0.1:80", certificate="acme a.example")
    daemon.wait_for_log("certificate for a.example: ")
    assert daemon.json("--certificates")[0]["acme"]["error"].endswith("/dir: Connection refused")
    kept = folder / "state.json.acme"
    (state,) = wait_for(lambda: list(kept.glob("certificates/a.example-*/state.json")))
    for path, mode in ((kept, 0o700), (state.parent, 0o700), (state, 0o600)):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (NOBODY.pw_uid, mode)


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_certificates_of_services_that_only_root_can_read(
    start: Callable[..., Daemon], serve: Callable[..., SocketServer], tmp_path: Path, workers: int
) -> None:
    """A process that kept the right to read them reads them, for an upgraded daemon too."""
    ca = Authority(tmp_path)
    site = Site(tmp_path, ca, "a.example")
    (tmp_path / "live").chmod(0o700)
    daemon = start("--user", "nobody", workers=workers)
    daemon.wait_until_workers_serve(workers)
    (reader,) = [pid for pid in child_processes(daemon.pid) if pid not in daemon.workers()]
    wait_for(lambda: status(reader)["NoNewPrivs"] == "1", timeout=30)  # the last thing that it gives up
    seen = status(reader)
    assert set(seen["Uid"].split()) == {str(NOBODY.pw_uid)}
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(seen[name], 16).bit_count() == 1, name
    port = free_port()
    daemon.service("s", f"{LOOPBACK}:{port} tls", serve(echo).address, certificate=str(site.live))
    context = client_context(ca)
    before = handshake(port, context, "a.example")
    refused = daemon.adm("-E", "-i", "s", "client_ca=/etc/shadow", check=False)
    assert refused.returncode == 1
    assert refused.stderr.endswith("/etc/shadow: no certificate in PEM, or an unreadable one\n")
    new = site.renew()
    assert daemon.adm("--reload-certificates").stderr == ""
    assert handshake(port, context, "a.example").serial == new != before.serial
    # The daemon starts the next one, which never was root.
    daemon.signal(signal.SIGUSR2)
    daemon.wait_for_log("taken over from")
    daemon.wait()
    try:
        newest = site.renew()
        assert daemon.adm("--reload-certificates").stderr == ""
        assert handshake(port, context, "a.example").serial == newest
        assert handshake(port, context, "a.example", before.session).is_resumed
        assert not has_ended(reader)
    finally:
        daemon.adm("--set", "unload=1")
    wait_for(lambda: has_ended(reader), timeout=30)


CONNECT_AS_STRANGER = (
    "import os, sys; os.setgroups([int(group) for group in sys.argv[3:]]); os.setgid(65534); os.setuid(65533);"
    "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(float(sys.argv[2])); s.connect(sys.argv[1]);"
    "print(s.recv(1))"
)


def connect_as_other_user(path: Path, *groups: int, timeout: float = 10) -> str:
    """Connect to the control socket as another user, and return what comes of it: "b''" when the daemon closes it."""
    python, _ = everybodys_python() or (sys.executable, None)
    code = [str(python), "-c", CONNECT_AS_STRANGER, str(path), str(timeout), *map(str, groups)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=30)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_other_users_may_not_administer(start: Callable[..., Daemon], folder: Path) -> None:
    daemon = start("--user", "nobody")
    path = folder / "control.sock"
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, NOBODY.pw_uid)
    assert connect_as_other_user(path).startswith("PermissionError")
    path.chmod(0o666)  # whatever is done to the file
    folder.chmod(0o755)
    assert connect_as_other_user(path) == "b''" or connect_as_other_user(path).startswith("ConnectionResetError")
    daemon.wait_for_log("control connection refused: user 65533 may not administer")
    assert daemon.adm("--list").returncode == 0


def test_members_of_the_control_group_may_administer(start: Callable[..., Daemon], folder: Path) -> None:
    daemon = start("--user", "nobody", "--control-group", "daemon")
    path = folder / "control.sock"
    folder.chmod(0o755)
    seen = path.stat()
    assert (seen.st_mode & 0o777, seen.st_gid) == (0o660, 1)
    assert connect_as_other_user(path, 1, timeout=2).startswith("TimeoutError")  # the daemon waits for a command
    assert "refused" not in daemon.log()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--user", "no-such-user"), "--user no-such-user: no such user; create it, as with 'useradd --system "),
        (("--user", "nobody", "--group", "nope"), "--group nope: no such group"),
        (("--group", "daemon"), "--group daemon requires --user"),
        (("--control-group", "nope"), "--control-group nope: no such group"),
    ],
)  # fmt: skip
def test_unknown_users_and_groups_are_refused(
    control_thread: ControlThread, folder: Path, options: tuple[str, ...], why: str
) -> None:
    assert why in Daemon(control_thread, folder, *options, preloaded=True).refused()


@pytest.mark.skipif(os.geteuid() != 0 or nobody_can_run(sys.executable), reason="everybody can read it")
def test_a_user_that_cannot_read_the_program_is_refused(control_thread: ControlThread, folder: Path) -> None:
    said = Daemon(control_thread, folder, "--user", "nobody").refused()
    assert said.startswith("ktcpvs: --user nobody: nobody cannot read /")
    assert said.endswith(": install it where all users can read it")


TCPVSADM_AS_NOBODY = f"""
import os, tempfile
import ktcpvs.control.tcpvsadm.session
from ktcpvs.adm import run
os.setgroups([])
os.setresgid({NOBODY.pw_gid}, {NOBODY.pw_gid}, {NOBODY.pw_gid})
os.setresuid({NOBODY.pw_uid}, {NOBODY.pw_uid}, {NOBODY.pw_uid})
run()
"""
"""tcpvsadm, which reads Python's files as root and then becomes the user `nobody`."""


def adm_as_nobody(*arguments: str, **words: str) -> tuple[int, str]:
    """Run tcpvsadm as the user `nobody`; return (exit status, standard error). words: environment variables."""
    done = subprocess.run(
        [sys.executable, "-c", TCPVSADM_AS_NOBODY, *arguments],
        env={**environment(), **words},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_tcpvsadm_does_not_trust_a_folder_that_other_users_can_write_to(folder: Path) -> None:
    folder.chmod(0o1777)
    place = folder / f"ktcpvs-{NOBODY.pw_uid}"
    place.mkdir()
    place.chmod(0o777)
    with socket.socket(socket.AF_UNIX) as trap:
        trap.bind(str(place / "control.sock"))
        trap.listen()
        status, said = adm_as_nobody("--list", TMPDIR=str(folder), KTCPVS_CONTROL="", XDG_RUNTIME_DIR="")
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()
    how = "remove it, or give the daemon's address with --control"
    assert (status, said) == (
        3,
        f"tcpvsadm: {place} is writable by other users, so a daemon there is not trusted: {how}\n",
    )


def test_a_denied_permission_is_reported_as_such(start: Callable[..., Daemon], folder: Path) -> None:
    daemon = start()
    path = Path(daemon.control.removeprefix("unix:"))
    how = "run tcpvsadm as root or as the daemon's user, or as a member of the daemon's --control-group GROUP\n"
    denied = (3, f"tcpvsadm: permission denied at {daemon.control}: {how}")
    assert adm_as_nobody("--control", daemon.control, "--list") == denied
    path.chmod(0o666)
    status, said = adm_as_nobody("--control", daemon.control, "--list")
    assert status == 3
    assert said.endswith(f"its log says whether user {NOBODY.pw_uid} may not administer it: {how}")
    daemon.wait_for_log("control connection refused: user")
    path.chmod(0o600)
    folder.chmod(0)
    assert adm_as_nobody("--control", daemon.control, "--list") == denied
    path.unlink()
    folder.chmod(0o755)
    assert adm_as_nobody("--control", daemon.control, "--list")[1].startswith("tcpvsadm: no daemon answers at ")
