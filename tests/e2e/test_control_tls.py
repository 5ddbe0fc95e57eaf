"""Control over TLS: administrators with certificates, and unauthenticated clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, SocketServer, answers, dial, echo, free_port, read_exactly, reset, sink, wait_for
from twisted.protocols import amp
from twisted.python.usage import UsageError

from ktcpvs.control.client import NotTrusted, connect
from ktcpvs.tap import Options
from tests.authority import Authority

from .harness import ROOT, ControlThread, Daemon, tcpvsadm
from .test_service_manager import Manager

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]


class Site:
    """A CA for daemons and administrators, and a port. alice: the certificate that `adm` and `ask` use."""

    def __init__(self, folder: Path, thread: ControlThread) -> None:
        self.folder = folder
        self.ca = Authority(folder)
        self.cert, self.alice = self.ca.daemon(), self.ca.issue("alice")
        self.port = free_port()
        self._thread = thread

    @property
    def listens(self) -> str:
        """The daemon's --control."""
        return f"tls:{self.port}:interface={LOOPBACK}:cert={self.cert}:ca={self.ca.pem}"

    def place(
        self, cert: Path | None = None, host: str = LOOPBACK, ca: Path | None = None, port: int | None = None
    ) -> str:
        """The --control of an administrator."""
        return f"tls:{host}:{port or self.port}:cert={cert or self.alice}:ca={ca or self.ca.pem}"

    def adm(self, *arguments: str, tls: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run tcpvsadm; the environment has its --control. tls: it has the extra `tls` installed."""
        return tcpvsadm(*arguments, tls=tls, **{"KTCPVS_CONTROL": self.place(), **environ})

    def ask(self, **place: Any) -> list[str]:
        """List the services. Raises NoAnswer."""

        async def asked() -> list[str]:
            switch = await connect(self._thread.reactor, self.place(**place))
            try:
                return [service["ident"] for service in (await switch.table())["services"]]
            finally:
                switch.close()

        found: list[str] = self._thread.run(asked)
        return found

    def wrong(self, **place: Any) -> str:
        """Return why the connection fails."""
        with pytest.raises(NotTrusted) as refused:
            self.ask(**place)
        said = str(refused.value)
        where = str(self.place(**place)).partition(":cert=")[0]
        assert said.startswith(f"the daemon at {where}: ")
        assert "\n" not in said
        return said.removeprefix(f"the daemon at {where}: ")


@pytest.fixture
def site(tmp_path: Path, control_thread: ControlThread) -> Site:
    return Site(tmp_path, control_thread)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_administrator_with_a_certificate_may_administer(make_daemon: Make, site: Site, workers: int) -> None:
    daemon = make_daemon("--control", site.listens, workers=workers, tls=True)
    daemon.start()
    daemon.set(debug_level=3)
    assert site.adm("--wait-ready", "20").returncode == 0
    assert site.adm("-A", "-i", "web", "-P", "8080").returncode == 0
    place = site.place(host="localhost")
    listed = site.adm("--list", "--json", "--control", place, KTCPVS_CONTROL="unix:/nowhere")
    assert '"ident": "web"' in listed.stdout
    assert [service["ident"] for service in daemon.call("table")["services"]] == ["web"]
    log = daemon.log()
    assert f"control at {daemon.control}, tls:{LOOPBACK}:{site.port}\n" in log
    for line in (r"administrator connected: alice from 127.0.0.1:", "alice from 127.0.0.1:"):
        assert line in log
    assert " asks for add-service\n" in log
    (edit,) = [line for line in log.splitlines() if "tcpvsadm --add-service" in line]
    assert re.search(r" alice from 127\.0\.0\.1:[0-9]+: tcpvsadm --add-service --ident web port=8080$", edit)
    refused = site.adm("-D", "-i", "nope")
    assert (refused.returncode, refused.stderr) == (1, "tcpvsadm: delete-service nope: no service nope\n")
    daemon.wait_for_log("refused to alice from 127.0.0.1:")
    for newest in ("TLSv1_3", "TLSv1_2"):
        context = strict_context(site.ca.pem)
        context.load_cert_chain(site.alice)
        context.maximum_version = ssl.TLSVersion[newest]
        with dial((LOOPBACK, site.port)) as sock, context.wrap_socket(sock, server_hostname="localhost") as over:
            assert over.version() == newest.replace("_", ".")


def test_errors_of_a_connection_name_the_cause(
    make_daemon: Make, site: Site, serve: Callable[..., SocketServer], control_thread: ControlThread
) -> None:
    daemon = make_daemon("--control", site.listens, tls=True)
    daemon.start()
    for name in ("other", "old"):
        (site.folder / name).mkdir()
    other = Authority(site.folder / "other", "other")
    refused = "it refuses our certificate, cert="
    assert site.wrong(ca=other.pem) == (
        f"its certificate is signed by ca, which is not trusted by ca={other.pem}: set ca= to the CA of the daemon's "
        "certificate"
    )
    for cert, why in (
        (other.issue("mallory"), "the daemon's ca= has not signed it"),
        (site.ca.issue("past", ends=-1, begins=-9), "it has expired; get a new one"),
        (site.ca.issue("future", begins=1), "it may not be valid yet; compare the clocks"),
        (site.ca.daemon("lb2"), "it is not for this purpose: its extendedKeyUsage must contain clientAuth"),
    ):
        said = site.wrong(cert=cert)
        assert said.startswith(f"{refused}{cert} (")
        assert said.endswith(f"): {why}")
    assert site.ask() == []

    # The daemon's own certificate, which is read again each time.
    def shows(cert: Path) -> None:
        before = daemon.log().count("uses the certificate of")
        site.cert.write_bytes(cert.read_bytes())
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: daemon.log().count("uses the certificate of") > before)

    shows(site.ca.daemon("lb3", "lb3.example", "192.0.2.1"))
    assert site.wrong() == (
        "its certificate, of lb3, is for lb3.example, 192.0.2.1 and not for 127.0.0.1: connect to one of "
        "its names, or give the daemon a certificate with 127.0.0.1 in its subjectAltName"
    )
    assert "and not for localhost: " in site.wrong(host="localhost")
    shows(site.ca.issue("lb4", purposes=()))
    assert "is for no name at all and not for 127.0.0.1" in site.wrong()
    shows(site.ca.daemon("lb5", ends=-1, begins=-9))
    assert site.wrong().startswith("the certificate of lb5 expired on 20")
    daemon.wait_for_log("the certificate of lb5 expired on 20")
    daemon.wait_for_log("UTC, so clients will not trust it")
    shows(site.alice)
    assert (
        site.wrong()
        == "the certificate of alice is not for this purpose: its extendedKeyUsage must be that of the other side"
    )

    # As tcpvsadm says it.
    said = site.adm("--list")
    assert (said.returncode, said.stdout) == (3, "")
    assert said.stderr == f"tcpvsadm: the daemon at tls:{LOOPBACK}:{site.port}: {site.wrong()}\n"
    missing = site.adm("--list", "--control", site.place(cert=site.folder / "nope"))
    assert (missing.returncode, missing.stderr) == (
        1,
        f"tcpvsadm: list: cert={site.folder}/nope: No such file or directory\n",
    )
    without = site.adm("--list", tls=False)
    assert (without.returncode, without.stderr) == (
        1,
        "tcpvsadm: list: control over tls: OpenSSL is not installed; try: pip install 'ktcpvs[tls]'\n",
    )

    # Others than such a daemon.
    site.port = free_port()
    nobody = site.adm("--list")
    why = "(Connection refused): start it with 'ktcpvs', or give its address with --control"
    assert nobody.stderr == f"tcpvsadm: no daemon answers at tls:{LOOPBACK}:{site.port} {why}\n"
    assert nobody.returncode == 3
    waited = site.adm("--wait-ready", "1")
    assert waited.returncode == 3
    assert (
        waited.stderr
        == f"tcpvsadm: no daemon answers at tls:{LOOPBACK}:{site.port} {why.replace(':', ' after 1 s:')}\n"
    )
    plain = make_daemon(control=f"tcp:{site.port}:interface={LOOPBACK}")
    plain.start()
    assert site.wrong() == "it closed the connection in the TLS handshake: it may not speak TLS; otherwise see its log"
    plain.may_log_tracebacks = True

    with pytest.raises(NotTrusted, match=r"the TLS handshake was not done within 0 s: does it speak TLS\?"):
        control_thread.run(connect, control_thread.reactor, site.place(port=serve(sink).port), 0.2)

    def http(client: socket.socket) -> None:
        client.recv(1000)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    site.port = serve(http).port
    assert site.wrong().startswith("it does not speak TLS correctly (")


def test_a_daemon_with_a_wrong_control_is_refused(make_daemon: Make, site: Site) -> None:
    def said(control: str, **named: Any) -> str:
        return make_daemon(control=control, **named).refused()

    cert = site.cert
    where = f"ktcpvs: control tls:{LOOPBACK}:{site.port}: "
    assert said(site.listens) == "ktcpvs: control over tls: OpenSSL is not installed; try: pip install 'ktcpvs[tls]'"
    site.cert = site.folder / "nope"
    assert said(site.listens, tls=True) == f"{where}cert={site.cert}: No such file or directory"
    site.cert = cert
    with socket.socket() as taken:
        taken.bind((LOOPBACK, site.port))
        taken.listen()
        refused = said(site.listens, tls=True)
        assert refused.startswith(f"{where}cannot listen on {LOOPBACK}:{site.port}: another program, ")
        assert refused.endswith(f", listens there already (process {os.getpid()})")
    for places, why in (
        (["unix:/x", "unix:/y"], "--control names two unix sockets: at most one may be unix:/PATH"),
        ([site.listens, site.listens], f"--control names tls:{LOOPBACK}:{site.port} twice"),
    ):
        with pytest.raises(UsageError, match=why):
            Options().parseOptions([f"--control={place}" for place in places])  # type: ignore[no-untyped-call]


def strict_context(ca: Path) -> ssl.SSLContext:
    """A client's context as Python makes it from 3.13 on: it enforces RFC 5280."""
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def test_the_commands_in_the_documentation_make_certificates_that_work(
    make_daemon: Make, site: Site, tmp_path: Path
) -> None:
    """It runs the commands of docs/security.md."""
    text = (ROOT / "docs/security.md").read_text()
    (recipe,) = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    subprocess.run(["sh", "-ec", recipe], cwd=tmp_path, check=True, capture_output=True)
    files = f"cert={tmp_path}/lb1.pem:key={tmp_path}/lb1.key:ca={tmp_path}/ca.pem"
    daemon = make_daemon("--control", f"tls:{site.port}:interface=0.0.0.0:{files}", tls=True)
    daemon.start()
    context = strict_context(tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "alice.pem", tmp_path / "alice.key")
    with dial((LOOPBACK, site.port)) as sock, context.wrap_socket(sock, server_hostname="lb1.example.org") as over:
        over.sendall(amp.AmpBox({amp.COMMAND: b"Flush", amp.ASK: b"1"}).serialize())
        assert amp.parseString(over.recv(1000)) == [{amp.ANSWER: b"1"}]
    told = site.adm("--list", "--control", f"tls:{LOOPBACK}:{site.port}:{files.replace('lb1.', 'alice.')}")
    assert told.stderr.endswith(
        "its certificate, of lb1, is for lb1.example.org, 192.0.2.10 and not for 127.0.0.1: connect to one of "
        "its names, or give the daemon a certificate with 127.0.0.1 in its subjectAltName\n"
    )


def test_sighup_reloads_certificates(make_daemon: Make, site: Site) -> None:
    daemon = make_daemon(control=site.listens, tls=True)
    daemon.run()
    daemon.wait_for_log("control at tls:")
    assert site.ask() == []
    (site.folder / "new").mkdir()
    new = Authority(site.folder / "new", "new")
    site.cert.write_text("no certificate")
    daemon.signal(signal.SIGHUP)
    kept = "the certificates that were loaded before stay in use"
    why = f"cert={site.cert}: no certificate in PEM, or an unreadable one; {kept}"
    daemon.wait_for_log(f"SIGHUP: control tls:{LOOPBACK}:{site.port}: {why}\n")
    assert site.ask() == []
    site.cert.unlink()
    os.mkfifo(site.cert)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"cert={site.cert}: not a regular file; {kept}\n")
    assert site.ask() == []
    site.cert.unlink()
    site.cert.write_bytes(new.daemon().read_bytes())
    site.ca.pem.write_bytes(new.pem.read_bytes())
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log(f"SIGHUP: control tls:{LOOPBACK}:{site.port} uses the certificate of lb1, until 20")
    assert site.ask(cert=new.issue("carol")) == []
    assert "the daemon's ca= has not signed it" in site.wrong()
    assert "there is no --config" not in daemon.log()
    # Beside no unix socket there is no takeover.
    daemon.signal(signal.SIGUSR2)
    daemon.wait_for_log("upgrades need a Unix control socket")


# Unauthenticated clients.


def storm(port: int, count: int, held: list[socket.socket]) -> None:
    """Open `count` connections of five kinds without a certificate; those that stay open go to `held`."""
    for number in range(count):
        kind = number % 5
        with contextlib.suppress(OSError):
            sock = dial((LOOPBACK, port))
            if kind == 0:
                reset(sock)
                continue
            if kind == 1:
                sock.sendall(os.urandom(2000))
            elif kind == 2:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            elif kind == 3:  # a handshake that goes no further
                sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100))
            held.append(sock)  # the others say nothing at all


def test_a_thousand_unauthenticated_clients_keep_no_administrator_out(
    make_daemon: Make, site: Site, serve: Callable[..., SocketServer], stack: contextlib.ExitStack
) -> None:
    daemon = make_daemon("--control", site.listens, tls=True)
    daemon.start()
    daemon.set(control_handshake_timeout=1)
    port = free_port()
    daemon.service("s", port, serve(echo).address)
    assert site.ask() == ["s"]
    storm(site.port, 300, warm := [])
    for sock in warm:
        sock.close()
    ended, served, failed = threading.Event(), [0], list[BaseException]()

    def client() -> None:
        try:
            while not ended.is_set():
                with dial((LOOPBACK, port)) as sock:
                    for _ in range(20):
                        sock.sendall(b"ping")
                        assert read_exactly(sock, 4) == b"ping"
                        served[0] += 1
        except BaseException as error:
            failed.append(error)

    def quiet() -> int:
        wait_for(lambda: not [one for one in daemon.connections() if one["state"] != "relaying"])
        return daemon.descriptors()

    daemon.wait_for_log("more since the last such line")
    before, memory, lines = quiet(), daemon.memory(), daemon.log().count("\n")
    began = time.monotonic()
    thread = threading.Thread(target=client)
    thread.start()
    held: list[socket.socket] = []
    stack.callback(lambda: [sock.close() for sock in held])
    asked = 0
    while len(held) < 800:  # a fifth is not held
        storm(site.port, 50, held)
        assert site.ask() == ["s"], "an administrator gets in all the while"
        asked += 1
    ended.set()
    thread.join()
    assert not failed
    assert asked >= 20
    assert served[0] > asked
    for sock in held:
        sock.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass
        sock.close()
    wait_for(lambda: daemon.descriptors() <= before)
    assert daemon.memory() < memory + (8 << 20)
    lines = daemon.log().count("\n") - lines
    assert lines < max(40, 4 * (time.monotonic() - began)), "each kind of line is logged once a second"
    assert site.ask() == ["s"]


# Takeover and inherited sockets.


def test_a_takeover_keeps_control_over_tls(make_daemon: Make, site: Site) -> None:
    old = make_daemon("--control", site.listens, tls=True)
    old.start()
    old.call("add_service", "s")
    with socket.create_server((LOOPBACK, free_port())) as other:
        busy = other.getsockname()[1]
        places = [site.listens, site.listens.replace(f"tls:{site.port}:", f"tls:{busy}:")]
        controls = [f"--control={place}" for place in places]
        new = make_daemon(*controls, "--takeover", old.control, control=old.control, tls=True)
        new.run()
        assert old.wait() == 0
        wait_for(lambda: answers(site.port))
        assert site.ask() == ["s"]
        new.wait_for_log(f"control tls:{LOOPBACK}:{busy}: cannot listen on {LOOPBACK}:{busy}: another ")
        new.wait_for_log(" listens there already (process ")
    wait_for(lambda: answers(busy))
    assert site.ask(port=busy) == ["s"]
    assert [service["ident"] for service in new.call("table")["services"]] == ["s"]


def test_an_inherited_socket_stays_open_for_the_next_daemon(make_daemon: Make, site: Site, tmp_path: Path) -> None:
    """The next daemon may be a restarted one, or one that takes over."""
    manager = Manager(tmp_path, (LOOPBACK, site.port))
    try:
        daemon = make_daemon("--control", site.listens, tls=True)
        manager.hand_in(daemon)
        daemon.start()
        assert site.ask() == []
        daemon.restart()
        new = make_daemon("--control", site.listens, "--takeover", daemon.control, control=daemon.control, tls=True)
        new.run()
        assert daemon.wait() == 0
        assert site.ask() == []
        new.kill()
        assert answers(site.port)
    finally:
        manager.close()
