"""Certificates of a CA: pebble issues, renews and refuses them, while clients connect to the real daemon."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from cryptography import x509
from pebble import CAProxy, NameServer, Pebble, refusal
from servers import LOOPBACK, SocketServer, echo, free_port, wait_for

from .harness import TIMEOUT, ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

SELF_SIGNED = "self-signed by ktcpvs"


@frozen
class CA:
    """pebble with its name server, and the proxy in front of it. It looks for challenges at http_port and tls_port."""

    names: NameServer
    pebble: Pebble
    proxy: CAProxy
    http_port: int
    tls_port: int


@pytest.fixture(scope="module")
def running_ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CA]:
    folder = tmp_path_factory.mktemp("ca")
    with contextlib.ExitStack() as stack:
        names = NameServer(folder)
        stack.callback(names.stop)
        http_port, tls_port = free_port(), free_port()
        pebble = Pebble(folder, http_port, tls_port, names.port)
        stack.callback(lambda: pebble.stop())
        proxy = CAProxy(pebble)
        stack.callback(proxy.stop)
        yield CA(names, pebble, proxy, http_port, tls_port)


@pytest.fixture
def ca(running_ca: CA) -> CA:
    running_ca.proxy.respond = lambda method, path, body: None
    running_ca.proxy.window = None
    running_ca.proxy.requests.clear()
    return running_ca


@pytest.fixture(scope="module")
def backend() -> Iterator[SocketServer]:
    server = SocketServer(echo)
    yield server
    server.stop()


def settings(ca: CA, **more: Any) -> str:
    values = {
        "acme_directory": ca.proxy.directory,
        "acme_ca": ca.pebble.ca,
        "acme_challenge": "http-01",
        "acme_retry": 1,
        "certificate_check_interval": 0,
        "drain_timeout": 0,
        **more,
    }
    return "global {" + "".join(f"\n    {name} = {value}" for name, value in values.items()) + "\n}\n"


def configuration(ca: CA, backend: SocketServer, *certificates: str, **more: Any) -> str:
    lines = "".join(f"\n    certificate = {one}" for one in certificates)
    return (
        settings(ca, **more) + f"Virtual site {{\n    listen = {LOOPBACK}:{ca.http_port}\n"
        f"    listen = {LOOPBACK}:{ca.tls_port} tls{lines}\n    https_only = on\n"
        f"    scheduler = phttp\n    server = {backend.address}\n}}\n"
    )


def load(daemon: Daemon, ca: CA, backend: SocketServer, *certificates: str, **more: Any) -> None:
    daemon.call("load", configuration(ca, backend, *certificates, **more))
    daemon.call("start")


ALONE = pytest.param(0, id="alone", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[ALONE, pytest.param(2, id="workers")])
def shared(
    request: pytest.FixtureRequest, control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    daemon = Daemon(
        control_thread, folder, "--state", folder / "state", tls=True, workers=request.param, preloaded=True
    )
    daemon.start()
    yield daemon
    daemon.finish()


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    shared.forget_log()
    yield shared
    shared.clear()


def seen(port: int, name: str) -> x509.Certificate:
    """The certificate that a client gets, without a check."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((LOOPBACK, port), 10) as raw,
        context.wrap_socket(raw, server_hostname=name) as client,
    ):
        return x509.load_der_x509_certificate(client.getpeercert(True) or b"")


def is_trusted(ca: CA, name: str) -> bool:
    """Whether a client that trusts pebble's root accepts the certificate."""
    context = ssl.create_default_context(cadata=ca.pebble.roots())
    with socket.create_connection((LOOPBACK, ca.tls_port), 10) as raw:
        try:
            context.wrap_socket(raw, server_hostname=name).close()
        except ssl.SSLCertVerificationError:
            return False
    return True


def orders(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """First name -> `acme` of its row."""
    return {row["acme"]["names"][0]: row["acme"] for row in daemon.call("certificates") if row["acme"]}


def wait_for_state(daemon: Daemon, name: str, state: str, timeout: float = TIMEOUT) -> dict[str, Any]:
    def has_it() -> bool:
        return orders(daemon)[name]["state"] == state

    wait_for(has_it, lambda: f"{state}: {orders(daemon)} {daemon.log()}", timeout=timeout, pause=0.3)
    return orders(daemon)[name]


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
def test_a_new_service_is_self_signed_until_the_ca_has_issued(
    daemon: Daemon, ca: CA, backend: SocketServer, challenge: str
) -> None:
    name = f"{challenge}.{daemon.folder.name}.example"
    load(daemon, ca, backend, f"acme {name} www.{name}", acme_challenge=challenge)
    wait_for_state(daemon, name, "valid")
    assert is_trusted(ca, name)
    assert is_trusted(ca, f"www.{name}")
    assert orders(daemon)[name]["challenge"] == challenge
    daemon.wait_for_log(f"certificate for {name}, www.{name}: issued by {LOOPBACK}:{ca.proxy.port}, valid until ")
    if daemon.workers():
        assert len({seen(ca.tls_port, name).serial_number for _ in range(10)}) == 1, "all workers have it"


def test_renewals_and_what_the_ca_refuses(daemon: Daemon, ca: CA, backend: SocketServer) -> None:
    name = f"renewed.{daemon.folder.name}.example"
    load(daemon, ca, backend, f"acme {name}")
    wait_for_state(daemon, name, "valid")
    first = seen(ca.tls_port, name).serial_number

    daemon.adm("--renew-certificate")  # there is one certificate only
    wait_for(lambda: seen(ca.tls_port, name).serial_number != first, "another certificate", timeout=TIMEOUT, pause=0.3)
    daemon.wait_for_log(f"certificate for {name}: renewed by ")

    second = wait_for_state(daemon, name, "valid") and seen(ca.tls_port, name).serial_number
    ca.proxy.respond = lambda method, path, body: (
        refusal("rateLimited", "too many certificates already issued", Retry_After="1000")
        if (method, path) == ("POST", "/order-plz")
        else None
    )
    daemon.call("renew_certificate", name)
    failed = wait_for_state(daemon, name, "failed")
    assert failed["error"] == "too many certificates already issued (rateLimited)"
    assert 900 < failed["next"] - time.time() < 1200, "as the CA has asked"
    assert seen(ca.tls_port, name).serial_number == second
    assert "too many certificates already issued (rateLimited); next attempt on " in daemon.adm("--certificates").stdout
    daemon.wait_for_log("issues none: too many certificates already issued (rateLimited); the one until ")
    ca.proxy.respond = lambda method, path, body: None
    daemon.call("renew_certificate", name)
    wait_for_state(daemon, name, "valid")


@pytest.mark.slow
def test_a_revoked_certificate_is_replaced(daemon: Daemon, ca: CA, backend: SocketServer) -> None:
    """The CA says so by a time of renewal that is over (RFC 9773)."""
    name = f"revoked.{daemon.folder.name}.example"
    ca.proxy.window = ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z")
    load(daemon, ca, backend, f"acme {name}", acme_email="admin@example.com")  # other settings: the directory is new
    wait_for(lambda: daemon.log().count(f"{name}: renewed by ") >= 1, daemon.log, timeout=TIMEOUT, pause=0.3)
    ca.proxy.window = ("2099-01-01T00:00:00Z", "2099-01-02T00:00:00Z")
    assert ca.proxy.count("GET", "/renewal-info/") >= 1


def test_a_name_that_leads_elsewhere_is_told_in_the_words_of_the_ca(
    daemon: Daemon, ca: CA, backend: SocketServer
) -> None:
    name = f"elsewhere.{daemon.folder.name}.example"
    ca.names.point(name, "127.0.0.9")
    load(daemon, ca, backend, f"acme {name}")
    wait_for(lambda: orders(daemon)[name]["failures"] >= 1, daemon.log, timeout=TIMEOUT, pause=0.3)
    assert "connection refused (connection)" in orders(daemon)[name]["error"]
    assert seen(ca.tls_port, name).issuer.rfc4514_string() == f"CN={SELF_SIGNED}"
    for host, served in (name, backend.address), ("other.example", None):
        told = daemon.json("--explain", "-i", "site", "GET /", "-P", ca.tls_port, "-H", f"Host: {host}")
        assert told["answer"]["server"] == served, told
    ca.names.forget(name)
    wait_for_state(daemon, name, "valid")
    assert daemon.log().count("connection refused (connection); a self-signed one is in use") == 1


@pytest.mark.slow
def test_a_ca_that_is_down_and_comes_back(daemon: Daemon, ca: CA, backend: SocketServer) -> None:
    name = f"down.{daemon.folder.name}.example"
    ca.proxy.respond = lambda method, path, body: (503, {"Content-Type": "text/html"}, b"down for maintenance")
    load(daemon, ca, backend, f"acme {name}", acme_email="down@example.com")
    failed = wait_for_state(daemon, name, "failed")
    assert failed["error"] == f"{ca.proxy.directory}: unexpected response: 503 Service Unavailable"
    ca.proxy.respond = lambda method, path, body: None
    wait_for_state(daemon, name, "valid")


@pytest.mark.slow
def test_a_ca_that_has_forgotten_everything(daemon: Daemon, ca: CA, backend: SocketServer) -> None:
    name = f"forgotten.{daemon.folder.name}.example"
    load(daemon, ca, backend, f"acme {name}")
    wait_for_state(daemon, name, "valid")
    ca.pebble.stop()
    ca.pebble.start()
    first = seen(ca.tls_port, name).serial_number
    daemon.call("renew_certificate", name)
    wait_for(lambda: seen(ca.tls_port, name).serial_number != first, "another certificate", timeout=TIMEOUT, pause=0.3)
    wait_for_state(daemon, name, "valid")


@pytest.mark.slow
def test_fifty_names(daemon: Daemon, ca: CA, backend: SocketServer) -> None:
    names = [f"n{number}.{daemon.folder.name}.example" for number in range(50)]
    load(daemon, ca, backend, f"acme {' '.join(names)}")
    wait_for_state(daemon, names[0], "valid", timeout=90)
    assert all(is_trusted(ca, name) for name in names[::7])


def _hold(ca: CA) -> Callable[[], None]:
    """Have pebble's orders stay as they are: the CA says that it is busy. Returns what lets them go on."""

    def respond(method: str, path: str, body: bytes) -> Any:
        if path.startswith("/finalize-order/"):
            return refusal("serverInternal", "busy", 500)
        return None

    ca.proxy.respond = respond

    def release() -> None:
        ca.proxy.respond = lambda method, path, body: None

    return release


def order_url(folder: Path, name: str) -> str:
    """The URL of the order in progress, as it is kept."""
    (state,) = folder.glob(f"certificates/{name}-*/state.json")
    order = json.loads(state.read_text())["order"]
    return str(order and order["url"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2], ids=["alone", "workers"])
def test_an_order_goes_on_after_a_crash(
    make_daemon: Callable[..., Daemon], ca: CA, backend: SocketServer, tmp_path: Path, workers: int
) -> None:
    state, name = tmp_path / "state", f"crash.w{workers}.example"
    daemon = make_daemon("--state", state, tls=True, workers=workers)
    daemon.start()
    release = _hold(ca)
    load(daemon, ca, backend, f"acme {name}", acme_retry=600)
    assert wait_for_state(daemon, name, "failed")["error"] == "busy (serverInternal)"
    url = order_url(Path(f"{state}.acme"), name)
    assert url.startswith("https://")
    daemon.restart()
    release()
    daemon.call("renew_certificate", name)
    wait_for_state(daemon, name, "valid")
    assert ca.proxy.count("POST", "/order-plz") <= 2, "one order, perhaps with a nonce that was refused"
    daemon.restart()
    assert orders(daemon)[name]["state"] in ("valid", "waiting")
    assert is_trusted(ca, name)


@pytest.mark.slow
def test_a_takeover_in_the_middle_of_an_order(
    make_daemon: Callable[..., Daemon], ca: CA, backend: SocketServer, tmp_path: Path
) -> None:
    from .test_takeover import taken_over

    state, name = tmp_path / "state", "takeover.example"
    daemon = make_daemon("--state", state, tls=True, workers=2)
    daemon.start()
    release = _hold(ca)
    load(daemon, ca, backend, f"acme {name}", acme_retry=5)
    wait_for_state(daemon, name, "failed")
    new = taken_over(make_daemon, daemon, "--state", state, tls=True, workers=2)
    release()
    wait_for_state(new, name, "valid")
    assert ca.proxy.count("POST", "/order-plz") <= 2
    assert is_trusted(ca, name)
    assert daemon.wait() == 0


def test_without_state_a_service_is_refused(
    make_daemon: Callable[..., Daemon], ca: CA, backend: SocketServer, tmp_path: Path
) -> None:
    config = tmp_path / "site.conf"
    config.write_text(configuration(ca, backend, "acme a.example"))
    daemon = make_daemon("--config", config, tls=True)
    said = daemon.refused()
    assert "service site: certificate = acme needs --state: certificates are kept beside that file" in said
    assert said.count("\n") <= 1
