"""The http scheduler with real web servers: the path of the first request chooses the server of a connection.

The switch relays every byte unchanged. Where it cannot serve a request it sends a response whose body names ktcpvs.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import random
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, SocketServer, dial, digest_of_upload, free_port, program, read_all

from .harness import PROMPT, Daemon

pytestmark = pytest.mark.e2e

GET = b"GET /images/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def port(daemon: Daemon, web: list[Nginx]) -> Iterator[int]:
    """The service `web` of KTCPVS's README: images on r1, html on r2, all else on r3."""
    port = free_port()
    r1, r2, r3 = (server.address for server in web)
    rules = (("/images/.*", r1), ("/html/.*", r2), (".*", r3))
    daemon.service("web", port, r1, r2, r3, scheduler="http", rules=rules)
    yield port
    daemon.wait_until_empty()


def curl(port: int, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = [program("curl"), "-sS", "--noproxy", "*", "-m", "20", *options, f"http://{LOOPBACK}:{port}{path}"]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30)


def who(port: int, path: str = "/", *options: str) -> str:
    """Request `path` with curl; return the name of the server."""
    done = curl(port, path, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition(" ")[0]


def status(port: int, path: str = "/", *options: str) -> tuple[int, str]:
    """Request `path` with curl; return (status, body)."""
    done = curl(port, path, "-w", "\n%{http_code}", *options)
    assert done.returncode == 0, done.stderr
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body


def said(port: int, data: bytes) -> bytes:
    """Send `data` on a new connection; return all that comes back."""
    with dial((LOOPBACK, port)) as client:
        client.sendall(data)
        return read_all(client)


def test_the_path_chooses_the_server(port: int) -> None:
    for path, server in (("/images/x", "r1"), ("/html/x", "r2"), ("/other", "r3"), ("/", "r3"), ("/a?b=/html/c", "r2")):
        assert who(port, path) == server
        assert who(port, path, "-X", "DELETE") == server
        assert curl(port, path, "-I").stdout.count(f"X-Server: {server}") == 1
    assert who(port, "/images/x", "--http1.0") == "r1"


def test_an_absolute_target_is_matched_by_its_path(port: int) -> None:
    answer = said(port, b"GET http://images/html/x HTTP/1.1\r\nHost: images\r\nConnection: close\r\n\r\n")
    assert b"\r\nr2 " in answer


def test_a_head_may_come_in_many_packets(port: int) -> None:
    for size in (1, 2, 7):
        with dial((LOOPBACK, port)) as client:
            for start in range(0, len(GET), size):
                client.sendall(GET[start : start + size])
                time.sleep(0.0005)  # each piece a packet of its own
            assert b"\r\nr1 " in read_all(client)


def client_hello() -> bytes:
    """The first bytes of a TLS client."""
    sent = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return sent.read()


GARBAGE = (
    b"\0" * 100,
    b"EHLO\r\n",
    b"GET /\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    random.Random(1).randbytes(3000),
)


OTHER_VERSIONS = (b"GET / HTTP/2.0\r\n\r\n", b"GET / HTTP/3.0\r\n\r\n")


def test_garbage_gets_400_and_other_versions_get_505(port: int) -> None:
    for data in (client_hello(), *GARBAGE, *OTHER_VERSIONS):
        head, _, body = said(port, data).partition(b"\r\n\r\n")
        refused = b"505 HTTP Version Not Supported" if data in OTHER_VERSIONS else b"400 Bad Request"
        assert head.startswith(b"HTTP/1.1 %b\r\n" % refused), data
        assert b"\r\nConnection: close" in head
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"ktcpvs: " in body


def test_a_client_of_http2_is_told_to_speak_http1_and_the_log_says_so(port: int, daemon: Daemon) -> None:
    failed = curl(port, "/", "-v", "--http2-prior-knowledge")
    assert failed.returncode == 16, failed.stderr  # an error of HTTP/2, and no empty response
    assert "GOAWAY, error=13" in failed.stderr
    daemon.wait_for_log("service web: clients are refused that begin with HTTP/2, as 127.0.0.1:")
    daemon.wait_for_log("scheduler http reads HTTP/1 only; phttp and chttp read both")


def test_heads_that_are_too_long_are_refused(port: int) -> None:
    assert status(port, "/" + "a" * 70000)[0] == 414
    assert status(port, "/", "-H", "A: " + "a" * 70000)[0] == 431
    assert status(port, "/" + "a" * 7000)[0] == 200


def test_more_than_100_header_lines_are_refused(port: int) -> None:
    def answer(lines: int) -> bytes:
        more = b"".join(b"X-%d: a\r\n" % number for number in range(lines - 2))
        return said(port, b"GET /images/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n" % more)

    assert answer(100).startswith(b"HTTP/1.1 200 ")
    assert answer(101).startswith(b"HTTP/1.1 431 ")


def test_a_refused_client_that_sends_much_gets_its_response(port: int) -> None:
    with dial((LOOPBACK, port)) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(b"no HTTP at all\r\n\r\n" + b"x" * 5_000_000)
        assert read_all(client).startswith(b"HTTP/1.1 400 ")
        return
    pytest.fail("the client was reset before it could read the answer")


def test_a_slow_head_gets_408(daemon: Daemon, port: int) -> None:
    daemon.set(head_timeout=1)
    began = time.monotonic()
    with dial((LOOPBACK, port)) as silent, dial((LOOPBACK, port)) as slow:
        slow.sendall(b"GET /images/x HTTP/1.1\r\nHos")
        for client in (silent, slow):
            assert read_all(client).startswith(b"HTTP/1.1 408 ")
            assert 1 <= time.monotonic() - began < PROMPT


def test_a_client_that_leaves_before_its_head_is_not_refused(daemon: Daemon, port: int) -> None:
    for data in (b"", b"GET /images/x HTTP/1.1\r\n"):
        dial((LOOPBACK, port)).close()
        with dial((LOOPBACK, port)) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
    daemon.wait_until_empty()
    assert daemon.stats("web")["stats"]["refused"] == 0


def test_without_a_server_a_client_gets_503_or_the_redirect_server(daemon: Daemon, web: list[Nginx]) -> None:
    port, dead = free_port(), f"{LOOPBACK}:{free_port()}"
    r1, sorry = web[0].address, web[2].address
    daemon.service("web", port, r1, dead, scheduler="http", rules=(("/images/.*", r1), ("/dead/.*", dead)))

    for path in ("/other", "/dead/x"):  # no rule matches; the rule's only server is dead
        code, body = status(port, path)
        assert code == 503
        assert "ktcpvs: no server" in body
        head = curl(port, path, "-I").stdout
        assert head.startswith("HTTP/1.1 503 ")
        assert "Content-Length: 0" not in head
    assert who(port, "/images/x") == "r1"

    daemon.call("edit_service", "web", redirect=sorry)
    assert who(port, "/other") == "r3"
    assert who(port, "/dead/x") == "r3"
    assert said(port, b"complete garbage\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\nServer: nginx")
    assert status(port, "/", "-H", "A: " + "a" * 70000)[0] == 431

    daemon.call("edit_service", "web", redirect=dead)
    assert status(port, "/other")[0] == 503
    daemon.call("edit_service", "web", redirect="")
    assert status(port, "/other")[0] == 503
    daemon.wait_until_empty()


def test_when_a_server_dies_the_next_server_of_the_rule_serves(
    daemon: Daemon, web: list[Nginx], nginx: Callable[[str], Nginx]
) -> None:
    port, mortal = free_port(), nginx("mortal")
    r1, r2 = web[0].address, web[1].address
    rules = (("/images/.*", mortal.address), ("/images/.*", r1), (".*", r2))
    daemon.service("web", port, mortal.address, r1, r2, scheduler="http", rules=rules, eject=0)
    assert {who(port, "/images/x") for _ in range(4)} == {"mortal", "r1"}

    mortal.stop()
    assert [who(port, "/images/x") for _ in range(6)] == ["r1"] * 6
    dead, alive, _ = (server["stats"] for server in daemon.stats("web")["servers"])
    assert dead["failures"] > 0
    assert alive["failures"] == 0

    mortal.start()
    assert {who(port, "/images/x") for _ in range(4)} == {"mortal", "r1"}


def test_when_all_servers_of_a_rule_are_dead_a_client_gets_503(
    daemon: Daemon, nginx: Callable[[str], Nginx], web: list[Nginx]
) -> None:
    port, one, other = free_port(), nginx("one"), nginx("other")
    rules = (("/images/.*", one.address), ("/images/.*", other.address), (".*", web[2].address))
    daemon.service("web", port, one.address, other.address, web[2].address, scheduler="http", rules=rules)
    assert {who(port, "/images/x") for _ in range(4)} == {"one", "other"}
    one.stop()
    other.stop()
    code, body = status(port, "/images/x")
    assert code == 503
    assert "ktcpvs: no server answered" in body
    assert who(port, "/other") == "r3"


class Browser:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str) -> tuple[str, str]:
        """(server's name, the server's number for this connection)."""
        self._connection.request("GET", path)
        name, number, *_ = self._connection.getresponse().read().decode().split(" ")
        return name, number


def test_a_kept_alive_connection_stays_with_its_server(port: int) -> None:
    with Browser(port) as browser:
        first = browser.get("/images/a")
        assert first[0] == "r1"
        assert {browser.get(path) for path in ("/html/a", "/other", "/images/b", "/html/b")} == {first}
    assert who(port, "/html/a") == "r2"


def test_a_server_of_weight_0_keeps_its_connections_and_gets_no_new_one(daemon: Daemon, web: list[Nginx]) -> None:
    port = free_port()
    r1, r2 = web[0].address, web[1].address
    daemon.service("web", port, r1, r2, scheduler="http", rules=((".*", r1), (".*", r2)))
    with Browser(port) as one, Browser(port) as two:
        old = {browser.get("/")[0]: browser for browser in (one, two)}
        assert set(old) == {"r1", "r2"}
        daemon.call("edit_server", "web", r1, weight=0)
        assert [who(port) for _ in range(6)] == ["r2"] * 6
        assert old["r1"].get("/")[0] == "r1"
        daemon.call("edit_server", "web", r2, weight=0)
        assert status(port)[0] == 503
        assert [old[name].get("/")[0] for name in ("r1", "r2")] == ["r1", "r2"]
        daemon.call("edit_server", "web", r1, weight=1)
        assert who(port) == "r1"
    daemon.wait_until_empty()


def test_rules_change_while_the_service_runs(daemon: Daemon, web: list[Nginx], port: int) -> None:
    r1, r2, r3 = (server.address for server in web)
    daemon.call("delete_rule", "web", "/images/.*", r1)
    assert who(port, "/images/x") == "r3"
    daemon.call("add_rule", "web", r"\.png$", r2)
    assert who(port, "/images/x.png") == "r2"
    daemon.call("delete_rule", "web", ".*", r3)
    assert status(port, "/images/x")[0] == 503


def test_an_upload_arrives_whole(daemon: Daemon, serve: Callable[..., SocketServer], tmp_path: Path) -> None:
    server, port = serve(digest_of_upload), free_port()
    daemon.service("web", port, server.address, scheduler="http", rules=((".*", server.address),))
    body = random.Random(2).randbytes(6_000_000)
    (tmp_path / "body").write_bytes(body)
    digest = hashlib.sha256(body).hexdigest()
    for expect in ("Expect: 100-continue", "Expect:"):
        answer = status(port, "/upload", "--data-binary", f"@{tmp_path}/body", "-H", expect)
        assert answer == (200, digest)
    daemon.wait_until_empty()
    stats = daemon.stats("web")["stats"]
    assert stats["bytes_in"] > 2 * len(body)
    assert stats["bytes_out"] > 2 * len(digest)


def test_a_download_of_100_megabytes_arrives_whole(port: int, web: list[Nginx], tmp_path: Path) -> None:
    expected = web[2].file("large", 100 << 20)
    done = curl(port, "/files/large", "-o", str(tmp_path / "large"))
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "large", "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == expected
    (tmp_path / "large").unlink()


def test_pipelined_requests_are_relayed_unchanged(port: int) -> None:
    requests = [b"GET /images/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(200)]
    last = b"GET /html/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = said(port, b"".join(requests) + last)
    paths = re.findall(rb"\nr1 \d+ GET (\S+)\n", answers)
    assert paths == [b"/images/%d" % number for number in range(200)] + [b"/html/last"]


def test_a_body_that_comes_with_the_head_arrives_whole(daemon: Daemon, serve: Callable[..., SocketServer]) -> None:
    server, port = serve(digest_of_upload), free_port()
    daemon.service("web", port, server.address, scheduler="http", rules=((".*", server.address),))
    body = b"x" * 100_000
    answer = said_and_ended(port, b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + body)
    assert answer.endswith(hashlib.sha256(body).hexdigest().encode())


def said_and_ended(port: int, data: bytes) -> bytes:
    """Send `data` and a FIN on a new connection; return all that comes back."""
    with dial((LOOPBACK, port)) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def test_the_log_names_the_reason_of_a_choice(daemon: Daemon, web: list[Nginx], port: int) -> None:
    daemon.set(debug_level=5)
    assert who(port, "/html/a") == "r2"
    daemon.wait_for_log(f"{web[1].address}: rule 2 '/html/.*', the only server")
    daemon.wait_for_log(" s: both directions ended")


def test_200_clients_at_once_get_their_own_responses(daemon: Daemon, port: int) -> None:
    with contextlib.ExitStack() as stack:
        clients: list[tuple[int, Any]] = []
        for number in range(200):
            client = stack.enter_context(dial((LOOPBACK, port)))
            clients.append((number, client))
            head = "images" if number % 2 else "html"
            client.sendall(f"GET /{head}/{number} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        for number, client in clients:
            name, head = ("r1", "images") if number % 2 else ("r2", "html")
            assert re.search(rf"\n{name} \d+ GET /{head}/{number}\n", read_all(client).decode())
