"""chttp with real servers: a session stays at its server, and moves when that server is gone."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, SocketServer, free_port, program

from .harness import Daemon

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]

COOKIE = "KTCPVS_SID"


def configuration(port: int, *servers: str, rules: tuple[str, ...] = (), more: str = "", settings: str = "") -> str:
    """A configuration with a service `web` of chttp. Without `rules` it has one rule with all servers."""
    rules = rules or (f'pattern ".*" use {" ".join(f"server {server}" for server in servers)}',)
    lines = [f"server = {server}" for server in servers] + [f"rule = {rule}" for rule in rules]
    head = f"listen = {LOOPBACK}:{port} scheduler = chttp balance = rr {more}"
    return "\n".join([f"global {{ {settings} }}", "Virtual web {", head, *lines, "}"])


def started(daemon: Daemon, *servers: str, rules: tuple[str, ...] = (), more: str = "") -> int:
    """Start such a service; return its port."""
    port = free_port()
    daemon.call("load", configuration(port, *servers, rules=rules, more=more))
    daemon.call("start")
    return port


def get(
    port: int, cookie: str | None = None, path: str = "/", body: bytes | None = None
) -> tuple[int, bytes, list[str]]:
    """Send a request on a new connection; return (status, body, the Set-Cookie lines)."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    try:
        headers = {} if cookie is None else {"Cookie": cookie}
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get_all("Set-Cookie", [])
    finally:
        connection.close()


class Browser:
    """A client that keeps its cookie. port: of the service. changes: how often the cookie was set."""

    def __init__(self, port: int, cookie: str | None = None) -> None:
        self.port = port
        self.cookie = cookie
        self.changes = 0

    def visit(self, path: str = "/") -> str:
        """Request `path`; return the name of the server."""
        status, body, set_cookies = get(self.port, self.cookie, path)
        assert status == 200, body
        for line in set_cookies:
            self.cookie = line.partition(";")[0]
            self.changes += 1
        return body.decode().split()[0]


def test_a_session_stays_at_its_server(daemon: Daemon, web: list[Nginx]) -> None:
    browsers = [Browser(started(daemon, *(server.address for server in web)))]
    browsers += [Browser(browsers[0].port) for _ in range(5)]
    first = [browser.visit() for browser in browsers]
    assert sorted(first) == ["r1", "r1", "r2", "r2", "r3", "r3"]
    for path in ("/", "/x?y", "/a/b"):
        assert [browser.visit(path) for browser in browsers] == first
    assert [browser.changes for browser in browsers] == [1] * 6
    assert len({browser.cookie for browser in browsers}) == 3, "clients of one server have one cookie"


@pytest.mark.parametrize("secure", [False, True])
def test_curl_keeps_the_cookie(daemon: Daemon, web: list[Nginx], tmp_path: Path, secure: bool) -> None:
    """curl parses Set-Cookie itself; over plain HTTP it does not send a cookie that is Secure."""
    more = "cookie_secure = on" if secure else ""
    port = started(daemon, *(server.address for server in web), more=more)
    jar = tmp_path / "jar"
    command = [program("curl"), "-sS", "--noproxy", "*", "-m", "20", "-i", "-c", str(jar), "-b", str(jar)]
    command += ["--resolve", f"shop.test:{port}:{LOOPBACK}"]  # curl trusts loopback addresses with all cookies
    said = [
        subprocess.run([*command, f"http://shop.test:{port}/{n}"], capture_output=True, text=True, check=True).stdout
        for n in range(4)
    ]
    names = [answer.split("\n\n")[1].split()[0] for answer in said]
    assert len(set(names)) == (3 if secure else 1)
    ending = "; Secure" if secure else ""
    assert re.search(rf"^Set-Cookie: {COOKIE}=\w{{32}}; Path=/; HttpOnly; SameSite=Lax{ending}$", said[0], re.M)
    assert [f"{COOKIE}=" in answer for answer in said] == [True, secure, secure, secure]
    assert ("#HttpOnly_shop.test" in jar.read_text()) is not secure


def show(sock: socket.socket) -> None:
    """A small HTTP server whose responses hold all that it has received."""
    with sock.makefile("rb") as stream:
        while line := stream.readline():
            seen = line
            while (line := stream.readline()) not in (b"\r\n", b""):
                seen += line
            length = re.search(rb"(?im)^content-length: (\d+)", seen)
            seen += b"\r\n" + stream.read(int(length[1]) if length else 0)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(seen), seen))


def test_the_server_does_not_see_the_cookie(daemon: Daemon, serve: Callable[..., SocketServer]) -> None:
    port = started(daemon, serve(show).address)
    _, _, (set_cookie,) = get(port)
    ours = set_cookie.partition(";")[0]
    for sent, seen in (
        (ours, None),
        (f"{COOKIE}=old", None),
        (f"a=1; {ours}; b=2", b"a=1; b=2"),
        (f"a={COOKIE}; {ours}", f"a={COOKIE}".encode()),
        (f"b=2; X{ours}", f"b=2; X{ours}".encode()),
    ):
        for body in (None, b"body " + ours.encode()):
            status, said, _ = get(port, sent, "/" + ours, body)
            head, _, rest = said.partition(b"\r\n\r\n")
            assert status == 200
            assert re.findall(rb"(?im)^cookie: *(.*)\r?$", head) == ([] if seen is None else [seen.rstrip()]), sent
            assert head.startswith(b"GET /" if body is None else b"POST /")
            assert ours.encode() in head.splitlines()[0], "only header lines are cleaned"
            assert rest == (body or b"")


def test_a_quiesced_server_keeps_its_sessions_and_a_deleted_one_does_not(daemon: Daemon, web: list[Nginx]) -> None:
    port = started(daemon, *(server.address for server in web))
    there = Browser(port)
    name = there.visit()
    server = next(server for server in web if server.name == name)
    daemon.adm("-e", "-i", "web", "-r", server.address, "-w", 0)
    assert [there.visit() for _ in range(3)] == [name] * 3
    assert name not in [Browser(port).visit() for _ in range(6)]
    assert there.changes == 1

    others = [one.address for one in web if one is not server]
    daemon.call("load", configuration(port, *others))
    elsewhere = there.visit()
    assert elsewhere != name
    assert [there.visit() for _ in range(3)] == [elsewhere] * 3
    assert there.changes == 2


def test_sessions_of_a_killed_server_move_with_a_new_cookie(
    daemon: Daemon, web: list[Nginx], nginx: Callable[[str], Nginx]
) -> None:
    mortal = nginx("mortal")
    port = started(daemon, mortal.address, web[0].address, web[1].address)
    browsers = [Browser(port) for _ in range(6)]
    first = [browser.visit() for browser in browsers]
    before = [browser.cookie for browser in browsers]
    assert first.count("mortal") == 2
    mortal.stop()
    second = [browser.visit() for browser in browsers]
    assert "mortal" not in second
    for name, now, cookie, browser in zip(first, second, before, browsers, strict=True):
        assert (now == name) == (name != "mortal")
        assert (browser.cookie == cookie) == (name != "mortal")
    mortal.start()
    assert [browser.visit() for browser in browsers] == second, "whoever has moved stays"
    assert "mortal" in [Browser(port).visit() for _ in range(3)]


def test_rules_with_servers_of_their_own(daemon: Daemon, web: list[Nginx]) -> None:
    r1, r2, r3 = (server.address for server in web)
    rules = (f'pattern "^/shop" use server {r1} server {r2}', f'pattern ".*" use server {r3}')
    port = started(daemon, r1, r2, r3, rules=rules)
    for shop in ("r1", "r2", "r1"):
        browser = Browser(port)
        paths = ("/shop", "/page", "/page", "/shop", "/shop/x", "/")
        assert [browser.visit(path) for path in paths] == [shop, "r3", "r3", shop, shop, "r3"]
        assert browser.changes == 2
        assert re.fullmatch(rf"{COOKIE}=\w{{32}}\.\w{{32}}", browser.cookie or "")


def test_later_clients_get_sessions_too(daemon: Daemon, web: list[Nginx]) -> None:
    port = started(daemon, web[0].address)
    for _ in range(4):
        browser = Browser(port)
        for _ in range(3):
            browser.visit()
        assert browser.changes == 1


def test_rules_that_share_a_server(daemon: Daemon, web: list[Nginx]) -> None:
    r1, r2, r3 = (server.address for server in web)
    rules = (f'pattern "^/shop" use server {r1} server {r2}', f'pattern ".*" use server {r2} server {r3}')
    browser = Browser(started(daemon, r1, r2, r3, rules=rules))
    assert [browser.visit(path) for path in ("/shop", "/shop", "/page", "/shop")] == ["r1", "r1", "r2", "r1"]


def test_a_forged_cookie_is_replaced(daemon: Daemon, web: list[Nginx]) -> None:
    port = started(daemon, *(server.address for server in web))
    honest = Browser(port)
    name = honest.visit()
    assert honest.cookie is not None
    sid = honest.cookie.partition("=")[2]
    forgeries = [
        web[0].address, "", "0" * 32, sid.upper(), sid[:-1], sid + "0", sid[::-1], f"{sid}/../", "%00", "é", "a" * 4000,
        ".".join(["0" * 32] * 60), f'"{"0" * 32}"',
    ]  # fmt: skip
    for forged in forgeries:
        browser = Browser(port, f"{COOKIE}={forged}")
        new = browser.visit()
        assert browser.changes == 1, forged
        assert re.fullmatch(rf"{COOKIE}=[0-9a-f]{{32}}", browser.cookie or "")
        assert browser.visit() == new
        assert browser.changes == 1
    assert honest.visit() == name
    assert honest.changes == 1


def test_switches_with_the_same_key_share_sessions(make_daemon: Make, web: list[Nginx], tmp_path: Path) -> None:
    addresses = [server.address for server in web]
    ports = [free_port() for _ in range(3)]
    for port, key in zip(ports, ("one-for-both", "one-for-both", "of-its-own"), strict=True):
        file = tmp_path / f"{port}.conf"
        file.write_text(configuration(port, *addresses, settings=f"cookie_key = {key}"))
        make_daemon("--config", file).start()
    browser = Browser(ports[0])
    name = browser.visit()
    for port in ports[:2] * 3:  # whoever is new meets the next server each time
        browser.port = port
        assert browser.visit() == name
        assert Browser(port).visit()
    assert browser.changes == 1
    browser.port = ports[2]
    browser.visit()
    assert browser.changes == 2, "another's cookie is none"


def test_sessions_survive_a_restart_with_the_state_file(make_daemon: Make, web: list[Nginx], tmp_path: Path) -> None:
    file, port = tmp_path / "ktcpvs.conf", free_port()
    file.write_text(configuration(port, *(server.address for server in web)))
    daemon = make_daemon("--config", file, "--state", tmp_path / "state")
    daemon.start()
    browsers = [Browser(port) for _ in range(3)]
    first = [browser.visit() for browser in browsers]
    assert sorted(first) == ["r1", "r2", "r3"]
    daemon.restart()
    assert [browser.visit() for browser in browsers[::-1]] == first[::-1]
    assert [browser.changes for browser in browsers] == [1, 1, 1]

    daemon.kill()
    (tmp_path / "state").unlink()
    daemon.start()
    for browser in browsers:
        browser.visit()
    assert [browser.changes for browser in browsers] == [2, 2, 2], "another key"
