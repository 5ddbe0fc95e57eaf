"""The PROXY protocol from HAProxy and nginx, which stand in front of the switch."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from servers import (
    LOOPBACK,
    Program,
    SocketServer,
    answers,
    dial,
    ending,
    free_port,
    read_all,
    read_exactly,
    read_head,
    wait_for,
)

from ktcpvs.protocols.proxy_protocol import ProxyHeader, ProxyHeaderReader

from .harness import Daemon
from .test_tls_listeners import fetch

pytestmark = pytest.mark.e2e

HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
listen front
    bind {bind}
    server switch {switch} {words}
"""

NGINX = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 200; }}
stream {{
    server {{
        listen {bind};
        proxy_pass {switch};
        proxy_protocol on;
        proxy_half_close on;
    }}
}}
"""

Front = Callable[..., int]
"""front(kind, switch): a proxy in front of the switch, which listens at `switch`. Returns its port."""

KINDS = ("send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn", "nginx")


@pytest.fixture
def front(tmp_path: Path, stack: contextlib.ExitStack) -> Front:
    def make(kind: str, switch: str) -> int:
        port = free_port()
        folder = tmp_path / f"{kind}-{port}"
        folder.mkdir()
        file, bind = folder / "configuration", f"{LOOPBACK}:{port}"
        if kind == "nginx":
            user = "user root;" if os.getuid() == 0 else ""
            file.write_text(NGINX.format(folder=folder, bind=bind, switch=switch, user=user))
            words = ["-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)]
        else:
            file.write_text(HAPROXY.format(bind=bind, switch=switch.replace("unix:", "unix@"), words=kind))
            words = ["-db", "-f", str(file)]
        running = Program("nginx" if kind == "nginx" else "haproxy", words, folder)
        stack.callback(running.stop)
        running.wait_until(lambda: answers(port))
        return port

    return make


@pytest.fixture
def names() -> Iterator[SocketServer]:
    """A server whose responses say what it was told of the client."""

    def answer(sock: socket.socket) -> None:
        while True:
            head = read_head(sock)
            told = b"".join(line for line in head.splitlines(True) if line.startswith(b"X-Forwarded"))
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told))

    server = SocketServer(answer)
    yield server
    server.stop()


@pytest.fixture(params=[0, 2], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def serve(daemon: Daemon, where: str, server: str, **options: Any) -> None:
    """A service `s` that trusts proxies on 127.0.0.1."""
    scheduler = options.setdefault("scheduler", "phttp")
    daemon.call("add_service", "s", listen=[where], **{"proxy_from": LOOPBACK, **options})
    daemon.call("add_server", "s", server)
    if scheduler != "wlc":
        daemon.call("add_rule", "s", ".*", server)
    daemon.call("start", "s")


def dial_from(source: str, port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), 10, (source, 0))


def refused(daemon: Daemon) -> dict[str, int]:
    preambles: dict[str, int] = daemon.stats("s")["stats"]["preambles"]
    return preambles


def ask(client: socket.socket) -> bytes:
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return read_all(client)


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_behind_a_proxy(daemon: Daemon, front: Front, names: SocketServer, kind: str) -> None:
    port = free_port()
    serve(daemon, f"{LOOPBACK}:{port}", names.address, x_forwarded_for="append", deny="127.0.0.9")
    through = front(kind, f"{LOOPBACK}:{port}")
    for source in "127.0.0.7", "127.0.0.8":
        with dial_from(source, through) as client:
            assert ask(client).endswith(b"X-Forwarded-For: %b\r\n" % source.encode())
    with dial_from("127.0.0.9", through) as client, contextlib.suppress(ConnectionResetError):
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_all(client) == b""
    stats = daemon.stats("s")["stats"]
    assert stats["denied"] >= 1
    # The check whether the proxy answers may end without a header, and be counted only now.
    assert {reason.partition(" has ")[0] for reason in refused(daemon)} <= {"PROXY: the client"}


@pytest.mark.parametrize("kind", ["send-proxy", "send-proxy-v2"])
def test_on_a_unix_socket(daemon: Daemon, front: Front, names: SocketServer, kind: str, tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/s.sock"
    serve(daemon, where, names.address, x_forwarded_for="append")
    through = front(kind, where)
    with dial_from("127.0.0.7", through) as client:
        assert ask(client).endswith(b"X-Forwarded-For: 127.0.0.7\r\n")


@pytest.mark.parametrize("kind", ["send-proxy-v2", "nginx"])
@pytest.mark.parametrize("relay", ["copy", "splice", "kernel"])
def test_whole_connections_leave_the_process(
    daemon: Daemon, front: Front, serve_echo: SocketServer, kind: str, relay: str
) -> None:
    """The header is read; what follows is relayed as of any client."""
    reason = daemon_refuses(daemon, relay)
    if reason:
        pytest.skip(reason)
    port = free_port()
    serve(daemon, f"{LOOPBACK}:{port}", serve_echo.address, scheduler="wlc", relay=relay)
    through = front(kind, f"{LOOPBACK}:{port}")
    body = bytes(range(256)) * 1000
    with dial_from("127.0.0.7", through) as client:
        client.sendall(body)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == body
    wait_for(lambda: daemon.stats("s")["stats"]["relay"]["joined"][relay] >= 1)


def daemon_refuses(daemon: Daemon, relay: str) -> str:
    """Why the daemon cannot relay so; "" if it can."""
    if relay == "copy":
        return ""
    try:
        daemon.call("add_service", "probe", listen=[f"{LOOPBACK}:{free_port()}"], scheduler="wlc", relay=relay)
    except Exception as error:
        return str(error)
    daemon.call("delete_service", "probe")
    return ""


@pytest.fixture
def serve_echo() -> Iterator[SocketServer]:
    from servers import echo

    server = SocketServer(echo)
    yield server
    server.stop()


def test_tls_behind_a_proxy(daemon: Daemon, front: Front, names: SocketServer, tmp_path: Path) -> None:
    authority, port = Authority(tmp_path), free_port()
    options = {"x_forwarded_for": "append", "x_forwarded_proto": "append", "certificate": [str(authority.daemon())]}
    serve(daemon, f"{LOOPBACK}:{port} tls", names.address, **options)
    context = ssl.create_default_context(cafile=authority.pem)
    for kind in "send-proxy", "send-proxy-v2":
        response = fetch(front(kind, f"{LOOPBACK}:{port}"), context)
        assert response.endswith(b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n")


def test_a_denied_client_behind_a_proxy_gets_no_handshake(
    daemon: Daemon, front: Front, names: SocketServer, tmp_path: Path
) -> None:
    authority, port = Authority(tmp_path), free_port()
    serve(daemon, f"{LOOPBACK}:{port} tls", names.address, certificate=[str(authority.daemon())], deny="127.0.0.9")
    through = front("send-proxy-v2", f"{LOOPBACK}:{port}")
    with dial_from("127.0.0.9", through) as client:
        assert ending(client) in ("reset", "end")  # without a byte from it; the proxy may make a FIN of the reset
    stats = daemon.stats("s")["stats"]
    assert stats["denied"] >= 1  # HAProxy may try again
    assert "TLSv1.3 full" not in stats["handshakes"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", ["wlc", "phttp"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_servers_are_told_what_the_proxy_has_told(
    daemon: Daemon, front: Front, kind: str, scheduler: str, version: str
) -> None:
    """The client's address, and the one that it has called, which is the proxy's."""
    headers: list[ProxyHeader] = []

    def note(sock: socket.socket) -> None:
        reader = ProxyHeaderReader()
        while (header := reader.feed(read_exactly(sock, 1))) is None:
            pass
        headers.append(header)
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    server = SocketServer(note)
    try:
        port = free_port()
        daemon.call("add_service", "s", listen=[f"{LOOPBACK}:{port}"], proxy_from=LOOPBACK, scheduler=scheduler)
        daemon.call("add_server", "s", server.address, options=f"proxy {version}")
        daemon.call("start", "s")
        through = front(kind, f"{LOOPBACK}:{port}")
        with dial_from("127.0.0.7", through) as client:
            own = client.getsockname()
            assert ask(client).startswith(b"HTTP/1.1 200 ")
        assert [header.destination for header in headers if header.source == own] == [(LOOPBACK, through)]
    finally:
        server.stop()


def test_violations(daemon: Daemon, names: SocketServer, stack: contextlib.ExitStack) -> None:
    """Each closes its connection and is counted; others are served meanwhile."""
    port = free_port()
    serve(daemon, f"{LOOPBACK}:{port}", names.address, proxy_from="127.0.0.2")
    daemon.set(proxy_timeout=1)

    def come(source: str, data: bytes) -> str:
        client = stack.enter_context(dial_from(source, port))
        client.sendall(data)
        return ending(client)

    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    assert come("127.0.0.2", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == "reset"
    assert come("127.0.0.2", header.replace(b"\r\n", b"\n")) == "reset"
    assert come("127.0.0.2", header[:10]) == "reset"
    assert come("127.0.0.1", header + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == "reset"
    with dial((LOOPBACK, port)) as client:
        assert ask(client).startswith(b"HTTP/1.1 200 ")
    assert refused(daemon) == {
        "PROXY: this is no PROXY header": 1,
        "PROXY: malformed header of version 1": 1,
        "PROXY: not complete within 1 seconds": 1,
        "PROXY: a header from a client outside of proxy_from": 1,
    }
