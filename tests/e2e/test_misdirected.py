"""Requests for hosts of other TLS profiles get 421 (RFC 9110, section 15.5.20), whichever version clients speak."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import CLIENT, SERVER, Authority
from servers import LOOPBACK, Nginx, dial, free_port, program, wait_for

from .harness import Daemon, SharedDaemons

pytestmark = pytest.mark.e2e

WWW, ADMIN, OTHER = "www.shop.example", "admin.shop.example", "blog.example"
TEXT = b"this connection is not for that host"


class Site:
    """`open` serves everybody, and has a certificate for every host of shop.example. `guarded` wants certificates of
    the clients of one of them, and has the same server. `twin` demands what `open` does. ports: service -> port."""

    def __init__(self, daemon: Daemon, folder: Path, server: str) -> None:
        self.daemon = daemon
        self.server = server
        self.authority = Authority(folder)
        self.alice = self.authority.issue("alice", purposes=(CLIENT,))
        self.ports: dict[str, int] = {}
        self.certificates = {
            ident: self.authority.issue(ident, *names, purposes=(SERVER,))
            for ident, names in (("open", ("*.shop.example",)), ("guarded", (ADMIN,)), ("twin", (OTHER,)))
        }
        for ident in ("open", "twin"):
            self.serve(ident)
        self.serve("guarded", client_ca=str(self.authority.pem), client_certificate="required")

    def serve(self, ident: str, **options: Any) -> None:
        port = self.ports[ident] = free_port()
        options |= {"scheduler": "phttp", "certificate": [str(self.certificates[ident])]}
        self.daemon.service(ident, f"{LOOPBACK}:{port} tls", self.server, **options)

    def curl(self, ident: str, url_host: str, *arguments: str, host: str = "") -> tuple[str, bytes]:
        """Connect to a service, ask for a host by SNI and in the request, and return version and status, and the
        body. host: the request names it instead."""
        command = [
            program("curl"), "-s", "-S", "--max-time", "20", "--cacert", str(self.authority.pem),
            "--connect-to", f"{url_host}:443:{LOOPBACK}:{self.ports[ident]}",
            "-w", "\n%{http_version} %{response_code}", *arguments,
        ]  # fmt: skip
        command += ["-H", f"Host: {host}"] if host else []
        done = subprocess.run([*command, f"https://{url_host}/hello"], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        body, _, outcome = done.stdout.rpartition(b"\n")
        return outcome.decode(), body


@pytest.fixture(scope="module")
def site(shared_daemons: SharedDaemons, tmp_path_factory: pytest.TempPathFactory, web: list[Nginx]) -> Iterator[Site]:
    with shared_daemons.borrow("uvloop", 0) as daemon:
        yield Site(daemon, tmp_path_factory.mktemp("site"), web[0].address)


VERSIONS = pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])


@VERSIONS
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("", 200),
        ("other.shop.example", 200),  # another name of the same profile
        (OTHER, 200),  # of another service, which demands the same
        ("unknown.example", 200),  # rules decide about it
        (ADMIN, 421),
        (f"{ADMIN}:443", 421),
        ("ADMIN.Shop.Example.", 421),
    ],
)
def test_a_request_for_a_host_that_another_service_guards_is_misdirected(
    site: Site, option: str, version: str, host: str, status: int
) -> None:
    outcome, body = site.curl("open", WWW, option, host=host)
    assert outcome == f"{version} {status}"
    assert (TEXT in body) == (status == 421)


@VERSIONS
def test_clients_of_the_guarded_service_are_not_served_for_others(site: Site, option: str, version: str) -> None:
    shown = "--cert", str(site.alice)
    assert site.curl("guarded", ADMIN, option, *shown)[0] == f"{version} 200"
    assert site.curl("guarded", ADMIN, option, *shown, host=WWW)[0] == f"{version} 421"


def test_a_request_with_a_body_is_misdirected_too(site: Site, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    for size in 10, 300_000:
        upload.write_bytes(bytes(size))
        for option in "--http1.1", "--http2":
            body = option, "--data-binary", f"@{upload}", "-H", "Expect:"
            assert size > 10 or site.curl("open", WWW, *body)[0].endswith(" 200")
            assert site.curl("open", WWW, *body, host=ADMIN)[0].endswith(" 421")


def test_the_connection_serves_further_requests(site: Site) -> None:
    """The plain request that has been served before is cached; one with the authority in its target is not plain."""
    context = ssl.create_default_context(cafile=site.authority.pem)
    with (
        contextlib.closing(dial((LOOPBACK, site.ports["open"]))) as raw,
        context.wrap_socket(raw, server_hostname=WWW) as tls,
    ):
        statuses = []
        for target, host in ("/a", WWW), ("/a", ADMIN), ("/a", WWW), (f"https://{ADMIN}/a", WWW), ("/a", WWW):
            tls.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += tls.recv(1)
            statuses.append(int(head[9:12]))
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            while length:
                length -= len(tls.recv(length))
    assert statuses == [200, 421, 200, 421, 200]


def test_edits_and_new_certificates_decide_which_hosts_are_foreign(site: Site) -> None:
    def status(host: str) -> str:
        return site.curl("open", WWW, "--http2", host=host)[0]

    assert (status(ADMIN), status("new.example")) == ("2 421", "2 200")
    path = site.certificates["guarded"]
    before = path.read_bytes()
    shutil.copy(site.authority.issue("new", ADMIN, "new.example", purposes=(SERVER,)), path)
    site.daemon.call("reload_certificates")
    assert (status(ADMIN), status("new.example")) == ("2 421", "2 421")
    path.write_bytes(before)
    site.daemon.call("reload_certificates")
    site.daemon.call("edit_service", "guarded", client_certificate="off", client_ca=None)
    assert status(ADMIN) == "2 200"
    site.daemon.call("edit_service", "guarded", client_certificate="optional", client_ca=str(site.authority.pem))
    assert status(ADMIN) == "2 421"
    site.daemon.call("stop", "guarded")
    assert status(ADMIN) == "2 200"
    site.daemon.call("start", "guarded")
    assert status(ADMIN) == "2 421"
    site.daemon.call("edit_service", "guarded", client_certificate="required")


def test_workers_know_them_too(shared_daemons: SharedDaemons, tmp_path: Path, web: list[Nginx]) -> None:
    with shared_daemons.borrow("uvloop", 2) as daemon:
        site = Site(daemon, tmp_path, web[0].address)
        wait_for(lambda: site.curl("open", WWW, "--http2", host=ADMIN)[0] == "2 421")
        assert site.curl("open", WWW, "--http2")[0] == "2 200"
