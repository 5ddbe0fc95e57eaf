"""Rules with an action, and clients behind trusted proxies, with the real daemon and its workers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, free_port, wait_for

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]


@pytest.fixture(params=[0, 2], ids=["one process", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Request `path` on a new connection; return status, Location and body."""
    client = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)
    try:
        client.request(method, path, headers=headers)
        response = client.getresponse()
        return response.status, response.getheader("Location", ""), response.read().decode()
    finally:
        client.close()


def test_actions_from_the_command_line(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    adm, port = daemon.adm, free_port()
    page = tmp_path / "sorry.html"
    page.write_text("<p>sorry")
    adm("-A", "-i", "web", "-s", "phttp", "-l", f"{LOOPBACK}:{port}")
    adm("-a", "-i", "web", "-r", web[0].address)
    adm("--add-rule", "-i", "web", "-p", ".*", "-r", web[0].address)
    redirect = ("use", "redirect", "301", "http://{host}/new/{1}")
    adm("--add-rule", "-i", "web", "--name", "old", "pattern", "^/old/(.*)", *redirect)
    adm("--add-rule", "-i", "web", "path", "/admin/", "not", "from", "10.0.0.0/8", "use", "respond", "403", "no entry")
    adm("--add-rule", "-i", "web", "path", "/sorry", "use", "respond", "503", "file", page)
    adm("--start", "-i", "web")
    for _ in range(4):
        assert ask(port, "/old/x?y") == (301, f"http://{LOOPBACK}/new/x?y", "301 Moved Permanently\n")
        assert ask(port, "/admin/x", "POST") == (403, "", "no entry")
        assert ask(port, "/sorry") == (503, "", "<p>sorry")
    assert ask(port, "/")[0] == 200

    explained = adm("--explain", "-i", "web", "GET /old/x", "-H", "Host: h").stdout
    assert explained.endswith(
        "Answer: a response of the switch itself\n  rule 2 'old', redirect 301\n  to http://h/new/x\n"
    )
    answer = json.loads(adm("--explain", "-i", "web", "GET /admin/x", "--json").stdout)["answer"]
    reason = "rule 3 'path /admin/ not from 10.0.0.0/8', respond 403"
    assert answer == {
        "outcome": "respond",
        "server": None,
        "reason": reason,
        "why": "rule=3, respond",
        "status": 403,
        "location": None,
    }
    wait_for(lambda: daemon.stats("web")["stats"]["responses"].get("301 old") == 4)
    assert "responded: 301 old 4, 403 path /admin/ not from 10.0.0.0/8 4, 503 path /sorry 4" in adm("--stats").stdout

    adm("--edit-rule", "-i", "web", "--rule", "old", "use", "redirect", "302", "/there")
    assert ask(port, "/old/x") == (302, "/there", "302 Found\n")
    saved = adm("--save").stdout
    assert f"rule = path /sorry use respond 503 file {page}" in saved
    site = tmp_path / "site.conf"
    site.write_text(saved)
    assert adm("--diff", site).stdout == ""
    page.write_text("<p>soon")
    adm("-f", site)
    assert ask(port, "/sorry") == (503, "", "<p>soon")
    page.unlink()
    adm("-f", site)
    assert ask(port, "/sorry") == (503, "", "<p>soon")
    adm("--del-rule", "-i", "web", "--rule", "old")
    assert ask(port, "/old/x")[0] == 200
    for words, why in (
        (("--add-rule", "-i", "web", "path", "/x", "use", "respond", "99"), "expected a status from 200 to 299"),
        (("--add-rule", "-i", "web", "path", "/x", "use", "respond", "503", "file", "/no/such"), "No such file or dir"),
        (("--add-rule", "-i", "web", "path", "/x", "use", "respnd", "403"), "did you mean 'respond'?"),
        (("--add-rule", "-i", "web", "path", "/x", "use", "redirect", "/{1}"), "has no pattern"),
        (("-E", "-i", "web", "-s", "wlc"), ""),
        (("-E", "-i", "web", "-s", "tcp"), "reads no requests"),
    ):
        done = adm(*words, check=False)
        assert why in done.stderr
        assert (done.returncode != 0) is bool(why)


def test_a_file_is_checked_without_a_daemon(daemon: Daemon, tmp_path: Path) -> None:
    site = tmp_path / "site.conf"
    page = tmp_path / "sorry.html"
    text = f"""
        Virtual web {{
            listen = {LOOPBACK}:{free_port()}
            scheduler = phttp
            rule = name old pattern "^/old/(.*)" use redirect 301 "https://{{host}}/new/{{1}}"
            rule = path /pay/ not tls use redirect 308 https
            rule = pattern ".*" use respond 503 file {page}
            test "GET /old/x" "Host: h" -> redirect https://h/new/x
            test "GET /pay/" "Host: h" -> redirect https://h/pay/
            test "GET /" -> respond 503
        }}"""
    site.write_text(text)
    done = daemon.adm("--check", site)
    assert "sorry.html: No such file or directory; this file is not checked" in done.stderr
    page.write_bytes(b"x" * ((1 << 20) + 1))
    done = daemon.adm("--check", site, check=False)
    assert "it has 1048577 bytes, and at most 1048576 are allowed" in done.stderr
    page.write_bytes(b"x")
    assert daemon.adm("--check", site).stderr == ""
    site.write_text(text.replace("-> respond 503", "-> respond 403"))
    done = daemon.adm("--check", site, check=False)
    assert "test \"GET /\" -> respond 403 fails: respond: rule 3 '.*', respond 503" in done.stderr
    site.write_text(text.replace("https://h/new/x", "https://h/new/y"))
    done = daemon.adm("--check", site, check=False)
    assert "fails: respond: rule 1 'old', redirect 301 to https://h/new/x" in done.stderr


def test_a_trusted_proxy_tells_the_client(daemon: Daemon) -> None:
    adm, port = daemon.adm, free_port()
    adm("-A", "-i", "web", "-s", "phttp", "-l", f"{LOOPBACK}:{port}", f"trusted_proxies={LOOPBACK} 10.0.0.0/8")
    adm("--add-rule", "-i", "web", "from", "192.0.2.0/24", "use", "respond", "200", "inside")
    adm("--add-rule", "-i", "web", "pattern", ".*", "use", "redirect", "302", "/{client}")
    adm("--start", "-i", "web")
    for told, expected in (
        ("192.0.2.7", (200, "", "inside")),
        ("203.0.113.1, 192.0.2.7, 10.1.1.1", (200, "", "inside")),
        ("192.0.2.7, 203.0.113.1", (302, "/203.0.113.1", "302 Found\n")),
    ):
        assert ask(port, "/", **{"X-Forwarded-For": told}) == expected
    wait_for(lambda: daemon.stats("web")["stats"]["requests"] == 3)
    shown = adm("--stats").stdout.splitlines()
    service = dict(zip(shown[1].split(), next(line for line in shown if line.startswith("web ")).split(), strict=True))
    assert service["Reqs"] == "3"
    assert int(service["InBytes"]) > 3 * len("GET / HTTP/1.1\r\n\r\n")
    assert int(service["OutBytes"]) > len("insideinside302 Found\n")
    assert ask(port, "/", Forwarded="for=192.0.2.7")[1] == f"/{LOOPBACK}"
    adm("-E", "-i", "web", "trusted_proxies=10.0.0.0/8")
    assert ask(port, "/", **{"X-Forwarded-For": "192.0.2.7"})[1] == f"/{LOOPBACK}"


def test_actions_survive_a_restart(make_daemon: Make, tmp_path: Path) -> None:
    port, state = free_port(), tmp_path / "state"
    daemon = make_daemon("--state", state)
    daemon.start()
    daemon.adm("-A", "-i", "web", "-s", "http", "-l", f"{LOOPBACK}:{port}")
    daemon.adm("--add-rule", "-i", "web", "path", "/x", "use", "respond", "200", 'say "hi" # } {')
    daemon.adm("--start", "-i", "web")
    expected = (200, "", 'say "hi" # } {')
    assert ask(port, "/x") == expected
    daemon.kill()
    daemon.start()
    assert ask(port, "/x") == expected
