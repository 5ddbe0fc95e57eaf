"""Certificates of a running daemon: renewed while clients come, shown, and shared by workers; sessions resumed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, echo, free_port, wait_for
from tls_load import Handshake, Site, TLSLoad, ask, client_context, connect, handshake
from tls_peers import authority

from ktcpvs.system import tls_tickets

from .harness import ROOT, TIMEOUT, Daemon
from .test_takeover import taken_over

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]
Serve = Callable[..., SocketServer]

NAME = "a.example"

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@pytest.fixture(params=[0, 2], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, authority(), NAME)


@pytest.fixture
def port(daemon: Daemon, site: Site, serve: Serve) -> int:
    """Of a service `s` with TLS, in front of a server that echoes."""
    port = free_port()
    daemon.service("s", f"{LOOPBACK}:{port} tls", serve(echo).address, certificate=str(site.live))
    return port


def serial(port: int, name: str = NAME) -> int:
    """The certificate that a new client gets."""
    return handshake(port, client_context(authority()), name).serial


# Renewal.


def recipe() -> str:
    """The commands for certbot of docs/certificates.md."""
    text = (ROOT / "docs/certificates.md").read_text("utf-8")
    (found,) = re.findall(r"```sh\n(cat > /etc/letsencrypt.*?)```", text, re.DOTALL)
    return str(found)


def test_the_recipe_for_certbot(daemon: Daemon, port: int, site: Site, tmp_path: Path) -> None:
    """Run word for word, but for the folder; then as certbot runs it after a renewal."""
    daemon.set(certificate_check_interval=0)
    hooks = tmp_path / "renewal-hooks/deploy"
    hooks.mkdir(parents=True)
    subprocess.run(["sh", "-e", "-c", recipe().replace("/etc/letsencrypt", str(tmp_path))], check=True)
    environment = {
        **daemon.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KTCPVS_CONTROL": daemon.control,
        "RENEWED_LINEAGE": str(site.live),
        "RENEWED_DOMAINS": NAME,
    }

    def run_hook() -> subprocess.CompletedProcess[str]:
        hook = hooks / "ktcpvs"
        return subprocess.run([hook], env=environment, capture_output=True, text=True, timeout=TIMEOUT)

    before = serial(port)
    with connect(port, client_context(authority()), NAME) as kept:
        ask(kept)
        new = site.renew()
        done = run_hook()
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("1 certificate read again; it expires at ")
        assert serial(port) == new != before
        site.spoil()
        done = run_hook()
        assert done.returncode == 1
        assert "the key does not belong to the certificate of site" in done.stderr
        assert done.stderr.endswith("; what was read before stays in use\n")
        assert serial(port) == new
        assert ask(kept).serial == before
    newest = site.renew()
    assert run_hook().returncode == 0
    assert serial(port) == newest


def test_files_are_watched(daemon: Daemon, port: int, site: Site) -> None:
    daemon.set(certificate_check_interval=1)
    for _ in range(2):
        new = site.renew()
        wait_for(lambda new=new: serial(port) == new, timeout=TIMEOUT)
    site.spoil()
    daemon.wait_for_log("what was read before stays in use")
    assert serial(port) == new
    assert daemon.log().count("what was read before stays in use") == 1


def test_sighup_reads_them_again(daemon: Daemon, port: int, site: Site) -> None:
    daemon.set(certificate_check_interval=0)
    new = site.renew()
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: serial(port) == new, timeout=TIMEOUT)
    daemon.wait_for_log(f"{site.live} is read again: {NAME}, until ")


def test_a_worker_that_dies_gets_the_newest_certificate(daemon: Daemon, port: int, site: Site, workers: int) -> None:
    if not workers:
        pytest.skip("there are no workers")
    new = site.renew()
    daemon.call("reload_certificates")
    before = daemon.workers()
    shutil.rmtree(site.live)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    daemon.wait_until_workers_serve(workers, but=before)
    assert serial(port) == new


@pytest.mark.load
def test_replacements_under_load(daemon: Daemon, port: int, site: Site, stack: contextlib.ExitStack) -> None:
    load = TLSLoad(port, authority(), NAME)
    stack.callback(load.stop)
    made = set()
    for _ in range(15):
        made.add(site.renew())
        daemon.call("reload_certificates")
        before = load.done
        wait_for(lambda before=before: load.done > before + 12, timeout=TIMEOUT)
    load.stop()
    assert load.failures == []
    assert made <= load.serials
    assert load.resumed > load.done / 3


# What is in use.


def status(daemon: Daemon, where: str) -> str:
    with urllib.request.urlopen(where, timeout=TIMEOUT) as answer:
        return str(answer.read().decode())


def test_what_is_shown(make_daemon: Make, serve: Serve, site: Site, tmp_path: Path, workers: int) -> None:
    status_port, port = free_port(), free_port()
    daemon = make_daemon("--status", f"tcp:{status_port}", workers=workers)
    daemon.start()
    old = shutil.copy(authority().daemon("old", "b.example", begins=-20, ends=2, kind="RSA"), tmp_path / "old.pem")
    text = (
        f"Virtual s {{\nlisten = {LOOPBACK}:{port} tls\ncertificate = {site.live}\ncertificate = {old}\n"
        f"client_ca = {authority().pem}\nclient_certificate = optional\nscheduler = wlc\n"
        f"server = {serve(echo).address}\n}}\n"
    )
    config = tmp_path / "site.conf"
    config.write_text(text)
    warning = f"{old}: the certificate of old expires on "
    for command in (["--check", config], ["-f", config, "--start"]):
        done = daemon.adm(*command)
        assert done.stderr.startswith(f"tcpvsadm: warning: service s: {warning}"), done.stderr
        assert done.stdout == ""
    assert daemon.adm("-f", config).stderr == "", "it is in use already"
    lines = daemon.adm("--certificates").stdout.splitlines()
    assert lines[0].split() == ["Names", "Issuer", "Expires", "Left", "Key", "Used", "by", "File"]
    shown = {line.split()[0]: line.split() for line in lines[1:4]}
    assert [shown[name][1:2] + shown[name][-3:] for name in (NAME, "b.example")] == [
        ["ca", "ECDSA", "s", f"{site.live}/fullchain.pem"],
        ["ca", "RSA", "s", str(old)],
    ]
    assert lines[4] == ""
    assert lines[5].startswith(warning)
    assert len(lines) == 6
    rows = {row["path"]: row for row in daemon.json("--certificates", "-i", "s")}
    assert set(rows) == {str(site.live), str(old), str(authority().pem)}
    assert rows[str(old)]["left"] == pytest.approx(2 / 22, abs=0.01)
    assert rows[str(site.live)]["warning"] == ""
    assert daemon.adm("--certificates", "-i", "x", check=False).returncode == 1
    site.spoil()
    assert daemon.adm("--reload-certificates", check=False).returncode == 1
    assert "the key does not belong" in daemon.adm("--certificates").stdout
    base = f"http://{LOOPBACK}:{status_port}"
    metrics = status(daemon, f"{base}/metrics")
    labels = f'{{file="{old}",name="b.example",kind="RSA",use="certificate"}}'
    assert f"ktcpvs_certificate_not_after_seconds{labels} {rows[str(old)]['not_after']}\n" in metrics
    assert f"ktcpvs_certificate_stale{labels} 0\n" in metrics
    stale = f'ktcpvs_certificate_stale{{file="{site.live}/fullchain.pem",name="{NAME}",kind="ECDSA",use="certificate"}}'
    assert f"{stale} 1\n" in metrics
    assert warning in status(daemon, f"{base}/api/v1/status")
    daemon.wait_for_log(warning)
    assert "PRIVATE" not in metrics + status(daemon, f"{base}/api/v1/status") + str(rows)


def test_checking_a_file_without_a_daemon(tmp_path: Path) -> None:
    from .harness import tcpvsadm

    def check(*lines: str) -> tuple[int, str]:
        config = tmp_path / "site.conf"
        text = ["Virtual s {", "listen = 127.0.0.1:443 tls", *lines, "server = 10.0.0.1:80", "}", ""]
        config.write_text("\n".join(text))
        done = tcpvsadm("--check", config)
        return done.returncode, done.stderr

    good = authority().daemon("good", NAME)
    assert check(f"certificate = {good}") == (0, "")
    missing = tmp_path / "missing.pem"
    said = f"tcpvsadm: warning: service s: {missing}: No such file or directory; this file is not checked\n"
    assert check(f"certificate = {missing}", f"certificate = {good}") == (0, said)
    missing.write_text("no certificate")
    why = f"tcpvsadm: check: service s: {missing}: no private key in PEM, or an unreadable one\n"
    assert check(f"certificate = {good}", f"certificate = {missing}") == (1, why)
    status, said = check(f"certificate = {good}", "tls_ciphers = NOTHING")
    assert (status, "names no cipher" in said) == (1, True)


# Sessions.


needs_tickets = pytest.mark.skipif(bool(tls_tickets.unavailable()), reason=tls_tickets.unavailable())


@needs_tickets
@VERSIONS
def test_sessions_are_resumed_by_all_workers(daemon: Daemon, port: int, workers: int, version: ssl.TLSVersion) -> None:
    context = client_context(authority(), version)
    session = handshake(port, context, NAME).session
    with contextlib.ExitStack() as stack:
        found: list[Handshake] = []

        def used() -> set[int]:
            client = stack.enter_context(connect(port, context, NAME, session))
            found.append(ask(client))
            return {one.get("worker", 0) for one in daemon.connections()}

        wait_for(lambda: len(used()) == max(workers, 1) and len(found) > 5, timeout=TIMEOUT)
        assert all(one.is_resumed for one in found)


@needs_tickets
@VERSIONS
def test_sessions_outlive_an_upgrade_but_no_restart(
    make_daemon: Make, serve: Serve, site: Site, tmp_path: Path, workers: int, version: ssl.TLSVersion
) -> None:
    state, port = tmp_path / "state", free_port()
    old = make_daemon("--state", state, workers=workers)
    old.start()
    old.service("s", f"{LOOPBACK}:{port} tls", serve(echo).address, certificate=str(site.live))
    context = client_context(authority(), version)
    session = handshake(port, context, NAME).session
    new = taken_over(make_daemon, old, "--state", state, workers=2 - workers)
    for _ in range(4):
        assert handshake(port, context, NAME, session).is_resumed
    assert old.wait() == 0
    new.kill()
    fresh = make_daemon("--state", state, workers=workers)
    fresh.start()
    fresh.wait_until_workers_serve(workers)
    assert not handshake(port, context, NAME, session).is_resumed


@needs_tickets
@VERSIONS
def test_sessions_never_go_to_a_service_that_demands_more(
    daemon: Daemon, port: int, site: Site, serve: Serve, version: ssl.TLSVersion
) -> None:
    other, strict = free_port(), free_port()
    daemon.service("other", f"{LOOPBACK}:{other} tls", serve(echo).address, certificate=str(site.live))
    daemon.service(
        "strict", f"{LOOPBACK}:{strict} tls", serve(echo).address, certificate=str(site.live),
        client_ca=str(authority().pem), client_certificate="required",
    )  # fmt: skip
    context = client_context(authority(), version)
    session = handshake(port, context, NAME).session
    assert handshake(port, context, NAME, session).is_resumed
    assert not handshake(other, context, NAME, session).is_resumed
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(strict, context, NAME, session)
    context.load_cert_chain(authority().issue("alice"))
    mutual = handshake(strict, context, NAME)
    again = handshake(strict, context, NAME, mutual.session)
    assert (mutual.is_resumed, again.is_resumed) == (False, True)
    # The same service demands more of its clients from now on.
    plain = client_context(authority(), version)
    session = handshake(port, plain, NAME).session
    daemon.call("edit_service", "s", client_ca=str(authority().pem), client_certificate="required")
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(port, plain, NAME, session)


def test_a_takeover_keeps_what_the_old_daemon_has_read(make_daemon: Make, serve: Serve, site: Site) -> None:
    daemon, port = make_daemon(), free_port()
    daemon.start()
    daemon.service("s", f"{LOOPBACK}:{port} tls", serve(echo).address, certificate=str(site.live))
    before, kept = serial(port), site.live.rename(site.live.with_name("kept"))
    for _ in range(2):  # the second one gets what the first has got
        new = taken_over(make_daemon, daemon)
        assert daemon.wait() == 0
        daemon = new
        assert serial(port) == before
        why = f"service s: {site.live}: No such file or directory; what the daemon before has read stays in use"
        assert why in daemon.log()
    assert f"{site.live}: No such file or directory" in daemon.adm("--certificates").stdout
    kept.rename(site.live)
    after = site.renew()
    daemon.adm("--reload-certificates")
    wait_for(lambda: serial(port) == after, timeout=TIMEOUT)


@pytest.mark.load
def test_takeovers_under_load(
    make_daemon: Make, serve: Serve, site: Site, tmp_path: Path, stack: contextlib.ExitStack, workers: int
) -> None:
    state, port = tmp_path / "state", free_port()
    daemon = make_daemon("--state", state, workers=workers)
    daemon.start()
    daemon.set(drain_timeout=3600)  # the connection that is kept stays with the first daemon
    daemon.service("s", f"{LOOPBACK}:{port} tls", serve(echo).address, certificate=str(site.live))
    load = TLSLoad(port, authority(), NAME, clients=2)
    stack.callback(load.stop)
    made = set()
    old = []
    for _ in range(3):
        new = taken_over(make_daemon, daemon, "--state", state, workers=workers)
        old.append(daemon)
        daemon = new
        made.add(site.renew())
        daemon.call("reload_certificates")
        before = load.done  # whatever was counted so far may have the certificate of before
        wait_for(lambda before=before: load.done > before + 12, timeout=TIMEOUT)
    load.stop()
    assert load.failures == []
    assert made <= load.serials
    for one in old:
        assert one.wait() == 0
