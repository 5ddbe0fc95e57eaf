"""tcpvsadm --explain, --maxconn, and options that -A and -E take as NAME=VALUE."""

from __future__ import annotations

import http.client
import re
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest
from authority import SERVER, Authority
from servers import LOOPBACK, Nginx, SocketServer, dial, echo, free_port, program, read_exactly, wait_for

from .harness import Daemon

pytestmark = pytest.mark.e2e


def get(port: int, path: str, **headers: str) -> tuple[str, str]:
    """Request `path` on a new connection; return (the body's first word, Set-Cookie)."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.read().decode().split()[0], answer.getheader("Set-Cookie", "").partition(";")[0]
    finally:
        connection.close()


def answer_of(text: str) -> str:
    """The server that an explanation names."""
    found = re.search(r"^Answer: (\S+)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def test_explain_predicts_what_happens(daemon: Daemon, web: list[Nginx]) -> None:
    adm, port = daemon.adm, free_port()
    r1, r2, r3 = (server.address for server in web)
    names = {server.address: name for server, name in zip(web, ("r1", "r2", "r3"), strict=True)}
    adm("-A", "-i", "web", "-s", "chttp", "-l", f"{LOOPBACK}:{port}", "via=append", "balance=rr")
    for address in (r1, r2, r3):
        adm("-a", "-i", "web", "-r", address, "--maxconn", 50)
    adm("-e", "-i", "web", "-r", r3, "-w", 0)
    adm("--add-rule", "-i", "web", "-p", "^/images/", "-r", r1)
    for address in (r1, r2, r3):
        adm("--add-rule", "-i", "web", "-p", ".*", "-r", address)
    assert "is stopped: this is what it would do" in adm("--explain", "-i", "web").stdout
    adm("--start", "-i", "web")
    before = daemon.stats("web")

    printed = adm("--explain", "-i", "web", "GET /images/x", "-H", "Accept: a", "-H", "Accept: b").stdout
    assert re.sub(r"KTCPVS_SID=\w+", "KTCPVS_SID=X", re.sub(r" +", " ", printed)) == dedent(f"""\
        Service web, running: scheduler chttp (each request)
        Request: GET /images/x, from 127.0.0.1
         Host: {LOOPBACK}:{port}
         Accept: a
         Accept: b

        Rules tried:
         1 ^/images/ matches

        Servers considered:
         Server State Active Weight MaxConn
         {r1} up 0 1 50

        Notes:
         no cookie KTCPVS_SID
         the response gets Set-Cookie: KTCPVS_SID=X; Path=/; HttpOnly; SameSite=Lax

        Answer: {r1}
         rule 1 '^/images/', the only server, a new session
        """)

    said = [answer_of(adm("--explain", "-i", "web", "GET", "/", "HTTP/1.1").stdout) for _ in range(2)]
    assert len(set(said)) == 1, "asking uses up nobody's turn"
    server, cookie = get(port, "/")
    assert server == names[said[0]]
    other = answer_of(adm("--explain", "-i", "web", "GET /").stdout)
    assert other != said[0]
    kept = adm(
        "--explain", "-i", "web", "GET http://example.org/x?y", "-H", f"Cookie: {cookie}", "--from", "::1"
    ).stdout
    assert answer_of(kept) == said[0]
    assert f"cookie KTCPVS_SID names {said[0]}" in kept
    assert "Request: GET http://example.org/x?y, from ::1" in kept
    assert re.search(rf"^  {r3} +quiesced +0 +0 +50$", kept, re.MULTILINE)
    assert get(port, "/x?y", Cookie=cookie)[0] == names[said[0]]

    after = daemon.stats("web")
    assert after["stats"]["total"] - before["stats"]["total"] == 2, "explanations are no clients"
    answer = daemon.json("--explain", "-i", "web", "GET /images/x")
    assert (answer["answer"]["outcome"], answer["answer"]["server"]) == ("server", r1)
    assert [rule["why"] for rule in answer["rules"]] == ["matches"]


@pytest.mark.parametrize("workers", [0, 2])
def test_explain_knows_which_names_have_a_certificate(
    daemon: Daemon, web: list[Nginx], workers: int, tmp_path: Path
) -> None:
    """As a client does, which learns it in the handshake."""
    port, server, authority = free_port(), web[0].address, Authority(tmp_path)
    certificate = str(authority.issue("shop", "shop.example", purposes=(SERVER,)))
    daemon.service("shop", f"{LOOPBACK}:{port} tls", server, scheduler="phttp", certificate=[certificate])

    def asked(name: str) -> int:
        """Connect with that name, and return the status of curl: 35 for a handshake that the server refuses."""
        url = ["--connect-to", f"{name}:443:{LOOPBACK}:{port}", f"https://{name}/"]
        command = [program("curl"), "-s", "--max-time", "20", "--cacert", str(authority.pem), "-o", "/dev/null", *url]
        return subprocess.run(command, check=False).returncode

    assert (asked("shop.example"), asked("other.example")) == (0, 35)
    explained = [
        daemon.adm("--explain", "-i", "shop", "GET /", "-P", port, *header).stdout
        for header in (("-H", "Host: shop.example"), ("-H", "Host: other.example"), ())
    ]
    assert answer_of(explained[0]) == server
    refused = (
        "Answer: no server\n  TLS: the client asks for a server name without certificate: the handshake is refused\n"
    )
    assert explained[1].endswith(refused), explained[1]
    assert answer_of(explained[2]) == server
    assert "TLS: the client asks for no server name: the handshake is refused; with -H 'Host: NAME' it" in explained[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_explain_knows_the_servers_that_workers_have_ejected(daemon: Daemon, web: list[Nginx], workers: int) -> None:
    """As a worker does it, by its own errors."""
    adm, port, dead, backup = daemon.adm, free_port(), f"{LOOPBACK}:{free_port()}", web[1].address
    adm("-A", "-i", "s", "-s", "phttp", "-l", f"{LOOPBACK}:{port}", "eject_time=300")
    adm("-a", "-i", "s", "-r", dead)
    adm("-a", "-i", "s", "-r", backup, "backup")
    adm("--start", "-i", "s")
    assert answer_of(adm("--explain", "-i", "s", "GET /").stdout) == dead
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=30)) as client:
        for _ in range(5):  # with one worker: the other has no error
            client.request("GET", "/")
            assert client.getresponse().read().split()[0] == b"r2"
    many = f"in 1 of {workers} workers: " if workers else ""
    reason = f"{many}5 consecutive errors, the last: "
    explained = daemon.json("--explain", "-i", "s", "GET /")
    server = next(one for one in explained["servers"] if one["address"] == dead)
    assert server["ejected"].startswith(reason)
    assert server["last_error"]
    assert any("not all workers have ejected the same servers" in note for note in explained["notes"]) == bool(workers)
    shown = adm("--explain", "-i", "s", "GET /").stdout
    assert f"\n  {dead} is ejected: {reason}" in shown

    def is_ejected_everywhere() -> bool:
        get(port, "/")
        server = daemon.stats("s")["servers"][0]
        return not workers or server["health"]["reason"].startswith("in 2 of 2 workers: ")

    wait_for(is_ejected_everywhere)
    shown = adm("--explain", "-i", "s", "GET /").stdout
    assert answer_of(shown) == backup
    assert re.search(rf"^  {dead} +ejected +0 +1 +-$", shown, re.MULTILINE), shown
    assert re.search(rf"^  {backup} +up +0 +1 +-$", shown, re.MULTILINE), shown
    assert "not all workers" not in shown
    unknown = adm("--explain", "-i", "s", "-P", 1, check=False)
    assert (unknown.returncode, unknown.stderr) == (1, f"tcpvsadm: explain s: port 1: service s listens on {port}\n")


def test_maxconn_limits_the_connections_of_a_server(daemon: Daemon, serve: Callable[..., SocketServer]) -> None:
    adm, server, port = daemon.adm, serve(echo), free_port()
    adm("-A", "-i", "s", "-s", "wlc", "-l", f"{LOOPBACK}:{port}")
    adm("-a", "-i", "s", "-r", server.address, "--maxconn=1")
    adm("--start", "-i", "s")
    assert f"    server = {server.address} 1 maxconn 1\n" in adm("--list", "-n").stdout
    with dial((LOOPBACK, port)) as first, dial((LOOPBACK, port)) as second:
        first.sendall(b"1")
        assert read_exactly(first, 1) == b"1"
        second.sendall(b"2")
        wait_for(lambda: daemon.stats("s")["stats"]["queued"] == 1)
        shown = adm("--stats").stdout
        assert re.search(r"^s +running +wlc +2 +2 +0 +1 +- +\d+ +\d+$", shown, re.MULTILINE), shown
        assert re.search(rf"-> {server.address} +1 +1 +1 +1 +0 +0 +0 +\d+ +\d+$", shown, re.MULTILINE), shown
        explained = adm("--explain", "-i", "s").stdout
        assert re.search(rf"^  {server.address} +full +1 +1 +1$", explained, re.MULTILINE), explained
        assert "\nAnswer: queued for a server\n" in explained
        adm("-e", "-i", "s", "-r", server.address, "--maxconn", 2)
        assert read_exactly(second, 1) == b"2"
    daemon.wait_until_empty()


def test_stats_show_kept_connections(daemon: Daemon, web: list[Nginx]) -> None:
    port = free_port()
    daemon.service("web", port, web[0].address, scheduler="phttp", rules=((".*", web[0].address),))
    for _ in range(3):
        get(port, "/")
    (server,) = daemon.stats("web")["servers"]
    assert (server["stats"]["kept"], server["stats"]["reused"]) == (1, 2)
    shown = daemon.adm("--stats").stdout
    assert re.search(rf"-> {web[0].address} +1 +- +0 +3 +0 +1 +2 +\d+ +\d+$", shown, re.MULTILINE), shown


def test_options_may_be_given_as_words(daemon: Daemon) -> None:
    daemon.adm("-A", "-i", "s", "fallback=rr", "startservers=3", "-s", "sh")
    daemon.adm("-E", "-i", "s", "via=append", "startservers=", "cookie_secure=on")
    (service,) = daemon.call("table", "s")["services"]
    assert (service["fallback"], service["via"], service["cookie_secure"]) == ("rr", "append", "on")
    assert (service["scheduler"], service["startservers"]) == ("sh", None)
    for arguments, code, why in (
        (
            ("colour=red",),
            1,
            "a service has no option 'colour'; there are: listen, on, certificate, tls_min, tls_ciphers, ",
        ),
        (("via=append", "fallback=nope"), 1, "no scheduler 'nope'; there are: chash, chttp, "),
        (("-s", "wlc", "scheduler=rr"), 2, "The option 'scheduler' is given twice"),
        (("append",), 2, "'append': not NAME=VALUE"),
    ):
        done = daemon.adm("-E", "-i", "s", *arguments, check=False)
        assert (done.returncode, done.stdout) == (code, "")
        assert why in done.stderr
    assert daemon.call("table", "s")["services"] == [service]


def test_wrong_explain_commands_are_refused(daemon: Daemon) -> None:
    daemon.adm("-A", "-i", "s", "-s", "wlc")
    for arguments, code, why in (
        (("-i", "t"), 1, "explain t: no service t"),
        (("-i", "s", "--from", "localhost"), 1, "explain s: client 'localhost': expected an IP address"),
        (("-i", "s", "-H", "A: b\nC: d"), 1, "explain s: header 'A': contains a line end or NUL"),
        (("-i", "s", "GET"), 2, "'GET': not METHOD TARGET (example: 'GET /index.html')"),
        (("-i", "s", "-H", "A"), 2, "header 'A': not 'NAME: VALUE'"),
    ):
        done = daemon.adm("--explain", *arguments, check=False)
        assert (done.returncode, done.stdout) == (code, "")
        assert why in done.stderr
    nobody = daemon.adm("--explain", "-i", "s").stdout
    assert nobody.endswith("\n\nAnswer: no server\n  no server for this request: the connection is closed\n")
