"""TLS that ends at the switch, with the clients that people use: certificates by name, versions, sessions, client
certificates."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from authority import CLIENT, SERVER, Authority
from servers import LOOPBACK, Nginx, dial, free_port, read_all
from tls_clients import CLIENTS, ClientFailed, Target, chromium, curl

from .harness import Daemon, SharedDaemons

pytestmark = pytest.mark.e2e

SHOP, BLOG = "shop.example", "a.blog.example"
BULK = random.Random(5).randbytes(3_000_000)


class Site:
    """The daemon of this module. `web` ends TLS for two names; the others differ in what they want of clients.

    ports: service -> port.
    """

    def __init__(self, daemon: Daemon, folder: Path, server: str) -> None:
        self.daemon = daemon
        self.server = server
        self.authority = Authority(folder)
        self.other = Authority(folder, "other")
        self.certificates = {
            SHOP: self.authority.issue(SHOP, SHOP, purposes=(SERVER,)),
            BLOG: self.authority.issue("blog", "*.blog.example", purposes=(SERVER,)),
        }
        self.rsa = self.authority.issue("shop-rsa", SHOP, purposes=(SERVER,), kind="RSA")
        self.shown = {
            "none": None,
            "good": self.authority.issue("alice", purposes=(CLIENT,)),
            "expired": self.authority.issue("late", purposes=(CLIENT,), begins=-20, ends=-10),
            "other CA": self.other.issue("mallory", purposes=(CLIENT,)),
        }
        self.ports: dict[str, int] = {}
        self.serve("web")
        for wanted in ("optional", "required"):
            self.serve(wanted, client_ca=str(self.authority.pem), client_certificate=wanted)

    def serve(self, ident: str, **options: Any) -> None:
        port = self.ports[ident] = free_port()
        certificates = [str(path) for path in (*self.certificates.values(), self.rsa)]
        options |= {"scheduler": "phttp", "certificate": certificates}
        self.daemon.service(ident, f"{LOOPBACK}:{port} tls", self.server, **options)

    def target(self, service: str, name: str, path: str = "/", shown: str = "none") -> Target:
        return Target(self.ports[service], name, self.authority.pem, self.shown[shown], path)

    def context(self, version: ssl.TLSVersion | None = None, shown: str = "none") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.pem)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if (own := self.shown[shown]) is not None:
            context.load_cert_chain(own)
        return context


@pytest.fixture(scope="module")
def site(shared_daemons: SharedDaemons, tmp_path_factory: pytest.TempPathFactory, web: list[Nginx]) -> Iterator[Site]:
    (web[0].folder / "www/files/tls-bulk").write_bytes(BULK)
    with shared_daemons.borrow("uvloop", 0) as daemon:
        yield Site(daemon, tmp_path_factory.mktemp("site"), web[0].address)


# Clients.


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", [SHOP, BLOG])
def test_a_client_gets_the_certificate_of_the_name_that_it_asks_for(site: Site, client: str, name: str) -> None:
    body = CLIENTS[client](site.target("web", name, "/hello"))
    assert body.startswith(b"r1 ")
    assert body.endswith(b" GET /hello\n")


@pytest.mark.programs
def test_chromium_is_served(site: Site) -> None:
    certificate = site.certificates[BLOG]
    assert chromium(site.target("web", BLOG, "/hello"), certificate).endswith(b" GET /hello\n")


@pytest.mark.load
@pytest.mark.parametrize("client", ["curl", "gnutls", "openssl TLS 1.2", "node", "requests"])
def test_bulk_comes_whole(site: Site, client: str) -> None:
    body = CLIENTS[client](site.target("web", SHOP, "/files/tls-bulk"))
    assert hashlib.sha256(body).hexdigest() == hashlib.sha256(BULK).hexdigest()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_name_that_no_certificate_has_is_refused(site: Site, client: str) -> None:
    alert = "A TLS fatal alert has been received" if client == "gnutls" else r"(?i)unrecognized[ _]name"
    with pytest.raises(ClientFailed, match=alert):
        CLIENTS[client](site.target("web", "unknown.example"))


@pytest.mark.parametrize("kind", ["RSA", "ECDSA"])
def test_a_client_gets_the_kind_of_certificate_that_it_can_use(site: Site, kind: str) -> None:
    context = site.context(ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
    with connected(site, "web", context) as tls:
        cipher = tls.cipher()
        assert cipher is not None
        assert kind in cipher[0]


def test_old_versions_are_refused(site: Site) -> None:
    with pytest.raises(ClientFailed, match=r"(?i)version"):
        curl(site.target("web", SHOP), "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0")


def test_curl_learns_by_alpn_that_this_is_http_1(site: Site) -> None:
    context = site.context()
    context.set_alpn_protocols(["http/1.1"])
    with connected(site, "web", context) as tls:
        assert tls.selected_alpn_protocol() == "http/1.1"


# Client certificates.


@contextlib.contextmanager
def connected(
    site: Site, service: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Iterator[ssl.SSLSocket]:
    with (
        dial((LOOPBACK, site.ports[service])) as raw,
        context.wrap_socket(raw, server_hostname=SHOP, session=session) as tls,
    ):
        yield tls


@frozen
class Outcome:
    """is_served: a response has come. is_resumed: by a session of before. session: for the next connection. alert: why
    it was refused; "" where it was not."""

    is_served: bool
    is_resumed: bool = False
    session: ssl.SSLSession | None = None
    alert: str = ""


def ask(site: Site, service: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Outcome:
    """Connect and send a request. With TLS 1.3 a client learns only then that its certificate is refused."""
    try:
        with connected(site, service, context, session) as tls:
            tls.sendall(b"GET /hello HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
            said = read_all(tls)
            assert said.startswith(b"HTTP/1.1 200 "), said
            return Outcome(True, bool(tls.session_reused), tls.session)
    except ssl.SSLError as error:
        return Outcome(False, alert=str(error.reason))


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
SERVED = {
    "web": ("none", "good", "expired", "other CA"),
    "optional": ("none", "good"),
    "required": ("good",),
}
"""Service -> the certificates with which it serves; `web` asks for none."""

ALERTS = {
    "none": r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE",
    "expired": r"CERTIFICATE_EXPIRED",
    "other CA": r"UNKNOWN_CA",
}


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("shown", ["none", "good", "expired", "other CA"])
@pytest.mark.parametrize("service", SERVED)
def test_client_certificates(site: Site, service: str, shown: str, version: ssl.TLSVersion) -> None:
    """And a session that is resumed is served like the one before."""
    context = site.context(version, shown)
    first = ask(site, service, context)
    assert first.is_served == (shown in SERVED[service]), first
    assert not first.is_resumed
    if first.is_served:
        again = ask(site, service, context, first.session)
        assert (again.is_served, again.is_resumed) == (True, True)
    else:
        assert re.search(ALERTS[shown], first.alert), first


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize(("of", "shown"), [("web", "none"), ("optional", "none"), ("optional", "good")])
def test_a_session_of_another_service_opens_nothing(site: Site, of: str, shown: str, version: ssl.TLSVersion) -> None:
    context = site.context(version, shown)
    first = ask(site, of, context)
    assert first.is_served
    found = ask(site, "required", context, first.session)
    assert (found.is_served, found.is_resumed) == (shown == "good", False)


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_show_their_certificates(site: Site, client: str) -> None:
    assert CLIENTS[client](site.target("required", SHOP, "/hello", "good")).endswith(b" GET /hello\n")
    for shown in ("none", "other CA"):
        with pytest.raises(ClientFailed):
            CLIENTS[client](site.target("required", SHOP, "/hello", shown))
