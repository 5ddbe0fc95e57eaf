"""HTTP/2 by prior knowledge and over TLS: curl and h2 as clients, a real server behind the switch."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from authority import Authority
from http_servers import BIG, TwistedWeb, WebServer, sha256
from servers import LOOPBACK, free_port, program, wait_for

from .harness import Daemon

pytestmark = pytest.mark.e2e


GOAWAY = 7
PING_ACK = b"\0\0\x08\x06\x01\0\0\0\0shutdown"
"""The answer to the PING behind the first of two GOAWAYs."""


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    server = TwistedWeb()
    yield server
    server.stop()


@pytest.fixture
def port(daemon: Daemon, server: WebServer) -> int:
    port = free_port()
    daemon.service("web", port, server.address, scheduler="phttp", rules=((".*", server.address),))
    return port


def curl(port: int, path: str, *arguments: str) -> bytes:
    command = [program("curl"), "-s", "-S", "--max-time", "20", "--http2-prior-knowledge", *arguments]
    done = subprocess.run([*command, f"http://{LOOPBACK}:{port}{path}"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_gets_a_file_and_sends_one(port: int, tmp_path: Path) -> None:
    assert curl(port, "/hello.txt", "-o", "/dev/null", "-w", "%{http_version} %{response_code}") == b"2 200"
    assert sha256(curl(port, "/big.bin")) == sha256(BIG)
    upload = tmp_path / "upload"
    upload.write_bytes(BIG)
    assert curl(port, "/digest", "--data-binary", f"@{upload}").decode() == sha256(BIG)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tls_port(daemon: Daemon, server: WebServer, authority: Authority) -> int:
    port = free_port()
    options = {"certificate": [str(authority.daemon("site"))]}
    daemon.call("add_service", "tls", listen=[f"{LOOPBACK}:{port} tls"], scheduler="phttp", **options)
    daemon.call("add_server", "tls", server.address)
    daemon.call("add_rule", "tls", ".*", server.address)
    daemon.call("start", "tls")
    return port


def curl_tls(authority: Authority, port: int, path: str, *arguments: str) -> bytes:
    command = [program("curl"), "-s", "-S", "--max-time", "20", "--cacert", str(authority.pem), *arguments]
    done = subprocess.run([*command, f"https://localhost:{port}{path}"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("workers", [0, 2])
def test_curl_speaks_http2_over_tls(tls_port: int, authority: Authority, tmp_path: Path) -> None:
    version = "-o", "/dev/null", "-w", "%{http_version} %{response_code}"
    assert curl_tls(authority, tls_port, "/hello.txt", "--http2", *version) == b"2 200"
    assert curl_tls(authority, tls_port, "/hello.txt", "--http1.1", *version) == b"1.1 200"
    assert sha256(curl_tls(authority, tls_port, "/big.bin", "--http2")) == sha256(BIG)
    upload = tmp_path / "upload"
    upload.write_bytes(BIG)
    digest = curl_tls(authority, tls_port, "/digest", "--http2", "--data-binary", f"@{upload}")
    assert digest.decode() == sha256(BIG)


def test_an_edit_decides_what_handshakes_offer(daemon: Daemon, tls_port: int, authority: Authority) -> None:
    version = "--http2", "-o", "/dev/null", "-w", "%{http_version}"
    for value, spoken in ("off", b"1.1"), ("on", b"2"):
        daemon.call("edit_service", "tls", http2=value)
        assert curl_tls(authority, tls_port, "/hello.txt", *version) == spoken


def test_a_client_that_has_chosen_http2_and_speaks_http1_is_refused(tls_port: int, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.pem)
    context.set_alpn_protocols(["h2"])
    with (
        contextlib.closing(socket.create_connection((LOOPBACK, tls_port), 20)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = b""
        while more := sock.recv(65536):
            said += more
    frames = []
    while said:
        size = int.from_bytes(said[:3], "big")
        frames.append((said[3], said[9 : 9 + size]))
        said = said[9 + size :]
    kind, payload = frames[-1]
    assert kind == GOAWAY
    assert payload[:8] == bytes(7) + b"\1"  # no stream was handled; PROTOCOL_ERROR


def test_http1_goes_on_beside_it(port: int) -> None:
    done = subprocess.run(
        [program("curl"), "-s", "-w", "%{http_version}", "-o", "/dev/null", f"http://{LOOPBACK}:{port}/hello.txt"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"1.1"


def test_a_connection_counts_once_whatever_its_requests(daemon: Daemon, port: int) -> None:
    curl(port, "/hello.txt")
    assert daemon.stats("web")["stats"]["total"] == 1
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    client.initiate_connection()
    with contextlib.closing(socket.create_connection((LOOPBACK, port), 20)) as sock:
        for stream_id in (1, 3):
            pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/hello.txt")]
            client.send_headers(stream_id, pairs, end_stream=True)
            sock.sendall(client.data_to_send())
            open_streams, statuses = {stream_id}, list[str]()
            while open_streams:
                _take(client, sock, open_streams, statuses)
            assert statuses == ["200"]
        stats = daemon.stats("web")
        assert (stats["stats"]["active"], stats["stats"]["total"]) == (1, 2)
        assert sum(server["stats"]["total"] for server in stats["servers"]) == 3
    wait_for(lambda: daemon.stats("web")["stats"]["active"] == 0)


def test_many_streams_of_one_connection(daemon: Daemon, port: int) -> None:
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    client.initiate_connection()
    open_streams: set[int] = set()
    statuses: list[str] = []
    with contextlib.closing(socket.create_connection((LOOPBACK, port), 20)) as sock:
        for _ in range(300):
            while len(open_streams) >= 20:
                _take(client, sock, open_streams, statuses)
            stream_id = client.get_next_available_stream_id()
            pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/hello.txt")]
            client.send_headers(stream_id, pairs, end_stream=True)
            open_streams.add(stream_id)
            sock.sendall(client.data_to_send())
        while open_streams:
            _take(client, sock, open_streams, statuses)
        assert statuses == ["200"] * 300
        daemon.adm("--stop", "-i", "web")
        said = sock.recv(65536)
        assert said[3] == GOAWAY
        sock.sendall(PING_ACK)
        while more := sock.recv(65536):
            said += more
        assert said[-17 + 3] == GOAWAY


def _take(client: Any, sock: socket.socket, open_streams: set[int], statuses: list[str]) -> list[Any]:
    """Take what has come from the switch."""
    events: list[Any] = client.receive_data(sock.recv(65536))
    for event in events:
        if isinstance(event, h2.events.ResponseReceived):
            statuses.append(dict(event.headers)[":status"])
        elif isinstance(event, h2.events.DataReceived):
            client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            open_streams.discard(event.stream_id)
    sock.sendall(client.data_to_send())
    return events
