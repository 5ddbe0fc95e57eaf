"""The recipes of docs/cookbook.md, loaded and used: their commands show what the document shows."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # tests start programs while channels are open
import grpc
from authority import Authority
from cases import check_each
from etcd_server import EtcdServer
from grpc_servers import GRPCServer
from nameserver import NameServer
from proxyprotocol.v2 import ProxyProtocolV2
from servers import LOOPBACK, PostgreSQL, Program, Redis, SocketServer, answers, program, read_exactly, wait_for
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websocket

from .cookbook import DOCUMENT, EXAMPLES, Places, Recipe, certificates, web_server
from .harness import TIMEOUT, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.programs]

Serve = Callable[..., SocketServer]
Cook = Callable[..., Recipe]
Served = Callable[[socket.socket], None]


@pytest.fixture
def prepare(daemon: Daemon, tmp_path: Path) -> Cook:
    """prepare(NAME, paths): a recipe that is not loaded yet. paths: as for Recipe."""
    return lambda name, paths=None: Recipe(daemon, tmp_path, name, paths)


@pytest.fixture
def cook(prepare: Cook, serve: Serve) -> Cook:
    """cook(NAME, serves, paths): a recipe, loaded, with servers.

    serves: what all its servers do; None: nothing, they are down; without it they are web servers.
    """

    def load(name: str, serves: Served | str | None = "web", paths: dict[str, object] | None = None) -> Recipe:
        recipe = prepare(name, paths)
        for address in recipe.servers:
            what = web_server(address.rpartition(":")[0]) if isinstance(serves, str) else serves
            if what is not None:
                serve(what, recipe.where(address))
        recipe.load()
        return recipe

    return load


def page(folder: Path, text: str) -> Path:
    """A file with a page for clients."""
    path = folder / "page.html"
    path.write_text(f"<p>{text}</p>\n")
    return path


SIMPLE = (
    "two-sites",
    "api-by-path",
    "blue-green",
    "sticky-sessions",
    "admin-by-network",
    "https-redirect",
    "security-headers",
    "behind-cdn",
)
"""Recipes that need nothing but web servers."""


@pytest.mark.parametrize("name", SIMPLE)
def test_a_recipe_for_web_servers(cook: Cook, name: str) -> None:
    recipe = cook(name)
    recipe.play()
    recipe.ends()


def test_canary(cook: Cook) -> None:
    recipe = cook("canary")
    recipe.play()
    recipe.play()
    assert "canary" not in recipe.types("tcpvsadm --save"), "it is withdrawn"
    recipe.play()
    assert "rule = name canary share 5% not path /pay/ use server" in recipe.types("tcpvsadm --save"), "it is back"
    recipe.load()
    recipe.play()
    assert recipe.types("tcpvsadm --edit-rule -i shop --rule canary share 20% not path /pay/") == "", "the way back"
    assert "share 20% not path /pay/" in recipe.types("tcpvsadm --save")
    recipe.play()
    assert "test " in recipe.types("tcpvsadm --save")
    recipe.play()
    assert "rule = name stable" in (saved := recipe.types("tcpvsadm --save"))
    assert saved.count("rule =") == saved.count("server = 10.") == 1, saved
    assert "test " not in saved, saved
    assert recipe.types("tcpvsadm -a -i shop -r 10.0.0.11:8080") == ""
    assert recipe.types("tcpvsadm --edit-rule -i shop --rule stable use server 10.0.0.11:8080") == ""
    recipe.ends()


def test_why_there(cook: Cook, tmp_path: Path) -> None:
    recipe = cook("why-there", paths={"/var/log/ktcpvs": tmp_path})
    recipe.play()
    recipe.ends()


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("consul", [(1, 10, "10.0.0.11:20001"), (1, 1, "10.0.0.12:20002")]),
        ("kubernetes", [(0, 50, "10.0.0.21:8080"), (0, 50, "10.0.0.22:8080")]),
    ],
)
def test_servers_by_srv_records(
    make_daemon: Callable[..., Daemon], serve: Serve, tmp_path: Path, name: str, records: list[tuple[int, int, str]]
) -> None:
    names = NameServer()
    try:
        daemon = make_daemon("--nameserver", names.address)
        daemon.start()
        recipe = Recipe(daemon, tmp_path, name)
        found = re.search(r"srv:(\S+)", recipe.text)
        assert found is not None
        targets = []
        for number, (priority, weight, address) in enumerate(records):
            serve(web_server(address.rpartition(":")[0]), recipe.where(address))
            host, port = recipe.where(address)
            names.says(f"node-{number}.test", host)
            targets.append((priority, weight, port, f"node-{number}.test"))
        names.lists(found[1], *targets)
        recipe.load()
        wait_for(lambda: len(daemon.stats("shop")["servers"]) == len(records), timeout=TIMEOUT)
        recipe.play(repeats=True)
        recipe.ends()
    finally:
        names.stop()


def test_login_limit(cook: Cook, tmp_path: Path) -> None:
    said = page(tmp_path, "Too many attempts. Try again in a minute.")
    # On a slow machine, a client of `5/m` could earn another attempt between two commands.
    recipe = cook("login-limit", paths={"/etc/ktcpvs/slow-down.html": said, "rate 5/m": "rate 5/h"})
    recipe.play()
    recipe.ends()


def test_maintenance_page(cook: Cook, tmp_path: Path) -> None:
    recipe = cook("maintenance-page", paths={"/etc/ktcpvs/sorry.html": page(tmp_path, "We will be back soon.")})
    recipe.play()
    recipe.ends()


def test_maintenance_page_in_place_of_errors(cook: Cook, tmp_path: Path) -> None:
    recipe = cook("maintenance-page", None, {"/etc/ktcpvs/sorry.html": page(tmp_path, "We will be back soon.")})
    assert recipe.types("curl http://shop.example/") == "<p>We will be back soon.</p>\n"


@pytest.fixture
def echo_by_websocket() -> Iterator[Callable[[tuple[str, int], str], None]]:
    """start(WHERE, NAME): a server in a thread that sends each message back, with its name."""
    with contextlib.ExitStack() as stack:

        def start(where: tuple[str, int], name: str) -> None:
            def echo(connection: ServerConnection) -> None:
                for message in connection:
                    connection.send(f"{name} {message!s}")

            server = stack.enter_context(serve_websocket(echo, *where))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)

        yield start


def test_websocket(prepare: Cook, echo_by_websocket: Callable[[tuple[str, int], str], None], tmp_path: Path) -> None:
    ours = "10.0.0.41:8081", "10.0.0.42:8081"
    recipe = prepare("websocket")
    for address in ours:
        echo_by_websocket(recipe.where(address), address)
    recipe.load()
    recipe.play(repeats=True)  # curl waits for half a second, in which a busy machine may not respond
    (tmp_path / "deploy").write_text("#!/bin/sh\necho deployed $1\n")
    (tmp_path / "deploy").chmod(0o755)
    url = f"ws://{LOOPBACK}:{recipe.places.port(80)}/socket"
    with connect(url, proxy=None) as one, connect(url, proxy=None) as two:
        said = set()
        for client in (one, two):
            client.send("hello")
            said.add(client.recv(timeout=20))
        assert said == {f"{address} hello" for address in ours}
        recipe.play()
        assert {client.close_code for client in (one, two)} == {None, 1012}
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(connect(url, proxy=None))
            recipe.play()
        recipe.ends()


class Member(PostgreSQL):
    """A PostgreSQL at an address of its own. leader: a replica of that one; None: it is the primary."""

    def __init__(self, where: tuple[str, int], leader: Member | None = None) -> None:
        self.host, self._port = where
        self._leader = leader
        super().__init__()

    def making(self, data: str) -> list[str]:
        leader = self._leader
        if leader is None:
            return super().making(data)
        words = ["-h", leader.host, "-p", str(leader._port), "-U", "postgres", "-c", "fast", "-R", "--no-sync"]
        return [program("pg_basebackup"), "-D", data, *words]

    def options(self) -> list[str]:
        return ["-h", self.host, "-p", str(self._port)]

    def query(self, text: str) -> str:
        """Return what a query says; "": it is not there."""
        words = ["psql", "-X", "-At", "-h", self.host, "-p", str(self._port), "-U", "postgres", "-c", text]
        return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout.strip()

    def patroni(self, sock: socket.socket) -> None:
        """What Patroni says of it by HTTP: `/primary` and `/replica` are 200 or 503."""
        with sock.makefile("rb") as stream:
            while line := stream.readline():
                while stream.readline().strip():
                    pass
                role = {"f": b"/primary", "t": b"/replica"}.get(self.query("SELECT pg_is_in_recovery()"))
                status = b"200 OK" if line.split()[1] == role else b"503 Service Unavailable"
                sock.sendall(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)


@pytest.mark.long
def test_postgresql_with_patroni(prepare: Cook, serve: Serve) -> None:
    """With a primary and a replica; the third server is down."""
    recipe = prepare("postgresql", {"db.example": LOOPBACK})
    with contextlib.ExitStack() as stack:
        primary = Member(recipe.where("10.0.2.1:5432"))
        stack.callback(primary.stop)
        replica = Member(recipe.where("10.0.2.2:5432"), primary)
        stack.callback(replica.stop)
        for member in (primary, replica):
            serve(member.patroni, (member.host, recipe.places.port(8008)))
        recipe.load()
        recipe.play(repeats=True)
        primary.stop()
        assert replica.query("SELECT pg_promote()") == "t"
        recipe.play(repeats=True)
    recipe.ends()


def test_redis(prepare: Cook, tmp_path: Path) -> None:
    one, two = "10.0.3.1:6379", "10.0.3.2:6379"
    recipe = prepare("redis", {"redis.example": LOOPBACK})
    with contextlib.ExitStack() as stack:
        servers = []
        for address, more in ((one, ()), (two, ("--replicaof", *map(str, recipe.where(one))))):
            folder = tmp_path / f"redis{len(servers)}"
            folder.mkdir()
            servers.append(Redis(folder, recipe.where(address), *more))
            stack.callback(servers[-1].stop)
        recipe.load()
        recipe.play(repeats=True)

        def second(*words: str) -> str:
            host, port = recipe.where(two)
            done = subprocess.run(["redis-cli", "-h", host, "-p", str(port), *words], capture_output=True, text=True)
            return done.stdout

        wait_for(lambda: second("GET", "visits") == "1\n")
        servers[0].stop()
        assert second("REPLICAOF", "NO", "ONE") == "OK\n"
        recipe.play(repeats=True)
    recipe.ends()


def mail_server(letters: list[tuple[str, list[bytes]]]) -> Served:
    """A mail server that expects the PROXY protocol. letters: those that came, each with the address of its sender."""

    def serve(sock: socket.socket) -> None:
        header = read_exactly(sock, 16)
        header += read_exactly(sock, int.from_bytes(header[14:16], "big"))
        sender = getattr(ProxyProtocolV2().unpack(header), "source", None)  # a check has none
        with sock.makefile("rwb", buffering=0) as stream:
            stream.write(b"220 mail.example\r\n")
            while command := stream.readline():
                word = command[:4].upper()
                if word == b"DATA":
                    stream.write(b"354 go ahead\r\n")
                    letters.append((str(sender[0]) if sender else "", list(iter(stream.readline, b".\r\n"))))
                stream.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")

    return serve


def test_smtp(cook: Cook, tmp_path: Path) -> None:
    letters: list[tuple[str, list[bytes]]] = []
    (tmp_path / "letter.txt").write_bytes(b"Subject: hello\r\n\r\nHello Bob\r\n")
    recipe = cook("smtp", mail_server(letters))
    recipe.play()
    recipe.ends()
    assert letters == [(LOOPBACK, [b"Subject: hello\r\n", b"\r\n", b"Hello Bob\r\n"])]


DEPLOY = """#!/bin/sh
for i in 1 2 3 4; do curl http://shop.example/ >> seen; done
echo deployed $1
"""
"""A program that deploys, and notes who serves meanwhile."""


def test_drain_for_a_deploy(cook: Cook, tmp_path: Path) -> None:
    recipe = cook("drain")
    (tmp_path / "deploy").write_text(DEPLOY)
    (tmp_path / "deploy").chmod(0o755)
    recipe.play()
    recipe.ends()
    assert recipe.places.there((tmp_path / "seen").read_text()) == "10.0.0.12 GET /\n" * 4


def test_grpc(prepare: Cook, tmp_path: Path) -> None:
    """The second server is down."""
    recipe = prepare("grpc", {"shop.Orders": "test.Echo"})
    server = GRPCServer(tmp_path, plain=recipe.where("10.0.5.1:50051"))
    try:
        recipe.load()
        recipe.play(repeats=True)
        recipe.ends()
        credentials = grpc.ssl_channel_credentials(recipe.authority.pem.read_bytes())
        options = [("grpc.ssl_target_name_override", "api.example")]
        with grpc.secure_channel(f"{LOOPBACK}:{recipe.places.port(443)}", credentials, options) as channel:
            bidi = channel.stream_stream("/test.Echo/Bidi")
            assert list(bidi(iter((b"one", b"two")), timeout=20)) == [b"one", b"two"]
    finally:
        server.stop()


def test_mtls_between_services(prepare: Cook, serve: Serve) -> None:
    recipe = prepare("service-to-service")
    serve(web_server("stock"), recipe.where("127.0.0.1:7002"))
    recipe.load()
    recipe.play()
    recipe.ends()


def test_one_site_on_two_machines(
    make_daemon: Callable[..., Daemon], serve: Serve, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    etcd = EtcdServer(tmp_path)
    stack.callback(etcd.stop)
    options = ("--cluster", f"etcd:{etcd.url}/two-machines", "--node")
    nodes = [make_daemon(*options, f"node-{name}") for name in "ab"]
    for node in nodes:
        node.start()
        node.wait_for_log("node node-")
    recipe = Recipe(nodes[0], tmp_path, "two-machines")
    for address in recipe.servers:
        serve(web_server(address.rpartition(":")[0]), recipe.where(address))
    recipe.load()
    of_a, of_b = recipe.where("10.0.0.5:80"), recipe.where("10.0.0.6:80")
    wait_for(lambda: answers(*reversed(of_b)), "node b to listen")
    for host, port in (of_a, of_b):
        with urllib.request.urlopen(f"http://{host}:{port}/cart", timeout=10) as response:
            assert response.read().endswith(b" GET /cart\n")
    recipe.play(repeats=True)
    recipe.play()
    recipe.ends()
    wait_for(lambda: answers(*reversed(of_a)), "node a to listen again")


# The document, and the configurations of others.


def test_the_document_shows_every_file_and_no_other() -> None:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    kinds = {"ktcpvs": ".conf", "haproxy": ".haproxy.cfg", "nginx": ".nginx.conf"}
    shown = [(kinds[kind], body) for kind, body in blocks if kind in kinds]
    files = [(path.name[path.name.index(".") :], path.read_text()) for path in EXAMPLES.iterdir()]
    assert sorted(shown) == sorted(files)


class Others:
    """Checks configurations of HAProxy and nginx, in a folder with the files that they name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        files = {"slow-down.html": "slow", "sorry.html": "sorry", "live.map": "shop blue", "closed.acl": ""}
        files["sorry.http"] = "HTTP/1.0 503 Service Unavailable\r\n\r\nsorry"
        for name, text in files.items():
            (folder / name).write_text(text)
        paths = {f"/etc/haproxy/{name}": folder / name for name in files}
        self.paths = {**paths, "/etc/nginx/pages": folder, "/run/haproxy/admin.sock": folder / "admin.sock"}

    def write(self, path: Path, places: Places | None = None) -> Path:
        """Write a file of the cookbook as `places` say; None: places of its own."""
        text = path.read_text()
        here = (places or Places()).here(text)
        for old, new in {**certificates(text, self.authority), **self.paths}.items():
            here = here.replace(old, str(new))
        written = self.folder / path.name
        written.write_text(here)
        return written

    def run(self, *words: object) -> None:
        """Run a program, which must succeed and warn of nothing."""
        name, *more = map(str, words)
        done = subprocess.run([program(name), *more], capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert not re.search(r"(?i)\bwarn", said), said


@pytest.fixture
def others(tmp_path: Path) -> Others:
    return Others(tmp_path)


def named(pattern: str) -> list[Path]:
    return sorted(EXAMPLES.glob(pattern))


RECIPES = [path.stem for path in named("*.conf") if not path.stem.endswith(".nginx")]


def test_every_recipe_has_both_others() -> None:
    assert [path.name for path in named("*.haproxy.cfg")] == sorted(
        f"{name}.haproxy.cfg" for name in (*RECIPES, "defaults")
    )
    assert [path.name for path in named("*.nginx.conf")] == sorted(f"{name}.nginx.conf" for name in RECIPES)


def test_haproxy_accepts_its_configurations(others: Others) -> None:
    check_each(RECIPES, lambda name: others.run("haproxy", "-c", *haproxy(others, name)))


def haproxy(others: Others, name: str, places: Places | None = None) -> list[str]:
    """The arguments with which HAProxy does what a recipe does."""
    files = [others.write(EXAMPLES / f"{part}.haproxy.cfg", places) for part in ("defaults", name)]
    return ["-f", str(files[0]), "-f", str(files[1])]


NGINX = """
load_module {modules}/ngx_stream_module.so;
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
{begin}
include {file};
{end}
"""


def nginx(others: Others, name: str, places: Places | None = None) -> list[str]:
    """The arguments with which nginx does what a recipe does."""
    file = others.write(EXAMPLES / f"{name}.nginx.conf", places)
    is_http = "\nstream {" not in f"\n{file.read_text()}"
    values = {"folder": others.folder, "modules": "/usr/lib/nginx/modules", "file": file}
    begin, end = ("http { access_log off;", "}") if is_http else ("", "")
    user = "user root;" if os.getuid() == 0 else ""
    path = others.folder / "nginx.conf"
    path.write_text(NGINX.format(begin=begin, end=end, user=user, **values))
    return ["-e", str(others.folder / "error.log"), "-c", str(path)]


def test_nginx_accepts_its_configurations(others: Others) -> None:
    check_each(RECIPES, lambda name: others.run("nginx", "-t", *nginx(others, name)))


@pytest.mark.parametrize("other", [haproxy, nginx], ids=["haproxy", "nginx"])
@pytest.mark.parametrize("name", ["two-sites", "api-by-path", "canary"])
def test_another_program_does_the_same(
    prepare: Cook, serve: Serve, others: Others, name: str, other: Callable[[Others, str, Places], list[str]]
) -> None:
    """With the commands of the document, where they show nothing but what servers respond."""
    recipe = prepare(name)
    for address in recipe.servers:
        serve(web_server(address.rpartition(":")[0]), recipe.where(address))
    port = recipe.places.port(80)
    words = other(others, name, recipe.places)
    running = Program(other.__name__, ["-db", *words] if other is haproxy else words, others.folder)
    try:
        running.wait_until(lambda: answers(port))
        recipe.play_on_another()
    finally:
        running.stop()
