"""Nodes of a cluster with one --cluster-secret: sessions hold on all of them, and etcd tells nobody any secret."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from authority import Authority
from etcd_server import EtcdServer
from servers import LOOPBACK, Nginx, free_port, program, wait_for

from ktcpvs.cluster.cluster import RETRY_INTERVAL
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.errors import BadValue, Busy, ChangedMeanwhile

from .harness import TIMEOUT, ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

SECRET, OTHER = b"s" * 32, b"o" * 32
PREFIX = "/secrets-test/"
COOKIE_KEY = "not-for-everyone"

Make = Callable[..., Daemon]


def write_secret(path: Path, *secrets: bytes, mode: int = 0o600) -> Path:
    path.write_text("".join(f"{b64encode(secret).decode()}\n" for secret in secrets))
    path.chmod(mode)
    return path


def options(etcd: EtcdServer, name: str, secret: Path | None = None, prefix: str = PREFIX) -> list[str | Path]:
    found: list[str | Path] = ["--cluster", f"etcd:{etcd.url}{prefix.rstrip('/')}", "--node", name]
    return found if secret is None else [*found, "--cluster-secret", secret]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def nodes(
    control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory, etcd: EtcdServer
) -> Iterator[list[Daemon]]:
    """Two nodes, `a` and `b`, with two workers each."""
    made = []
    for name in "ab":
        folder = tmp_path_factory.mktemp(name)
        secret = write_secret(folder / "secret", SECRET)
        words = [*options(etcd, name, secret), "--state", folder / "state"]
        made.append(Daemon(control_thread, folder, *words, workers=2, tls=True, preloaded=True))
        made[-1].start()
        made[-1].wait_for_log(f"node {name} follows")
    wait_for(lambda: state_key(made[0]) == state_key(made[1]), "both nodes to have one secret")
    yield made
    with contextlib.ExitStack() as stack:
        for daemon in made:
            stack.callback(daemon.finish)


@pytest.fixture(autouse=True)
def empty(nodes: list[Daemon]) -> Iterator[None]:
    """Each test begins with an empty table."""
    yield
    a, b = nodes
    wait_for(lambda: a.call("nodes")["connected"] and b.call("nodes")["connected"], "both nodes to follow")
    for daemon in nodes:
        for service in daemon.call("table")["services"]:
            # The node that runs it must stop it; the other node may not know yet that it is stopped.
            with contextlib.suppress(Busy, ChangedMeanwhile):
                daemon.call("stop", service["ident"])
    a.call("load", "", allow_empty=True)
    wait_for(lambda: states(a)["a"] == states(a)["b"] == "ok", lambda: f"both nodes to be in step: {a.call('nodes')}")


def states(daemon: Daemon) -> dict[str, str]:
    return {row["node"]: row["state"] for row in daemon.call("nodes")["nodes"]}


def errors(daemon: Daemon, name: str) -> list[str]:
    """What a node reports, as another one sees it."""
    return next((row["errors"] for row in daemon.call("nodes")["nodes"] if row["node"] == name), [])


def state_key(daemon: Daemon) -> str:
    return str(json.loads((daemon.folder / "state").read_text())["key"])


def serve(daemon: Daemon, ident: str, web: list[Nginx], tls: str = "", certificate: Path | None = None) -> int:
    """Let a node listen first, so that it is the one that serves; return the port."""
    port = free_port()
    more = {} if certificate is None else {"certificate": str(certificate)}
    daemon.call("add_service", ident, listen=f"{LOOPBACK}:{port}{tls}", scheduler="chttp", balance="rr", **more)
    for server in web:
        daemon.call("add_server", ident, server.address)
        daemon.call("add_rule", ident, ".*", server.address)
    daemon.call("start", ident)
    return port


def get(port: int, cookie: str | None = None) -> tuple[str, str | None]:
    """Send a request; return the name of the server, and the cookie that begins a session."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/", headers={} if cookie is None else {"Cookie": cookie})
        response = connection.getresponse()
        body, begun = response.read().decode(), response.headers["Set-Cookie"]
        assert response.status == 200, body
        return body.split()[0], begun and begun.partition(";")[0]
    finally:
        connection.close()


def begin_sessions(port: int) -> dict[str, str]:
    """Begin sessions at all servers; return the name of the server for each cookie."""
    found = {}
    for _ in range(6):
        name, cookie = get(port)
        assert cookie is not None
        found[cookie] = name
    assert len(set(found.values())) == 3
    return found


def have_sessions(port: int, sessions: dict[str, str]) -> bool:
    """Whether the switch at a port knows all sessions; whichever worker is asked."""
    return all(get(port, cookie) == (name, None) for cookie, name in sessions.items() for _ in range(4))


def dump(etcd: EtcdServer) -> dict[str, bytes]:
    """All that is in etcd."""
    everything = b64encode(b"\0").decode()
    asked = json.dumps({"key": everything, "range_end": everything}).encode()
    with urllib.request.urlopen(f"{etcd.url}/v3/kv/range", asked, timeout=TIMEOUT) as response:
        found = json.load(response)["kvs"]
    return {b64decode(pair["key"]).decode(): b64decode(pair.get("value", "")) for pair in found}


def ticket_secrets(etcd: EtcdServer, secret: bytes = SECRET) -> dict[str, str]:
    """The secrets of session tickets, as a node with that secret of the cluster reads them."""
    key = f"{PREFIX}secrets/ticket-secrets"
    return dict(json.loads(Sealer([secret]).open(key, json.loads(dump(etcd)[key])["sealed"])))


def test_a_session_that_one_node_began_goes_on_at_the_other(nodes: list[Daemon], web: list[Nginx]) -> None:
    a, b = nodes
    here, there = serve(a, "here", web), serve(b, "there", web)
    assert have_sessions(there, begin_sessions(here))
    assert have_sessions(here, begin_sessions(there))


def test_the_secret_for_cookies_outlives_a_restart_without_etcd(
    nodes: list[Daemon], web: list[Nginx], etcd: EtcdServer
) -> None:
    a, b = nodes
    here, there = serve(a, "here", web), serve(b, "there", web)
    sessions = begin_sessions(here)
    b.finish()
    etcd.stop()
    try:
        b.start()
        b.wait_for_log("this node goes on with the table that it has")
        wait_for(lambda: have_sessions(there, sessions), "the sessions to go on")
    finally:
        etcd.start()
    wait_for(lambda: b.call("nodes")["connected"], "node b to follow again")


def test_a_worker_that_is_replaced_has_the_shared_secret(nodes: list[Daemon], web: list[Nginx]) -> None:
    a, b = nodes
    here, there = serve(a, "here", web), serve(b, "there", web)
    sessions = begin_sessions(here)
    former = b.workers()
    for worker in former:
        subprocess.run(["kill", "-KILL", str(worker)], check=True)
    b.wait_until_workers_serve(but=former)
    assert have_sessions(there, sessions)


def resume(port: int, session: Path, ca: Path, *options: str) -> bool:
    """Whether the server resumes the session in a file, which gets the next one. Without a file: begin one."""
    words = ["s_client", "-connect", f"{LOOPBACK}:{port}", "-servername", "localhost", "-CAfile", str(ca), "-no-CApath"]
    words += ["-verify_return_error", "-ign_eof", "-sess_out", str(session), *options]
    if session.exists():
        words += ["-sess_in", str(session)]
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    done = subprocess.run([program("openssl"), *words], input=request, capture_output=True, timeout=TIMEOUT)
    said = done.stdout.decode(errors="replace")
    assert "200 OK" in said, said + done.stderr.decode(errors="replace")
    assert ("\nReused, " in said) != ("\nNew, " in said), said
    return "\nReused, " in said


def test_a_session_of_tls_is_resumed_by_another_node(
    nodes: list[Daemon], web: list[Nginx], tmp_path: Path, etcd: EtcdServer
) -> None:
    a, b = nodes
    authority = Authority(tmp_path)
    port = serve(a, "web", web[:1], " tls", authority.daemon("site"))
    files = {version: tmp_path / version for version in ("-tls1_2", "-tls1_3")}
    for version, session in files.items():
        assert not resume(port, session, authority.pem, version)
        assert resume(port, session, authority.pem, version)
    a.finish()
    try:
        wait_for(lambda: states(b) == {"a": "gone", "b": "ok"}, "node b to listen", 2 * RETRY_INTERVAL, 0.2)
        for version, session in files.items():
            assert all(resume(port, session, authority.pem, version) for _ in range(4)), version
        b.call("stop", "web")
    finally:
        a.forget_log()
        a.start()
        a.wait_for_log("node a follows")


def test_nothing_secret_can_be_read_in_etcd(nodes: list[Daemon], etcd: EtcdServer) -> None:
    a, b = nodes
    a.call("set", {"cookie_key": COOKIE_KEY})
    wait_for(lambda: COOKIE_KEY in b.adm("--get", "cookie_key").stdout, "node b to have the key")
    stored = dump(etcd)
    assert {f"{PREFIX}secrets/cookie-secret", f"{PREFIX}secrets/ticket-secrets"} <= set(stored)
    text = b"\n".join(stored.values()).lower()
    secrets = [bytes.fromhex(state_key(a)), bytes.fromhex(ticket_secrets(etcd)["current"]), COOKIE_KEY.encode(), SECRET]
    for secret in secrets:
        for form in (secret, secret.hex().encode(), b64encode(secret)[:20]):
            assert form.lower() not in text
    b.call("set", {"cookie_key": ""})


def test_a_node_with_another_secret_or_none_is_named_and_serves_on(
    nodes: list[Daemon], web: list[Nginx], etcd: EtcdServer, make_daemon: Make, tmp_path: Path
) -> None:
    a = nodes[0]
    a.call("set", {"cookie_key": COOKIE_KEY})
    wrong = make_daemon(*options(etcd, "wrong", write_secret(tmp_path / "other", OTHER)))
    without = make_daemon(*options(etcd, "without"))
    for daemon, name in ((wrong, "wrong"), (without, "without")):
        daemon.start()
        daemon.wait_for_log(f"node {name} follows")
    wait_for(lambda: len(errors(a, "wrong")) == len(errors(a, "without")) == 2, lambda: f"{a.call('nodes')}")
    shown = a.adm("--nodes").stdout.splitlines()
    sealed = "sealed with another --cluster-secret"
    assert f"node wrong: the cluster's secrets cookie-secret, ticket-secrets: {sealed}" in shown
    assert f"node wrong: settings: cookie_key: {sealed}" in shown
    assert "node without: the cluster's secrets are sealed, and this node has no --cluster-secret" in shown
    assert "node without: settings: cookie_key: sealed, and this node has no --cluster-secret" in shown
    assert states(a)["wrong"] == states(a)["without"] == "refused"
    a.call("set", {"read_timeout": "77"})
    port = serve(wrong, "web", web)
    assert have_sessions(port, begin_sessions(port))
    wrong.call("stop", "web")
    for daemon in (wrong, without):
        settings = {one["name"]: one["value"] for one in daemon.call("settings")}
        assert (settings["read_timeout"], settings["cookie_key"]) == (77, "")
    refused = without.adm("--set", "cookie_key=another-one", check=False)
    assert (
        "cookie_key would be readable in etcd: give all nodes of the cluster the same --cluster-secret"
        in refused.stderr
    )
    a.call("set", {"cookie_key": ""})


def test_a_cluster_without_a_secret_stores_none(etcd: EtcdServer, make_daemon: Make) -> None:
    before = dump(etcd)
    one = make_daemon(*options(etcd, "one", prefix="/open/"))
    one.start()
    one.wait_for_log("node one follows")
    with pytest.raises(BadValue, match="cookie_key would be readable in etcd: give all nodes of the cluster the same"):
        one.call("set", {"cookie_key": COOKIE_KEY})
    one.call("set", {"read_timeout": "77"})
    new = {key: value for key, value in dump(etcd).items() if key not in before}
    assert not [key for key in new if "/secrets/" in key]
    assert COOKIE_KEY.encode() not in b"".join(new.values())
    wait_for(lambda: states(one) == {"one": "ok"}, lambda: f"the node to be ok: {one.call('nodes')}")


def test_a_first_node_whose_key_cannot_be_stored_says_so(etcd: EtcdServer, make_daemon: Make, tmp_path: Path) -> None:
    config = tmp_path / "keyed.conf"
    config.write_text(f"global {{ cookie_key = {COOKIE_KEY} }}\n")
    one = make_daemon(*options(etcd, "one", prefix="/keyed/"), "--config", config)
    one.start()
    one.wait_for_log("this node's table cannot be stored: cookie_key would be readable in etcd")
    assert "this node does not follow the cluster: this node's table cannot be stored: " in one.adm("--nodes").stdout
    assert COOKIE_KEY.encode() not in b"".join(dump(etcd).values())


def test_files_that_are_refused(etcd: EtcdServer, make_daemon: Make, tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        return make_daemon(*options(etcd, "bad", path)).refused()

    assert "No such file or directory; make one with (umask 077; head -c 32" in refused(tmp_path / "none")
    assert "others may read or change it (mode 644); try: chmod 600" in refused(
        write_secret(tmp_path / "open", SECRET, mode=0o644)
    )
    assert ":1: expected 32 random bytes" in refused(write_secret(tmp_path / "short", SECRET[:16]))
    alone = make_daemon("--cluster-secret", tmp_path / "short")
    alone.run()
    assert alone.wait() != 0
    assert "--cluster-secret requires --cluster" in alone.log()


# The last test: all others need the first secret.


def upgrade(control_thread: ControlThread, etcd: EtcdServer, nodes: list[Daemon], place: int) -> None:
    """Let a new daemon take over a node; it reads the file of the secret again."""
    old, name = nodes[place], "ab"[place]
    words = [*options(etcd, name, old.folder / "secret"), "--state", old.folder / "state", "--takeover", old.control]
    old.forget_log()
    new = Daemon(control_thread, old.folder, *words, control=old.control, workers=2, tls=True, preloaded=True)
    new.run()
    old.wait_for_log("taken over from", timeout=TIMEOUT)
    assert old.wait() == 0
    old.wait_for_log(f"node {name} follows")
    nodes[place] = new


@pytest.mark.slow
def test_the_secret_is_exchanged_node_by_node_without_an_end_of_sessions(
    control_thread: ControlThread, nodes: list[Daemon], web: list[Nginx], etcd: EtcdServer
) -> None:
    here, there = serve(nodes[0], "here", web), serve(nodes[1], "there", web)
    sessions = begin_sessions(here)
    nodes[0].call("set", {"cookie_key": COOKIE_KEY})
    nodes[0].call("set", {"cookie_key": ""})
    for secrets in ((SECRET, OTHER), (OTHER, SECRET), (OTHER,)):
        for place in range(2):
            write_secret(nodes[place].folder / "secret", *secrets)
            upgrade(control_thread, etcd, nodes, place)
            assert not [error for name in "ab" for error in errors(nodes[0], name) if "sealed" in error]
        assert have_sessions(here, sessions)
        assert have_sessions(there, sessions)
    assert ticket_secrets(etcd, OTHER)
