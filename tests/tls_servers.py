"""Real servers that speak TLS or read the PROXY protocol: nginx, HAProxy, openssl, and small ones in threads."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from authority import SERVER, Authority
from servers import LOOPBACK, NGINX_START, Program, answers, free_port, read_head, reset
from tls_peers import TLSPeer, authority

NAME = "app.internal"
"""A name that is in the certificate of good servers, beside localhost and the loopback address."""

SAYS = (
    '"{kind} $connection $ssl_session_reused $ssl_protocol '
    '$ssl_server_name $ssl_client_s_dn $proxy_protocol_addr:$proxy_protocol_port $request_uri\\n"'
)


class TLSNginx(Program):
    """One nginx with a port for each kind of server.

    Each response is a line: kind, number of the connection, `r` for a resumed session or else `.`, version of TLS, SNI,
    the subject of the client's certificate, the address from the PROXY header, the target; empty where there is none.
    """

    SERVERS = {
        "good": ("ssl", "good", ""),
        "expired": ("ssl", "expired", ""),
        "elsewhere": ("ssl", "elsewhere", ""),
        "stranger": ("ssl", "stranger", ""),
        "old": ("ssl", "good", ""),
        "mutual": ("ssl", "good", "ssl_verify_client on; ssl_client_certificate {ca};"),
        "plain": ("", "", ""),
        "told": ("proxy_protocol", "", ""),
        "told-tls": ("ssl proxy_protocol", "good", ""),
    }
    """kind -> words of `listen`, the certificate, further lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "www/files").mkdir(parents=True)
        self.ports = {kind: free_port() for kind in self.SERVERS}
        strangers = Authority(authority().folder, "strangers-of-servers")
        names = ("localhost", LOOPBACK, NAME)
        self.files = {
            "good": authority().issue("good", *names, purposes=(SERVER,)),
            "expired": authority().issue("expired", *names, purposes=(SERVER,), begins=-9, ends=-2),
            "elsewhere": authority().issue("elsewhere", "other.example", purposes=(SERVER,)),
            "stranger": strangers.issue("stranger", *names, purposes=(SERVER,)),
        }
        (folder / "nginx.conf").write_text(self._configuration())
        arguments = ["-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        super().__init__("nginx", arguments, folder)
        self.wait_until(lambda: all(answers(port) for port in self.ports.values()))

    def _configuration(self) -> str:
        user = "user root;" if os.getuid() == 0 else ""
        blocks = [NGINX_START.format(folder=self.folder, user=user)]
        for kind, (words, certificate, more) in self.SERVERS.items():
            file = self.files.get(certificate)
            versions = "TLSv1.2" if kind == "old" else "TLSv1.2 TLSv1.3"
            keys = f"ssl_certificate {file}; ssl_certificate_key {file}; ssl_protocols {versions};" if file else ""
            blocks.append(
                f"server {{ listen {LOOPBACK}:{self.ports[kind]} {words}; {keys} {more.format(ca=authority().pem)} "
                f"location / {{ return 200 {SAYS.format(kind=kind)}; }} location /files/ {{ }} }}"
            )
        return "\n".join(blocks) + "\n}\n"

    def address(self, kind: str) -> str:
        return f"{LOOPBACK}:{self.ports[kind]}"


HAPROXY = """
global
    maxconn 200
defaults
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend told
    bind {told} accept-proxy
    http-request return status 200 content-type text/plain lf-string {of_told}
frontend told_tls
    bind {told_tls} accept-proxy ssl crt {certificate}
    http-request return status 200 content-type text/plain lf-string {of_told_tls}
"""
OF_TOLD = '"%[src]:%[src_port] %[dst] %[fc_pp_unique_id,length]"'
OF_TOLD_TLS = '"%[src]:%[src_port] %[fc_pp_authority] %[ssl_fc_sni]"'


class ToldHAProxy(Program):
    """HAProxy, which demands a PROXY header at both of its addresses and responds with what it has read.

    told: the client's address, the one that it has called, and the length of the unique ID. told_tls: by TLS; the
    client's address, the authority, and the server name of TLS.
    """

    def __init__(self, folder: Path) -> None:
        self.told, self.told_tls = (f"{LOOPBACK}:{free_port()}" for _ in range(2))
        certificate = authority().issue("haproxy", "localhost", LOOPBACK, NAME, purposes=(SERVER,))
        places = {"told": self.told, "told_tls": self.told_tls, "certificate": certificate}
        path = folder / "haproxy.cfg"
        path.write_text(HAPROXY.format(**places, of_told=OF_TOLD, of_told_tls=OF_TOLD_TLS))
        super().__init__("haproxy", ["-db", "-f", str(path)], folder)
        ports = [int(address.rpartition(":")[2]) for address in (self.told, self.told_tls)]
        self.wait_until(lambda: all(answers(port) for port in ports))


class OpenSSL(Program):
    """`openssl s_server`, which responds to a GET with a page about the connection, and closes it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        certificate = str(authority().issue("s_server", "localhost", LOOPBACK, NAME, purposes=(SERVER,)))
        words = ["s_server", "-accept", self.address, "-cert", certificate, "-key", certificate, "-www", *options]
        super().__init__("openssl", words, folder)
        self.wait_until(lambda: answers(self.port))


def server_context(**wanted: Any) -> ssl.SSLContext:
    """The context of a good server. wanted: attributes to set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority().issue("threads", "localhost", LOOPBACK, NAME, purposes=(SERVER,)))
    context.load_verify_locations(authority().pem)
    for name, value in wanted.items():
        setattr(context, name, value)
    return context


def by_tls(serve: Callable[[Any], object], **wanted: Any) -> Callable[[Any], None]:
    """Return what a SocketServer calls: `serve` gets a TLSPeer. wanted: attributes of the server's context."""
    context = server_context(**wanted)

    def accept(sock: Any) -> None:
        with contextlib.suppress(ssl.SSLError, EOFError):
            serve(TLSPeer(sock, context, server_side=True))

    return accept


def respond(*pieces: bytes, notify: bool) -> Callable[[Any], None]:
    """Return a server that sends these pieces in response to one request and closes, with close_notify if `notify`."""

    def serve(peer: Any) -> None:
        read_head(peer)
        for piece in pieces:
            peer.sendall(piece)
        if notify:
            peer.notify()

    return serve


def stall(sock: Any) -> None:
    """Accept, and never answer the handshake."""
    while sock.recv(65536):
        pass


def reset_at_once(sock: Any) -> None:
    """Reset the connection at the first bytes of the handshake."""
    sock.recv(100)
    reset(sock)


def echo_websocket(peer: Any) -> None:
    """Accept an upgrade, and send back whatever comes."""
    read_head(peer)
    peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    echo_all(peer)


def echo_all(peer: Any) -> None:
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.notify()
