"""phttp with nginx, Apache httpd and twisted.web: their responses arrive as they were sent."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import random
import string
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from http_servers import BIG, TEXT, Httpd, Nginx, TwistedWeb, WebServer
from servers import LOOPBACK, free_port, program

from .harness import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.programs]


@pytest.fixture(scope="module", params=[Nginx, Httpd, TwistedWeb], ids=["nginx", "apache", "twisted"])
def server(request: pytest.FixtureRequest) -> Iterator[WebServer]:
    server: WebServer = request.param()
    yield server
    server.stop()


@pytest.fixture
def port(daemon: Daemon, server: WebServer) -> int:
    port = free_port()
    daemon.service("web", port, server.address, scheduler="phttp", rules=((".*", server.address),))
    return port


@pytest.fixture
def client(port: int) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=20)) as client:
        yield client


def ask(
    client: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None = None,
    **headers: str,
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send a request; return the response and its body. headers: `If_Modified_Since` is sent as If-Modified-Since."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, path, body, sent, encode_chunked=not isinstance(body, bytes | None))
    answer = client.getresponse()
    return answer, answer.read()


def fields(answer: http.client.HTTPResponse) -> list[tuple[str, str]]:
    """The header fields in their order, without the time and the fields that belong to one connection.

    A 204 has no Content-Length (RFC 9110, section 8.6); twisted.web sends one all the same.
    """
    passing = ["date", "connection", "keep-alive", "transfer-encoding"]
    if answer.status == 204:
        passing.append("content-length")
    return [(name, value) for name, value in answer.getheaders() if name.lower() not in passing]


@pytest.mark.parametrize("path", ["/hello.txt", "/big.bin", "/stream.shtml", "/text.txt", "/empty", "/none/such"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_is_the_one_of_the_server(
    client: http.client.HTTPConnection, server: WebServer, method: str, path: str
) -> None:
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, server.port, timeout=20)) as direct:
        wanted, wanted_body = ask(direct, method, path, Accept_Encoding="gzip", X_Ask="why")
    answer, body = ask(client, method, path, Accept_Encoding="gzip", X_Ask="why")
    assert (answer.status, answer.reason) == (wanted.status, wanted.reason)
    assert fields(answer) == fields(wanted)
    assert ("X-Back", "why") in fields(answer)
    assert body == wanted_body


def test_status_and_body_of_existing_and_missing_files(client: http.client.HTTPConnection, server: WebServer) -> None:
    answer, body = ask(client, "GET", "/hello.txt")
    assert (answer.status, body) == (200, server.hello.encode())
    assert answer.headers["X-Server"] == server.name

    answer, body = ask(client, "HEAD", "/hello.txt")
    assert (answer.status, body) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(server.hello)

    answer, body = ask(client, "GET", "/empty")
    assert (answer.status, body) == (204, b"")
    assert "Content-Length" not in answer.headers

    answer, body = ask(client, "GET", "/none/such")
    assert answer.status == 404
    assert answer.headers["X-Server"] == server.name
    assert b"Found" in body or b"found" in body

    answer, body = ask(client, "GET", "/big.bin")
    assert (answer.status, body) == (200, BIG)


def test_a_304_has_no_body(client: http.client.HTTPConnection, server: WebServer) -> None:
    answer, _ = ask(client, "GET", "/hello.txt")
    since = answer.headers["Last-Modified"]
    for _ in range(3):
        answer, body = ask(client, "GET", "/hello.txt", If_Modified_Since=since)
        assert (answer.status, body) == (304, b"")
        answer, body = ask(client, "GET", "/hello.txt")
        assert (answer.status, body) == (200, server.hello.encode())


def test_a_chunked_response_arrives_whole(client: http.client.HTTPConnection) -> None:
    for _ in range(3):
        answer, body = ask(client, "GET", "/stream.shtml")
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in answer.headers
        assert body == TEXT


def test_a_gzipped_response_is_relayed_unchanged(client: http.client.HTTPConnection) -> None:
    answer, body = ask(client, "GET", "/text.txt", Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(body) < len(TEXT) / 2
    assert gzip.decompress(body) == TEXT

    answer, body = ask(client, "GET", "/text.txt")
    assert "Content-Encoding" not in answer.headers
    assert body == TEXT


@pytest.mark.parametrize("size", [1, 5000, 300_000])
def test_a_request_body_with_content_length(client: http.client.HTTPConnection, size: int) -> None:
    for seed in range(3):
        sent = random.Random(seed).randbytes(size)
        answer, body = ask(client, "POST", "/echo", sent)
        assert (answer.status, body) == (200, sent)


@pytest.mark.parametrize("sizes", [(1,), (1, 4000, 7), (70_000, 1, 65_536, 100_000)])
def test_a_request_body_in_chunks(client: http.client.HTTPConnection, sizes: tuple[int, ...]) -> None:
    for seed in range(3):
        pieces = [random.Random(seed).randbytes(size) for size in sizes]
        answer, body = ask(client, "POST", "/echo", iter(pieces))
        assert (answer.status, body) == (200, b"".join(pieces))


def test_large_header_fields_pass_both_ways(client: http.client.HTTPConnection) -> None:
    large = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=7000))
    for asked in (large, "small", large[::-1]):
        answer, _ = ask(client, "GET", "/hello.txt", X_Ask=asked)
        assert answer.status == 200
        assert answer.headers["X-Back"] == asked


def test_one_connection_is_kept_for_many_requests(
    client: http.client.HTTPConnection, daemon: Daemon, server: WebServer
) -> None:
    client.connect()
    sock = client.sock
    for number in range(100):
        answer, body = ask(client, "GET", "/hello.txt", X_Ask=str(number))
        assert (answer.status, body) == (200, server.hello.encode())
        assert answer.headers["X-Back"] == str(number)
        sent = b"%d" % number * 100
        assert ask(client, "POST", "/echo", sent)[1] == sent
        assert ask(client, "GET", "/empty")[0].status == 204
    assert client.sock is sock
    stats = daemon.stats("web")
    assert stats["stats"]["total"] == 1
    assert stats["servers"][0]["stats"]["total"] == 300


def test_curl_waits_for_100_continue(port: int, tmp_path: Path) -> None:
    sent = random.Random(2).randbytes(1_000_000)
    (tmp_path / "sent").write_bytes(sent)
    command = [program("curl"), "-sSv", "--noproxy", "*", "--expect100-timeout", "600", "-m", "60"]
    command += ["-H", "Expect: 100-continue", "-H", "Content-Type: application/octet-stream"]
    for framing in ([], ["-H", "Transfer-Encoding: chunked"]):
        done = subprocess.run(
            [*command, *framing, "--data-binary", f"@{tmp_path}/sent", f"http://{LOOPBACK}:{port}/echo"],
            capture_output=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        assert b"< HTTP/1.1 100 Continue" in done.stderr
        assert b"< HTTP/1.1 200 OK" in done.stderr
        assert done.stdout == sent
