"""Listeners with TLS, with real clients: every scheduler, changes without a gap, takeovers, and abuse."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from servers import (
    LOOPBACK,
    Nginx,
    Redis,
    SocketServer,
    dial,
    ending,
    free_port,
    program,
    read_all,
    read_exactly,
    read_head,
    wait_for,
)
from tls_peers import TLSPeer

from .harness import TIMEOUT, Daemon
from .test_takeover import Load, stop_all, taken_over_in_turn, undisturbed

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]

SCHEDULERS = ("wlc", "lc", "rr", "wrr", "p2c", "sh", "http", "hhttp", "phttp", "chttp")
PER_REQUEST = ("phttp", "chttp")
RULES = {"http": ".*", "hhttp": ".*", "phttp": ".*", "chttp": ".*"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def site(authority: Authority) -> str:
    return str(authority.daemon("site"))


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.pem)


@pytest.fixture(params=[0, 2], ids=["alone", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def serve(daemon: Daemon, ident: str, *listen: str, server: str, scheduler: str = "phttp", **options: Any) -> None:
    """Add a service with one server, and start it."""
    daemon.call("add_service", ident, listen=list(listen), scheduler=scheduler, **options)
    daemon.call("add_server", ident, server)
    if scheduler in RULES:
        daemon.call("add_rule", ident, RULES[scheduler], server)
    daemon.call("start", ident)


def secure(port: int) -> str:
    return f"{LOOPBACK}:{port} tls"


@contextlib.contextmanager
def over_tls(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with dial((LOOPBACK, port)) as raw, context.wrap_socket(raw, server_hostname="localhost") as client:
        yield client


def fetch(port: int, context: ssl.SSLContext, path: str = "/") -> bytes:
    with over_tls(port, context) as client:
        client.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
        return read_all(client)


def run(*words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program(words[0]), *words[1:]], input=input, capture_output=True, timeout=TIMEOUT)


def counted(daemon: Daemon, ident: str) -> tuple[dict[str, int], dict[str, int]]:
    """The handshakes of a service, and the clients that were refused in their preamble."""
    stats = daemon.stats(ident)["stats"]
    return stats["handshakes"], stats["preambles"]


def test_every_scheduler(daemon: Daemon, web: list[Nginx], site: str, context: ssl.SSLContext) -> None:
    ports = {name: free_port() for name in SCHEDULERS}
    for name, port in ports.items():
        serve(daemon, name, secure(port), server=web[0].address, scheduler=name, certificate=[site])
        for _ in range(2):
            response = fetch(port, context, f"/{name}")
            assert response.startswith(b"HTTP/1.1 200 "), name
            assert b" GET /%b\n" % name.encode() in response
        handshakes, refusals = counted(daemon, name)
        assert (handshakes, refusals) == ({"TLSv1.3 full": 2}, {}), name
        stats = daemon.stats(name)["stats"]
        assert stats["relay"]["in_use"] == "copy"
        assert stats["relay"]["why"] == "splice: all clients speak TLS"
        assert stats["relay"]["joined"]["copy"] == (0 if name in PER_REQUEST else 2)


@pytest.mark.parametrize(("reactor", "workers"), [("epoll", 0)])
def test_twisteds_reactor_and_unix_sockets(
    daemon: Daemon, web: list[Nginx], site: str, context: ssl.SSLContext, tmp_path: Path
) -> None:
    for name in ("wlc", "http", "phttp"):
        port, path = free_port(), f"{tmp_path}/{name}.sock"
        where = secure(port), f'"unix:{path}" tls'
        serve(daemon, name, *where, server=web[0].address, scheduler=name, certificate=[site])
        for address in (LOOPBACK, port), path:
            with dial(address) as raw, context.wrap_socket(raw, server_hostname="localhost") as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert read_all(client).startswith(b"HTTP/1.1 200 "), name
        assert counted(daemon, name) == ({"TLSv1.3 full": 2}, {})


def test_programs(daemon: Daemon, web: list[Nginx], authority: Authority, site: str) -> None:
    port, ca = free_port(), str(authority.pem)
    serve(daemon, "s", secure(port), server=web[0].address, certificate=[site])
    url = f"https://localhost:{port}/a"
    for words in ((), ("--tls-max", "1.2"), ("--http1.0",)):
        fetched = run("curl", "-sS", "--cacert", ca, "--max-time", "10", *words, url, url)
        assert (fetched.returncode, fetched.stdout.count(b" GET /a\n")) == (0, 2), fetched.stderr
    request = b"GET /b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    where = "-connect", f"{LOOPBACK}:{port}", "-servername", "localhost"
    for version in "-tls1_2", "-tls1_3":
        ran = run(
            "openssl", "s_client", *where, version, "-quiet", "-verify_return_error", "-CAfile", ca, input=request
        )
        assert b" GET /b\n" in ran.stdout, ran.stderr
    ran = run("gnutls-cli", "--x509cafile", ca, "-p", str(port), "localhost", input=request)
    assert b" GET /b\n" in ran.stdout, ran.stderr
    handshakes, refusals = counted(daemon, "s")
    assert refusals == {}
    assert set(handshakes) <= {"TLSv1.2 full", "TLSv1.3 full", "TLSv1.3 resumed"}
    assert handshakes.pop("TLSv1.2 full") == 2
    assert sum(handshakes.values()) == 5  # with HTTP/1.0, curl comes a second time


def test_redis(daemon: Daemon, authority: Authority, site: str, stack: contextlib.ExitStack, tmp_path: Path) -> None:
    """Its clients speak TLS with the switch; it does not."""
    redis = Redis(tmp_path)
    stack.callback(redis.stop)
    port = free_port()
    serve(daemon, "s", secure(port), server=redis.address, scheduler="wlc", certificate=[site])
    client = "redis-cli", "--tls", "--cacert", str(authority.pem), "--sni", "localhost", "-h", LOOPBACK, "-p", str(port)
    value = "v" * 100_000
    for words, said in (("SET", "large", value), "OK"), (("GET", "large"), value):
        assert run(*client, *words).stdout.decode() == said + "\n"
    assert counted(daemon, "s") == ({"TLSv1.3 full": 2}, {})


def test_client_certificates(daemon: Daemon, authority: Authority, site: str, serve_heads: SocketServer) -> None:
    """The request for a certificate names the CAs, so that a client with several finds the right one."""
    port, ca, alice = free_port(), str(authority.pem), str(authority.issue("alice"))
    stranger = Authority(authority.folder, "strangers").issue("mallory")
    serve(
        daemon, "s", secure(port), server=serve_heads.address, certificate=[site], client_ca=ca,
        client_certificate="required", client_cert_header="on",
        request_header=["X-Subject {client_certificate_subject}", "X-Print {client_certificate_fingerprint}"],
    )  # fmt: skip
    where = "-connect", f"{LOOPBACK}:{port}", "-servername", "localhost", "-CAfile", ca
    for version in "-tls1_2", "-tls1_3":
        shown = run("openssl", "s_client", *where, version, "-cert", alice)
        assert b"Acceptable client certificate CA names\nCN = ca\n" in shown.stdout, version
    url, fetch = f"https://localhost:{port}/", ("curl", "-sS", "--cacert", ca, "--max-time", "10")
    fetched = run(*fetch, "--cert", alice, "-H", "Client-Cert: :AAAA:", url)
    der = ssl.PEM_cert_to_DER_cert(Path(alice).read_text().partition("-----BEGIN PRIVATE")[0])
    fields = [line for line in fetched.stdout.lower().split(b"\r\n") if line.startswith(b"client-cert")]
    assert len(fields) == 1, fetched.stderr
    (line,) = (line for line in fetched.stdout.split(b"\r\n") if line.startswith(b"Client-Cert: :"))
    assert ssl.DER_cert_to_PEM_cert(der).replace("\n", "").encode().find(line[14:-1]) > 0
    assert b"\r\nX-Subject: CN=alice\r\n" in fetched.stdout
    assert b"\r\nX-Print: %b\r\n" % hashlib.sha256(der).hexdigest().encode() in fetched.stdout
    for words in ((), ("--cert", str(stranger))):
        refused = run(*fetch, *words, url)
        assert refused.returncode != 0
    _, refusals = counted(daemon, "s")
    assert refusals == {
        "TLS: peer did not return a certificate": 1,
        "TLS: unable to get local issuer certificate": 1,
    }


@pytest.fixture
def serve_heads() -> Iterator[SocketServer]:
    """A server whose responses have the request's head as their body."""

    def answer(sock: socket.socket) -> None:
        while True:
            head = read_head(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))

    server = SocketServer(answer)
    yield server
    server.stop()


def test_the_scheme_and_redirects_follow_the_listener(
    daemon: Daemon, authority: Authority, site: str, serve_heads: SocketServer
) -> None:
    plain, port = free_port(), free_port()
    where = f"{LOOPBACK}:{plain}", secure(port)
    serve(
        daemon, "s", *where, server=serve_heads.address, scheduler="chttp", certificate=[site],
        x_forwarded_proto="append", forwarded="append",
    )  # fmt: skip
    fetch = "curl", "-sS", "-i", "--cacert", str(authority.pem), "--max-time", "10"
    for _ in range(3):
        for scheme, number in ("http", plain), ("https", port):
            shown = run(*fetch, f"{scheme}://localhost:{number}/").stdout.decode()
            assert f"X-Forwarded-Proto: {scheme}\r\n" in shown
            assert f";proto={scheme};" in shown
    daemon.call("edit_service", "s", https_only="on")
    shown = run(*fetch, f"http://localhost:{plain}/a?b").stdout.decode()
    assert shown.startswith("HTTP/1.1 308 ")
    assert f"Location: https://localhost:{port}/a?b\r\n" in shown
    asked = "--explain", "-i", "s", "GET /a?b", "-H", f"Host: localhost:{plain}"
    assert f"https://localhost:{port}/a?b" in daemon.adm(*asked).stdout
    assert f"\nAnswer: {serve_heads.address}\n" in daemon.adm(*asked, "-P", port).stdout
    followed = run(*fetch, "-L", f"http://localhost:{plain}/a?b").stdout.decode()
    assert "GET /a?b HTTP/1.1\r\n" in followed


def test_a_slow_reader_gets_the_whole_response(
    daemon: Daemon, web: list[Nginx], site: str, context: ssl.SSLContext
) -> None:
    """A client says that it sends no more, and then reads. To a socket that is closed already, its close_notify would
    be data, and the reset would destroy what it has not read yet."""
    port, size = free_port(), 300_000
    web[0].file("slow-reader", size)
    serve(daemon, "s", secure(port), server=web[0].address, certificate=[site])
    with dial((LOOPBACK, port)) as sock:
        client = TLSPeer(sock, context)
        client.sendall(b"GET /files/slow-reader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        wait_for(lambda: daemon.stats("s")["stats"]["bytes_out"] > size or not daemon.active("s"))
        client.notify()
        received = b""
        while data := client.recv(65536):
            received += data
        assert len(received.partition(b"\r\n\r\n")[2]) == size
        assert not client.is_truncated


def test_listeners_move_under_load(
    daemon: Daemon, web: list[Nginx], stack: contextlib.ExitStack, site: str, context: ssl.SSLContext
) -> None:
    steady, moving = free_port(), free_port()
    serve(daemon, "s", secure(steady), secure(moving), server=web[0].address, certificate=[site])
    loads = [Load((LOOPBACK, port), 2, keeps=False, pause=0.005, tls=context) for port in (steady, moving)]
    loads.append(Load((LOOPBACK, steady), 2, keeps=True, pause=0.005, tls=context))
    for load in loads:
        stack.callback(load.stop)
    for host in ("0.0.0.0", LOOPBACK) * 2:
        with undisturbed(loads):
            daemon.call("edit_service", "s", listen=[secure(steady), f"{host}:{moving} tls"])
    stop_all(loads)
    assert counted(daemon, "s")[1] == {}


@pytest.mark.load
@pytest.mark.parametrize("sizes", [[0, 0, 0], [2, 2, 1]], ids=["alone", "workers"])
def test_takeovers_under_load(
    make_daemon: Make,
    web: list[Nginx],
    stack: contextlib.ExitStack,
    site: str,
    context: ssl.SSLContext,
    tmp_path: Path,
    sizes: list[int],
) -> None:
    port, state = free_port(), tmp_path / "state"
    daemon = make_daemon("--state", state, workers=sizes[0])
    daemon.start()
    serve(daemon, "s", secure(port), server=web[0].address, certificate=[site])
    loads = [Load((LOOPBACK, port), 3, keeps=keeps, pause=0.01, tls=context) for keeps in (False, True)]
    for load in loads:
        stack.callback(load.stop)
    taken_over_in_turn(make_daemon, daemon, sizes[1:], loads, "--state", state)
    stop_all(loads)


def test_a_denied_client_is_reset_before_its_handshake(
    daemon: Daemon, web: list[Nginx], site: str, context: ssl.SSLContext
) -> None:
    port = free_port()
    serve(daemon, "s", secure(port), server=web[0].address, certificate=[site], deny="127.0.0.9")
    with (  # without a byte from it; the reset may come before connect() returns
        pytest.raises(ConnectionResetError),
        socket.create_connection((LOOPBACK, port), 10, ("127.0.0.9", 0)) as denied,
    ):
        denied.recv(1)
    assert daemon.stats("s")["stats"]["denied"] == 1
    assert fetch(port, context).startswith(b"HTTP/1.1 200 ")
    assert counted(daemon, "s") == ({"TLSv1.3 full": 1}, {})


def test_bad_clients_cost_only_themselves(
    daemon: Daemon, web: list[Nginx], site: str, context: ssl.SSLContext, stack: contextlib.ExitStack
) -> None:
    """Each is counted with its reason, and logged once a minute, but for the one that leaves: for this service, whose
    name no other test has."""
    plain, port = free_port(), free_port()
    serve(daemon, "bad", f"{LOOPBACK}:{plain}", secure(port), server=web[0].address, certificate=[site])
    daemon.set(tls_handshake_timeout=2)
    steady = stack.enter_context(over_tls(port, context))
    stalled = stack.enter_context(dial((LOOPBACK, port)))
    stalled.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    http = stack.enter_context(dial((LOOPBACK, port)))
    http.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert read_all(http).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    for garbage in b"SSH-2.0-OpenSSH_9.2\r\n", bytes(300):
        client = stack.enter_context(dial((LOOPBACK, port)))
        client.sendall(garbage)
        assert ending(client) in ("reset", "end")
    half = stack.enter_context(dial((LOOPBACK, port)))
    half.sendall(b"\x16\x03\x01\x02\x00\x01")
    half.close()
    unknown = stack.enter_context(dial((LOOPBACK, port)))
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        context.wrap_socket(unknown, server_hostname="unknown.example")
    hello = stack.enter_context(dial((LOOPBACK, plain)))
    hello.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50))
    assert read_all(hello).startswith(b"HTTP/1.1 400 ")
    assert ending(stalled) == "reset"
    left = "TLS: the client has ended the connection"
    expected = {
        "TLS: not complete within 2 seconds": 1,
        "TLS: plain HTTP": 1,
        "TLS: this is not TLS": 2,
        left: 1,
        "TLS: the client asks for a server name without certificate": 1,
    }
    wait_for(lambda: counted(daemon, "bad")[1] == expected, lambda: f"the counts: {counted(daemon, 'bad')}")
    steady.sendall(b"GET /steady HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert read_exactly(steady, 12) == b"HTTP/1.1 200"
    assert counted(daemon, "bad")[0] == {"TLSv1.3 full": 1, "refused": 6}
    logged = expected.keys() - {left}
    for reason in logged:
        daemon.wait_for_log(reason)
    log = daemon.log()
    refusals = [line for line in log.splitlines() if "service bad: clients are refused" in line]
    assert refusals
    assert not any(left in line for line in refusals)
    for reason in logged:
        assert 1 <= log.count(reason) <= max(1, len(daemon.workers())), reason
    shown = daemon.adm("--list", "--stats").stdout
    assert "  handshakes: TLSv1.3 full 1, refused 6\n" in shown
    assert "  refused: 2 TLS: this is not TLS" in shown


def test_more_handshakes_than_allowed_wait(
    daemon: Daemon, web: list[Nginx], site: str, context: ssl.SSLContext, stack: contextlib.ExitStack
) -> None:
    port = free_port()
    serve(daemon, "s", secure(port), server=web[0].address, certificate=[site])
    daemon.set(max_handshakes=2, tls_handshake_timeout=3)
    processes = max(1, len(daemon.workers()))
    stalled = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(2 * processes)]
    for client in stalled:
        client.sendall(b"\x16")
    wait_for(lambda: daemon.stats("s")["stats"]["handshake_pauses"] or fetch(port, context))
    assert fetch(port, context).startswith(b"HTTP/1.1 200 ")  # once one of them has left, or has been reset
    for client in stalled:
        client.close()


def test_files_that_cannot_be_used_refuse_the_edit(daemon: Daemon, site: str, tmp_path: Path) -> None:
    port = free_port()
    text = f"Virtual s {{ listen = {secure(port)} certificate = {site} scheduler = wlc server = {LOOPBACK}:1 }}"
    file = tmp_path / "ktcpvs.conf"
    for wrong in "/nowhere.pem", "/etc/hostname":
        file.write_text(text.replace(site, wrong))
        refused = daemon.adm("-f", file, "--start", check=False)
        assert refused.returncode == 1
        assert f"service s: {wrong}: " in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert daemon.call("table")["services"] == []
    file.write_text(text)
    daemon.adm("-f", file, "--start")
    refused = daemon.adm("-E", "-i", "s", "certificate=/nowhere.pem", check=False)
    assert "service s: /nowhere.pem: No such file or directory" in refused.stderr
    assert daemon.call("table")["services"][0]["certificate"] == [site]


def test_the_access_log_has_the_tls(
    daemon: Daemon, web: list[Nginx], site: str, context: ssl.SSLContext, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "access.log"
    serve(
        daemon, "s", secure(port), server=web[0].address, certificate=[site], access_log=str(log),
        access_log_format="json",
    )  # fmt: skip
    for _ in range(2):
        fetch(port, context)
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 2)
    for line in log.read_text().splitlines():
        tls = json.loads(line)["tls"]
        assert (tls["version"], tls["server_name"], tls["client_subject"]) == ("TLSv1.3", "localhost", None)
