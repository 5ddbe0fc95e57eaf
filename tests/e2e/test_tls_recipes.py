"""The recipes of docs/tls.md, loaded and used: each file of docs/examples/tls with the addresses of servers here."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from authority import CLIENT, SERVER, Authority
from proxyprotocol.v2 import ProxyProtocolV2
from servers import LOOPBACK, Nginx, SocketServer, dial, free_port, read_all, read_exactly
from tls_clients import ClientFailed, Target, curl, openssl
from tls_sites import TLSNginx

from .harness import ROOT, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.programs]

EXAMPLES = ROOT / "docs/examples/tls"
SHOP = "shop.example"


class Kitchen:
    """The daemon of this module, certificates, and the recipes' files with other addresses and paths."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon = daemon
        self.folder = folder
        self.authority = Authority(folder)
        self.live = folder / "live"

    def certbot(self, name: str) -> str:
        """A certificate in a folder as certbot keeps it; the folder."""
        pem = self.authority.issue(name, name, purposes=(SERVER,)).read_text()
        folder = self.live / name
        folder.mkdir(parents=True)
        certificate, key = re.findall(r"-----BEGIN.*?-----END[^\n]*-----\n", pem, re.DOTALL)
        (folder / "fullchain.pem").write_text(certificate)
        (folder / "privkey.pem").write_text(key)
        return str(folder)

    def load(self, recipe: str, changes: dict[str, str]) -> None:
        """Check a recipe and start what it names. changes: words of the file -> what stands there instead. Nothing that
        belongs to the example may be left."""
        text = (EXAMPLES / f"{recipe}.conf").read_text()
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        assert not re.search(r"\b10\.|\[::\]|/etc/", text), text
        path = self.folder / f"{recipe}.conf"
        path.write_text(text)
        self.daemon.adm("--check", path)
        self.daemon.adm("-f", path, "--start", "--allow-empty")

    def target(self, port: int, name: str = SHOP, path: str = "/", certificate: Path | None = None) -> Target:
        return Target(port, name, self.authority.pem, certificate, path)


@pytest.fixture
def kitchen(daemon: Daemon, tmp_path: Path) -> Kitchen:
    return Kitchen(daemon, tmp_path)


Serve = Callable[..., SocketServer]


def shows_its_request(sock: socket.socket) -> None:
    """An HTTP server that responds with the head that it got, once."""
    with sock.makefile("rb") as stream:
        head = b""
        while (line := stream.readline()) not in (b"\r\n", b""):
            head += line
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(head) + head)


def test_one_site(kitchen: Kitchen, serve: Serve) -> None:
    plain, secure = free_port(), free_port()
    kitchen.load(
        "one-site",
        {
            "[::]:80": f"{LOOPBACK}:{plain}",
            "[::]:443": f"{LOOPBACK}:{secure}",
            "/etc/letsencrypt/live/shop.example": kitchen.certbot(SHOP),
            "10.0.0.11:8080": serve(shows_its_request).address,
            "10.0.0.12:8080": serve(shows_its_request).address,
        },
    )
    head = curl(kitchen.target(secure)).decode().lower()
    assert "x-forwarded-for: 127.0.0.1\r\n" in head
    assert "x-forwarded-proto: https\r\n" in head
    with dial((LOOPBACK, plain)) as client:
        client.sendall(b"GET /a?b HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
        said = read_all(client)
    assert said.startswith(b"HTTP/1.1 308 ")
    assert f"\r\nLocation: https://shop.example:{secure}/a?b\r\n".encode() in said


def test_many_names(kitchen: Kitchen, web: list[Nginx]) -> None:
    port = free_port()
    others = kitchen.folder / "others"
    others.mkdir()
    for name in ("wiki.example", "*.apps.example"):
        pem = kitchen.authority.issue(name.replace("*", "any"), name, purposes=(SERVER,))
        pem.rename(others / pem.name)
    shop, blog = (kitchen.certbot(name) for name in (SHOP, "blog.example"))
    kitchen.load(
        "many-names",
        {
            "[::]:443": f"{LOOPBACK}:{port}",
            "/etc/letsencrypt/live/shop.example": shop,
            "/etc/letsencrypt/live/blog.example": blog,
            "/etc/ktcpvs/certificates": str(others),
            "10.0.0.11:8080": web[0].address,
            "10.0.0.12:8080": web[1].address,
        },
    )
    for name in (SHOP, "blog.example", "wiki.example", "one.apps.example"):
        assert curl(kitchen.target(port, name, "/x")).endswith(b" GET /x\n")
    with pytest.raises(ClientFailed, match=f"(?i)hostname mismatch|{SHOP}"):
        openssl(kitchen.target(port, "unknown.example"))


def test_client_certificates(kitchen: Kitchen, web: list[Nginx]) -> None:
    port, name = free_port(), "internal.example"
    staff = Authority(kitchen.folder, "staff")
    kitchen.load(
        "client-certificates",
        {
            "[::]:8443": f"{LOOPBACK}:{port}",
            "/etc/ktcpvs/internal.pem": str(kitchen.authority.issue(name, name, purposes=(SERVER,))),
            "/etc/ktcpvs/staff-ca.pem": str(staff.pem),
            "10.0.0.11:8080": web[0].address,
        },
    )
    alice, mallory = staff.issue("alice", purposes=(CLIENT,)), kitchen.authority.issue("mallory", purposes=(CLIENT,))
    assert curl(kitchen.target(port, name, "/x", alice)).endswith(b" GET /x\n")
    for shown in (None, mallory):
        with pytest.raises(ClientFailed):
            curl(kitchen.target(port, name, "/x", shown))


def test_passed_through(kitchen: Kitchen) -> None:
    port = free_port()
    names = {"www.a.example": "10.0.1.1:443", "x.y.b.example": "10.0.1.2:443", "other.example": "10.0.1.3:443"}
    pems = {name: kitchen.authority.issue(name, name, purposes=(SERVER,)) for name in names}
    nginx = TLSNginx(kitchen.folder, pems)
    try:
        changes = {"[::]:443": f"{LOOPBACK}:{port}"}
        kitchen.load("passthrough", changes | {old: nginx.addresses[name] for name, old in names.items()})
        for name in names:
            assert curl(kitchen.target(port, name)) == f"{name}\n".encode()
    finally:
        nginx.stop()


def test_databases(kitchen: Kitchen, serve: Serve) -> None:
    """With servers that agree to TLS; tests/e2e/test_tls_passthrough.py has PostgreSQL itself."""
    port = free_port()

    def database(name: str) -> Callable[[socket.socket], None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(kitchen.authority.issue(name, name, purposes=(SERVER,)))

        def answer(sock: socket.socket) -> None:
            assert read_exactly(sock, 8) == bytes.fromhex("0000000804d2162f")
            sock.sendall(b"S")
            with context.wrap_socket(sock, server_side=True) as tls:
                tls.sendall(name.encode())

        return answer

    names = ("orders.db.example", "stock.db.example")
    servers = {f"10.0.2.{number}:5432": serve(database(name)).address for number, name in enumerate(names, 1)}
    kitchen.load("databases", {"[::]:5432": f"{LOOPBACK}:{port}", **servers})
    trusting = ssl.create_default_context(cafile=kitchen.authority.pem)
    for name in names:
        with dial((LOOPBACK, port)) as client:
            client.sendall(bytes.fromhex("0000000804d2162f"))
            assert read_exactly(client, 1) == b"S"
            with trusting.wrap_socket(client, server_hostname=name) as tls:
                assert tls.recv(100) == name.encode()


def test_behind_a_cdn(kitchen: Kitchen, serve: Serve) -> None:
    """The CDN is 127.0.0.1; others must not tell an address."""
    port = free_port()
    kitchen.load(
        "behind-cdn",
        {
            "[::]:443": f"{LOOPBACK}:{port}",
            "/etc/letsencrypt/live/shop.example": kitchen.certbot(SHOP),
            "10.9.0.0/16": "127.0.0.1/32",
            "10.0.0.11:8080": serve(shows_its_request).address,
        },
    )
    trusting = ssl.create_default_context(cafile=kitchen.authority.pem)
    with dial((LOOPBACK, port)) as raw:
        raw.sendall(b"PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\r\n")
        with trusting.wrap_socket(raw, server_hostname=SHOP) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
            assert b"\r\nX-Forwarded-For: 198.51.100.7\r\n" in read_all(tls)
    assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in curl(kitchen.target(port), "--haproxy-protocol")
    with pytest.raises(ClientFailed):
        curl(kitchen.target(port))
    with pytest.raises(ClientFailed):
        curl(kitchen.target(port), "--haproxy-protocol", "--interface", "127.0.0.2")
    assert b"\r\nX-Forwarded-For: 127.0.0.2\r\n" in curl(kitchen.target(port), "--interface", "127.0.0.2")


def test_proxy_to_servers(kitchen: Kitchen, serve: Serve) -> None:
    port = free_port()
    heard: list[bytes] = []

    def mail(sock: socket.socket) -> None:
        heard.append(read_exactly(sock, 16))
        heard.append(read_exactly(sock, int.from_bytes(heard[0][14:16], "big")))
        sock.sendall(b"220 mail\r\n")

    changes = {"[::]:25": f"{LOOPBACK}:{port}"}
    changes |= {f"10.0.0.{number}:25": serve(mail).address for number in (41, 42)}
    kitchen.load("proxy-to-servers", changes)
    with dial((LOOPBACK, port)) as client:
        own = client.getsockname()
        assert read_all(client) == b"220 mail\r\n"
    result = ProxyProtocolV2().unpack(b"".join(heard))
    assert (str(result.source[0]), result.source[1]) == own


def test_tls_to_servers(kitchen: Kitchen) -> None:
    port, inside = free_port(), "app.internal"
    internal = Authority(kitchen.folder, "internal")
    nginx = TLSNginx(kitchen.folder, {inside: internal.issue(inside, inside, purposes=(SERVER,))})
    try:
        kitchen.load(
            "tls-to-servers",
            {
                "[::]:443": f"{LOOPBACK}:{port}",
                "/etc/letsencrypt/live/shop.example": kitchen.certbot(SHOP),
                "/etc/ktcpvs/internal-ca.pem": str(internal.pem),
                "/etc/ktcpvs/switch.pem": str(internal.issue("switch", purposes=(CLIENT,))),
                "10.0.0.13:8443": nginx.addresses[inside],
                "10.0.0.14:8443": nginx.addresses[inside].replace(LOOPBACK, "localhost"),
            },
        )
        for _ in range(4):
            assert curl(kitchen.target(port)) == f"{inside}\n".encode()
    finally:
        nginx.stop()
