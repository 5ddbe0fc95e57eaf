"""Challenges of pebble, a real CA, at switches with workers, through a takeover, and in a cluster."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from etcd_server import EtcdServer
from pebble import CAProxy, NameServer, Pebble
from servers import LOOPBACK, free_port, wait_for

from ktcpvs.cluster.membership import LEASE_SECONDS
from ktcpvs.errors import Busy

from .harness import TIMEOUT, ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

ORDERS = "orders the certificates of ACME"


TELLS_TO_LOOK, ORDERS_ONE = "/chalZ/", "/order-plz"
"""Paths of pebble: where the switch, once it has published a challenge, tells it to look; and where it orders."""


class WatchedCA(CAProxy):
    """tokens: of the challenges over HTTP that it has offered. orders: how many it has accepted."""

    def __init__(self, pebble: Pebble) -> None:
        self.tokens: list[str] = []
        self.orders = 0
        super().__init__(pebble)

    def answer(self, method: str, path: str, fields: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        status, more, content = super().answer(method, path, fields, body)
        if path.startswith("/authZ/"):
            offered = json.loads(content).get("challenges", ())  # not where it refuses a nonce
            self.tokens += [one["token"] for one in offered if one["type"] == "http-01"]
        self.orders += path == ORDERS_ONE and status == 201  # and not one that came with an old nonce
        return status, more, content


class CA:
    """pebble behind a proxy. http_port, tls_port: those at which it looks for challenges."""

    def __init__(self, folder: Path) -> None:
        self.http_port, self.tls_port = free_port(), free_port()
        self.names = NameServer(folder)
        self.pebble = Pebble(folder, self.http_port, self.tls_port, self.names.port)
        self.proxy = WatchedCA(self.pebble)
        self.roots = self.pebble.roots()

    def settings(self, **more: object) -> str:
        given = {"acme_directory": self.proxy.directory, "acme_ca": self.pebble.ca, "acme_retry": 1, **more}
        return "global {\n" + "".join(f"{name} = {value}\n" for name, value in given.items()) + "}\n"

    def certificate(self, port: int, name: str) -> x509.Certificate | None:
        """The certificate that a client gets; None: it is none of this CA."""
        context = ssl.create_default_context(cadata=self.roots)
        try:
            with (
                socket.create_connection((LOOPBACK, port), timeout=TIMEOUT) as raw,
                context.wrap_socket(raw, server_hostname=name) as tls,
            ):
                der = tls.getpeercert(True)
        except (ssl.SSLError, OSError):
            return None
        assert der is not None
        return x509.load_der_x509_certificate(der)

    def issued(self, port: int, name: str, timeout: float = TIMEOUT) -> x509.Certificate:
        said = lambda: f"the certificate; pebble says: {self.pebble.log_path.read_text()[-3000:]}"  # noqa: E731
        found: x509.Certificate = wait_for(lambda: self.certificate(port, name), said, timeout=timeout)
        return found

    def orders(self) -> int:
        return self.proxy.orders

    def stop(self) -> None:
        self.proxy.stop()
        self.pebble.stop()
        self.names.stop()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CA]:
    made = CA(tmp_path_factory.mktemp("ca"))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def usual(ca: CA) -> Iterator[None]:
    yield
    ca.proxy.respond = lambda method, path, body: None


@pytest.fixture(scope="module")
def daemon(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With two workers."""
    folder = tmp_path_factory.mktemp("daemon")
    one = Daemon(control_thread, folder, "--state", folder / "state", workers=2, tls=True, preloaded=True)
    one.start()
    yield one
    one.finish()


@pytest.fixture(autouse=True)
def empty(daemon: Daemon) -> Iterator[None]:
    yield
    if daemon.is_alive:
        daemon.call("stop")
        daemon.call("load", "", allow_empty=True)


def site(name: str, listen: str, *lines: str, ident: str = "site") -> str:
    first = ("scheduler = phttp", *(f"listen = {LOOPBACK}:{one}" for one in listen.split(", ")))
    return "\n".join((f"Virtual {ident} {{", *first, f"certificate = acme {name}", *lines, "}\n"))


def test_both_workers_answer_over_http(ca: CA, daemon: Daemon) -> None:
    port = free_port()
    text = site("a.example", f"{ca.http_port}, {port} tls", "https_only = on", "rule = path / use respond 403")
    daemon.call("load", ca.settings(acme_challenge="http-01") + text)
    daemon.call("start")
    first = ca.issued(port, "a.example")
    for _ in range(20):  # whichever worker accepts
        assert ca.certificate(port, "a.example") == first


def test_both_workers_answer_where_only_tls_listens(ca: CA, daemon: Daemon) -> None:
    text = site("b.example", f"{ca.tls_port} tls", "rule = path / use respond 403")
    daemon.call("load", ca.settings(acme_challenge="tls-alpn-01") + text)
    daemon.call("start")
    ca.issued(ca.tls_port, "b.example")


def ask(port: int, token: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request("GET", f"/.well-known/acme-challenge/{token}")
        response = connection.getresponse()
        return response.status, response.read().decode()


class Held:
    """Holds the requests to the CA with this beginning of the path, until `let_go`."""

    def __init__(self, ca: CA, beginning: str) -> None:
        self._beginning = beginning
        self.has_come, self._may_go_on = threading.Event(), threading.Event()
        ca.proxy.respond = self._respond

    def _respond(self, method: str, path: str, body: bytes) -> None:
        if method == "POST" and path.startswith(self._beginning):
            self.has_come.set()
            self._may_go_on.wait(TIMEOUT)

    def let_go(self) -> None:
        self._may_go_on.set()


def test_a_new_daemon_answers_the_challenges_of_the_old_one(
    ca: CA, daemon: Daemon, control_thread: ControlThread, tmp_path: Path
) -> None:
    """The last test with this daemon."""
    held, port = Held(ca, TELLS_TO_LOOK), free_port()
    text = site("c.example", f"{ca.http_port}, {port} tls", "https_only = on")
    daemon.call("load", ca.settings(acme_challenge="http-01") + text)
    daemon.call("start")
    assert held.has_come.wait(TIMEOUT), daemon.log()
    token = ca.proxy.tokens[-1]
    status, authorization = ask(ca.http_port, token)
    assert (status, authorization.partition(".")[0]) == (200, token)
    options = ("--state", daemon.folder / "state", "--takeover", daemon.control)
    new = Daemon(control_thread, tmp_path, *options, control=daemon.control, workers=2, tls=True, preloaded=True)
    new.run()
    try:
        new.wait_for_log("taken over from")
        for _ in range(10):
            assert ask(ca.http_port, token) == (200, authorization)
        held.let_go()
        assert daemon.wait() == 0
        ca.issued(port, "c.example")
    finally:
        new.finish()


# A cluster.


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    yield server
    server.stop()


class Nodes:
    """Nodes of one cluster, each with a port of its own for HTTPS; node b has the port at which the CA looks."""

    def __init__(self, thread: ControlThread, etcd: EtcdServer, folder: Path, ca: CA) -> None:
        self._thread, self._etcd, self._folder = thread, etcd, folder
        self.ports = {name: free_port() for name in "ab"}
        self.listen = f"{ca.http_port} on b, " + ", ".join(f"{port} tls on {at}" for at, port in self.ports.items())
        self.daemons: dict[str, Daemon] = {}
        self.secret = folder / "secret"
        self.secret.write_bytes(b64encode(b"s" * 32))
        self.secret.chmod(0o600)

    def start(self, name: str) -> Daemon:
        folder = self._folder / name
        folder.mkdir()
        words: list[str | Path] = ["--cluster", f"etcd:{self._etcd.url}/{self._folder.name}", "--node", name]
        words += ["--state", folder / "state", "--cluster-secret", self.secret]
        daemon = self.daemons[name] = Daemon(self._thread, folder, *words, tls=True, preloaded=True)
        daemon.start()
        daemon.wait_for_log(f"node {name} follows")
        return daemon

    def leader(self, asked: str) -> str:
        """The name of the node that orders, as one node knows it; "": none does."""
        rows = self.daemons[asked].call("nodes")["nodes"]
        return next((row["node"] for row in rows if ORDERS in row.get("notes", ())), "")

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:
            for daemon in self.daemons.values():
                stack.callback(daemon.finish)


@pytest.fixture
def nodes(control_thread: ControlThread, etcd: EtcdServer, tmp_path: Path, ca: CA) -> Iterator[Nodes]:
    made = Nodes(control_thread, etcd, tmp_path, ca)
    yield made
    made.stop()


def renewed(daemon: Daemon, name: str) -> bool:
    """Renew a certificate; return False if another node must do that."""
    try:
        daemon.call("renew_certificate", name)
    except Busy:
        return False
    return True


def test_one_node_orders_and_both_serve(ca: CA, nodes: Nodes) -> None:
    """Node a orders, and the CA looks at node b. Then a ends, and b renews."""
    a = nodes.start("a")
    held, orders = Held(ca, ORDERS_ONE), ca.orders()
    a.call("load", ca.settings(acme_challenge="http-01") + site("d.example", nodes.listen))
    a.call("start")
    assert held.has_come.wait(TIMEOUT), a.log()
    b = nodes.start("b")
    wait_for(lambda: nodes.leader("b") == "a", "the other node to know who orders", TIMEOUT)
    held.let_go()
    first = ca.issued(nodes.ports["a"], "d.example")
    assert ca.issued(nodes.ports["b"], "d.example") == first
    assert ca.orders() == orders + 1
    assert not renewed(b, "d.example")
    a.signal(signal.SIGTERM)
    assert a.wait() == 0
    wait_for(lambda: renewed(b, "d.example"), "the other node to order", TIMEOUT)
    assert nodes.leader("b") == "b"
    wait_for(lambda: ca.certificate(nodes.ports["b"], "d.example") not in (first, None), "another certificate", TIMEOUT)
    assert ca.orders() == orders + 2


@pytest.mark.slow
def test_the_other_node_completes_the_order_of_one_that_dies(ca: CA, nodes: Nodes) -> None:
    a = nodes.start("a")
    b = nodes.start("b")
    held, orders = Held(ca, TELLS_TO_LOOK), ca.orders()
    a.call("load", ca.settings(acme_challenge="http-01") + site("f.example", nodes.listen))
    a.call("start")
    assert held.has_come.wait(TIMEOUT), a.log()
    first = nodes.leader("b")
    (other,) = {"a", "b"} - {first}
    nodes.daemons[first].kill()
    held.let_go()
    wait_for(lambda: nodes.leader(other) == other, "the other node to order", timeout=2 * LEASE_SECONDS)
    if other == "b":  # where the CA looks
        ca.issued(nodes.ports["b"], "f.example")
        assert ca.orders() == orders + 1, f"it has gone on with the order of the other one: {b.log()}"
    else:
        nodes.daemons[first].start()
        ca.issued(nodes.ports["a"], "f.example", 2 * TIMEOUT)
