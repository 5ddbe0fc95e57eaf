"""TLS passed through by server name: real clients reach the server that they name, by every relay, and nobody else.

The certificates are the servers' own. Each client verifies them, so that a wrong server is a failed handshake.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from authority import SERVER, Authority
from servers import (
    LOOPBACK,
    PostgreSQL,
    SocketServer,
    dial,
    echo,
    free_port,
    program,
    read_all,
    read_exactly,
    read_head,
    wait_for,
)
from tls_clients import CLIENTS, ClientFailed, Target, chromium, curl, openssl
from tls_peers import TLSPeer
from tls_sites import TLSNginx, TLSPostgreSQL, TLSRedis

from tests.protocols.hellos import ECH, extension, hello, named

from .harness import TIMEOUT, Daemon, SharedDaemons
from .test_takeover import Load, stop_all, taken_over, undisturbed

pytestmark = pytest.mark.e2e

A, B, OTHER = "a.example", "deep.b.example", "other.example"
RULED = ("copy", "splice", "kernel")
BULK = 3_000_000
ALERT = b"\x15\x03\x03\0\2\2"


class Edge:
    """The daemon of this module, with a service for each relay: a.example, *.b.example, and a default."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon = daemon
        self.authority = Authority(folder)
        names = (A, B, OTHER)
        self.certificates = {name: self.authority.issue(name, name, purposes=(SERVER,)) for name in names}
        self.nginx = TLSNginx(folder, self.certificates)
        data = random.Random(1).randbytes(BULK)
        (self.nginx.files / "bulk").write_bytes(data)
        self.digest = hashlib.sha256(data).hexdigest()
        self.ports = {relay: self.serve(relay, relay=relay) for relay in RULED}

    def serve(self, ident: str, *rules: tuple[str, str], **options: str) -> int:
        """Add a service with these rules, or those for all three names; its port."""
        port = free_port()
        addresses = self.nginx.addresses
        known = (("host a.example", addresses[A]), ("host *.b.example", addresses[B]), (".*", addresses[OTHER]))
        used = rules or known
        servers = dict.fromkeys(server for _, server in used)
        self.daemon.service(ident, port, *servers, rules=used, scheduler="sni", **options)
        return port

    def remove(self, ident: str) -> None:
        self.daemon.call("stop", ident)
        self.daemon.call("delete_service", ident)

    def target(self, relay: str, name: str, path: str = "/") -> Target:
        return Target(self.ports[relay], name, self.authority.pem, path=path)

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.pem)

    @contextlib.contextmanager
    def connected(self, relay: str, name: str) -> Iterator[ssl.SSLSocket]:
        with (
            dial((LOOPBACK, self.ports[relay])) as raw,
            self.context().wrap_socket(raw, server_hostname=name) as client,
        ):
            yield client

    def joined(self, relay: str) -> int:
        """The number of connections that this relay has carried."""
        return int(self.daemon.stats(relay)["stats"]["relay"]["joined"][relay])


@pytest.fixture(scope="module")
def edge(shared_daemons: SharedDaemons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with contextlib.ExitStack() as stack:
        edge = Edge(stack.enter_context(shared_daemons.borrow("uvloop", 0)), tmp_path_factory.mktemp("edge"))
        stack.callback(edge.nginx.stop)
        yield edge


# Clients, by every relay.


@pytest.mark.programs
@pytest.mark.parametrize("relay", RULED)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reaches_the_server_that_it_names(edge: Edge, client: str, relay: str) -> None:
    for name in (A, B, OTHER):
        assert CLIENTS[client](edge.target(relay, name)) == f"{name}\n".encode()


@pytest.mark.programs
def test_chromium_reaches_the_server_that_it_names(edge: Edge) -> None:
    for name, relay in ((A, "copy"), (B, "kernel")):
        assert chromium(edge.target(relay, name), edge.certificates[name]) == f"{name}\n".encode()


@pytest.mark.parametrize("client", ["curl", "node"])
def test_a_client_that_expects_another_name_is_not_served(edge: Edge, client: str) -> None:
    """It gets the default server, and rejects the certificate."""
    with pytest.raises(ClientFailed, match=r"(?i)no alternative certificate subject name|altname|does not match"):
        CLIENTS[client](edge.target("copy", "nobody.example"))


@pytest.mark.parametrize("relay", RULED)
def test_bulk_passes_whole(edge: Edge, relay: str) -> None:
    body = curl(edge.target(relay, A, "/files/bulk"))
    assert hashlib.sha256(body).hexdigest() == edge.digest


def test_resumed_sessions_reach_the_same_server(edge: Edge) -> None:
    """The ticket is the server's; the switch has no part in it."""
    context = edge.context()
    session = None
    for turn in range(3):
        with (
            dial((LOOPBACK, edge.ports["splice"])) as raw,
            context.wrap_socket(raw, server_hostname=A, session=session) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert read_all(tls).endswith(b"\r\na.example\n")
            assert tls.session_reused == bool(turn)
            session = tls.session


# What a hello may look like.


class InPieces:
    """A socket whose first bytes go out in pieces of `size`, each in a segment of its own."""

    def __init__(self, raw: socket.socket, size: int, count: int) -> None:
        self._raw = raw
        self._size = size
        self._left = count

    def sendall(self, data: bytes) -> None:
        cut = min(self._left, len(data))
        self._left -= cut
        for start in range(0, cut, self._size):
            self._raw.sendall(data[start : min(start + self._size, cut)])
            time.sleep(0.0005)
        self._raw.sendall(data[cut:])

    def recv(self, size: int) -> bytes:
        return self._raw.recv(size)


@pytest.mark.parametrize("relay", RULED)
@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_hello_may_come_in_pieces(edge: Edge, relay: str, size: int) -> None:
    """And the connection is carried by the relay that is configured."""
    before = edge.joined(relay)
    with dial((LOOPBACK, edge.ports[relay])) as raw:
        peer = TLSPeer(InPieces(raw, size, 300), edge.context(), server_name=A)
        peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"\r\n\r\na.example\n" in peer.recv(65536)
        wait_for(lambda: edge.joined(relay) == before + 1, f"a connection that is relayed by {relay}")
    edge.daemon.wait_until_empty()


def test_a_hello_may_come_in_several_records(edge: Edge) -> None:
    target = edge.target("copy", A)
    assert openssl(target, "-alpn", f"{'x' * 250},{'y' * 250},http/1.1", "-max_send_frag", "512") == b"a.example\n"


def test_a_client_without_a_name_gets_the_default_rule(edge: Edge) -> None:
    words = ["s_client", "-connect", f"{LOOPBACK}:{edge.ports['copy']}", "-noservername", "-quiet", "-ign_eof"]
    words += ["-CAfile", str(edge.authority.pem), "-verify_return_error", "-verify_hostname", OTHER]
    asked = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    done = subprocess.run([program("openssl"), *words], input=asked, capture_output=True, timeout=TIMEOUT)
    assert done.stdout.endswith(b"\r\nother.example\n"), done.stderr


def test_the_outer_name_of_ech_counts_and_the_hello_passes_untouched(edge: Edge) -> None:
    """A made hello: what the server gets is compared with it."""
    heard: list[bytes] = []
    outer = extension(ECH, b"\0" + b"\0\1\0\1" + b"\7" + b"\0\x20" + bytes(32) + b"\0\x80" + bytes(128))
    made = hello(named(b"public.example"), extension(0x2A2A, b""), outer)

    def serve(sock: socket.socket) -> None:
        heard.append(read_exactly(sock, len(made)))
        sock.sendall(b"done")

    server = SocketServer(serve)
    try:
        port = edge.serve("ech", ("host public.example", server.address), (".*", edge.nginx.addresses[OTHER]))
        with dial((LOOPBACK, port)) as client:
            client.sendall(made)
            assert read_exactly(client, 4) == b"done"
        assert heard == [made]
    finally:
        edge.remove("ech")
        server.stop()


# What is not TLS, and names that no rule has.


def test_what_is_not_tls_is_closed_without_a_word(edge: Edge) -> None:
    edge.daemon.forget_log()
    for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", bytes(64)):
        with dial((LOOPBACK, edge.ports["copy"])) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
    edge.daemon.wait_until_empty()
    assert curl(edge.target("copy", A)) == b"a.example\n"


def test_what_is_not_tls_may_go_to_the_default_server(edge: Edge) -> None:
    server = SocketServer(echo)
    try:
        rules = (("host a.example", edge.nginx.addresses[A]), (".*", server.address))
        port = edge.serve("mixed", *rules, not_tls="default")
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"SSH-2.0-OpenSSH_9\r\n")
            assert read_exactly(client, 19) == b"SSH-2.0-OpenSSH_9\r\n"
        assert curl(Target(port, A, edge.authority.pem)) == b"a.example\n"
    finally:
        edge.remove("mixed")
        server.stop()


def test_a_name_without_a_rule_gets_an_alert(edge: Edge) -> None:
    port = edge.serve("strict", ("host a.example", edge.nginx.addresses[A]))
    try:
        with dial((LOOPBACK, port)) as client:
            client.sendall(hello(named(b"unknown.example")))
            assert read_all(client) == ALERT + b"\x28"
        with pytest.raises(ClientFailed, match="handshake failure"):
            openssl(Target(port, OTHER, edge.authority.pem))
    finally:
        edge.remove("strict")


def test_half_a_hello_costs_only_its_own_connection(edge: Edge) -> None:
    edge.daemon.set(tls_handshake_timeout=1)
    with dial((LOOPBACK, edge.ports["kernel"])) as stalled:
        stalled.sendall(hello(named(A.encode()))[:30])
        assert curl(edge.target("kernel", A)) == b"a.example\n"
        assert read_all(stalled) == ALERT + b"\x28"
    edge.daemon.set(tls_handshake_timeout=10)


# Redis and PostgreSQL.


def redis_cli(edge: Edge, port: int, name: str, *command: str) -> str:
    words = ["--tls", "--cacert", str(edge.authority.pem), "--sni", name, "-h", LOOPBACK, "-p", str(port), *command]
    done = subprocess.run([program("redis-cli"), *words], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_redis_over_tls_by_server_name(edge: Edge, tmp_path: Path) -> None:
    names = ("one.redis.example", "two.redis.example")
    with contextlib.ExitStack() as stack:
        rules = []
        for name in names:
            certificate = edge.authority.issue(name, name, purposes=(SERVER,))
            redis = TLSRedis(tmp_path / name, certificate, edge.authority.pem)
            stack.callback(redis.stop)
            rules.append((f"host {name}", redis.address))
        port = edge.serve("redis", *rules)
        stack.callback(edge.remove, "redis")
        for name in names:
            assert redis_cli(edge, port, name, "SET", "name", name) == "OK"
        for name in names:
            assert redis_cli(edge, port, name, "GET", "name") == name
        value = "v" * 100_000
        assert redis_cli(edge, port, names[0], "SET", "large", value) == "OK"
        assert redis_cli(edge, port, names[0], "GET", "large") == value


ORDERS, STOCK = "orders.db.example", "stock.db.example"


class Databases:
    """Two PostgreSQL with TLS, and one without."""

    def __init__(self, edge: Edge, stack: contextlib.ExitStack) -> None:
        self.edge = edge
        self.tls = {}
        for name in (ORDERS, STOCK):
            self.tls[name] = TLSPostgreSQL(name, edge.authority.issue(name, name, purposes=(SERVER,)))
            stack.callback(self.tls[name].stop)
        self.plain = PostgreSQL()
        stack.callback(self.plain.stop)
        rules = [(f"host {name}", server.address) for name, server in self.tls.items()]
        rules += [("host plain.db.example", self.plain.address)]
        self.port = edge.serve("databases", *rules, starttls="postgresql")
        self.one = free_port()
        edge.daemon.service("one", self.one, self.tls[ORDERS].address)

    def psql(
        self, port: int, host: str, *commands: str, sslmode: str = "verify-full", **options: str
    ) -> subprocess.CompletedProcess[str]:
        where = {"host": host, "hostaddr": LOOPBACK, "port": str(port), "user": "postgres", "dbname": "postgres"}
        where |= {"sslmode": sslmode, "sslrootcert": str(self.edge.authority.pem), "connect_timeout": "10", **options}
        words = ["-X", "-A", "-t", "-d", " ".join(f"{name}={value}" for name, value in where.items())]
        for command in commands or ("SHOW cluster_name",):
            words += ["-c", command]
        return subprocess.run(
            [program("psql"), *words],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
        )


@pytest.fixture(scope="module")
def databases(edge: Edge) -> Iterator[Databases]:
    with contextlib.ExitStack() as stack:
        yield Databases(edge, stack)
    for ident in ("databases", "one"):
        edge.remove(ident)


ENCRYPTED = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.programs
@pytest.mark.parametrize("sslmode", ["verify-full", "require", "prefer"])
def test_postgresql_by_server_name(databases: Databases, sslmode: str) -> None:
    for name in (ORDERS, STOCK):
        done = databases.psql(databases.port, name, "SHOW cluster_name", ENCRYPTED, sslmode=sslmode)
        assert done.stdout.splitlines() == [name, "t|TLSv1.3"], done.stderr


def test_postgresql_with_one_server_needs_no_server_name(databases: Databases) -> None:
    """Everything passes untouched, so the certificate is verified end to end."""
    done = databases.psql(databases.one, ORDERS, "SHOW cluster_name", ENCRYPTED)
    assert done.stdout.splitlines() == [ORDERS, "t|TLSv1.3"], done.stderr


def test_postgresql_copies_bulk_through_tls(databases: Databases) -> None:
    copy = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 3000)) TO STDOUT"
    done = databases.psql(databases.port, ORDERS, copy)
    assert done.stdout.splitlines() == ["x" * 1000] * 3000, done.stderr


def test_postgresql_without_tls_is_told_to_use_it(databases: Databases) -> None:
    done = databases.psql(databases.port, ORDERS, sslmode="disable")
    assert done.returncode == 2
    assert "FATAL:  this service requires TLS: connect with sslmode=require, or a stricter one" in done.stderr


def test_a_postgresql_that_does_not_speak_tls_is_not_served(databases: Databases) -> None:
    daemon = databases.edge.daemon
    daemon.set(debug_level=1)
    done = databases.psql(databases.port, "plain.db.example", sslmode="require")
    assert done.returncode == 2
    assert "SSL error: sslv3 alert handshake failure" in done.stderr
    why = "SSLRequest: the server does not speak TLS (ssl = off in postgresql.conf)"
    daemon.wait_for_log(f"server {databases.plain.address} not connected: {why}")
    daemon.set(debug_level=0)


def test_the_name_of_another_certificate_fails_in_the_client(databases: Databases) -> None:
    """verify-full is the client's own check, which the switch cannot weaken."""
    done = databases.psql(databases.one, STOCK)
    assert done.returncode == 2
    assert f'server certificate for "{ORDERS}" does not match host name "{STOCK}"' in done.stderr


def test_postgresql_is_relayed_by_splice_and_kernel(databases: Databases) -> None:
    edge = databases.edge
    for relay in ("splice", "kernel"):
        edge.daemon.call("edit_service", "databases", relay=relay)
        done = databases.psql(databases.port, STOCK, "SHOW cluster_name", "SELECT repeat('y', 200000)")
        assert done.stdout.splitlines() == [STOCK, "y" * 200_000], done.stderr


# Workers and takeovers.


def asks(client: ssl.SSLSocket, name: str) -> bool:
    """Request the page of that site on a connection that is kept; True when it comes."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    said = read_head(client)
    body = f"{name}\n".encode()
    return said.startswith(b"HTTP/1.1 200 ") and read_exactly(client, len(body)) == body


@pytest.mark.load
@pytest.mark.parametrize("sizes", [[0, 0, 0], [2, 2, 1]], ids=["alone", "workers"])
def test_takeovers_under_load(
    make_daemon: Callable[..., Daemon], stack: contextlib.ExitStack, tmp_path: Path, sizes: list[int]
) -> None:
    """New clients come to the new daemon. The old one relays the connections that it has until they end."""
    daemon = make_daemon(workers=sizes[0])
    daemon.start()
    edge = Edge(daemon, tmp_path)
    stack.callback(edge.nginx.stop)
    loads = [
        Load((LOOPBACK, port), 1, keeps=False, pause=0.01, tls=edge.context(), name=name)
        for port in edge.ports.values()
        for name in (A, B)
    ]
    for load in loads:
        stack.callback(load.stop)
    for size in sizes[1:]:
        with contextlib.ExitStack() as connections:
            kept = [
                (connections.enter_context(edge.connected(relay, name)), name)
                for relay in RULED
                for name in (A, B, OTHER)
            ]
            assert all(asks(client, name) for client, name in kept)
            with undisturbed(loads):
                new = taken_over(make_daemon, daemon, workers=size)
            assert all(asks(client, name) for client, name in kept)
        assert daemon.wait() == 0
        edge.daemon = daemon = new
        for relay in RULED:
            wait_for(lambda: edge.joined(relay), f"connections that are relayed by {relay}")  # noqa: B023
    stop_all(loads)


# Edits.


def test_edits_of_rules_disturb_no_connection(edge: Edge) -> None:
    """Handshakes go on while rules come and go; none of them fails."""
    failures: list[str] = []
    stop = threading.Event()

    def ask(name: str) -> None:
        context = edge.context()
        while not stop.is_set():
            try:
                with dial((LOOPBACK, edge.ports["copy"])) as raw, context.wrap_socket(raw, server_hostname=name) as tls:
                    tls.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    assert read_all(tls).endswith(f"\r\n{name}\n".encode())
            except Exception as error:
                failures.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=ask, args=(name,)) for name in (A, B, OTHER)]
    for thread in threads:
        thread.start()
    for number in range(20):
        rule = f"host x{number}.example *.y{number}.example"
        edge.daemon.call("add_rule", "copy", rule, edge.nginx.addresses[B])
        edge.daemon.call("edit_service", "copy", balance=("rr", "wlc")[number % 2])
        edge.daemon.call("delete_rule", "copy", rule, edge.nginx.addresses[B])
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert failures == []
