"""Rules with a balance scheduler and weights of their own, with the real daemon and its workers."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, free_port

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e


def served(port: int, path: str, count: int, **headers: str) -> Counter[str]:
    """Send requests on one connection; return how many each server got."""
    client = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)
    seen: Counter[str] = Counter()
    for _ in range(count):
        client.request("GET", path, headers=headers)
        response = client.getresponse()
        seen[response.read().split()[0].decode()] += 1
    client.close()
    return seen


@pytest.fixture(params=[0, 2], ids=["one process", "workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_a_canary_by_weights(daemon: Daemon, web: list[Nginx], tmp_path: Path) -> None:
    adm, port = daemon.adm, free_port()
    one, two = (server.address for server in web[:2])
    adm("-A", "-i", "web", "-s", "phttp", "-l", f"{LOOPBACK}:{port}")
    for address in (one, two):
        adm("-a", "-i", "web", "-r", address)
    adm("--add-rule", "-i", "web", "-p", ".*", "-r", one)
    beta = ("header", "X-Beta", "^(1|on)$")
    adm("--add-rule", "-i", "web", "--name", "beta", *beta, "balance", "wrr", "-r", one, "-w", "9")
    adm("--add-rule", "-i", "web", "--name", "beta", "-r", two, "-w", "1")
    adm("--start", "-i", "web")
    names = {server.address: server.name for server in web}
    assert served(port, "/", 10) == {names[one]: 10}
    assert served(port, "/", 40, **{"X-Beta": "on"}) == {names[one]: 36, names[two]: 4}

    explained = adm("--explain", "-i", "web", "GET /", "-H", "X-Beta: 1", "--json").stdout
    weights = {server["address"]: server["weight"] for server in json.loads(explained)["servers"]}
    assert weights == {one: 9, two: 1}
    line = f'rule = name beta header X-Beta "^(1|on)$" balance wrr use server {one} 9 server {two} 1'
    saved = adm("--save").stdout
    assert line in saved
    rule = daemon.call("table")["services"][0]["rules"][1]
    assert (rule["servers"], rule["weights"], rule["modifiers"]) == ([one, two], [9, 1], "balance wrr")
    site = tmp_path / "site.conf"
    site.write_text(saved)
    assert adm("--diff", site).stdout == ""
    site.write_text(saved.replace(f"{one} 9 server {two} 1", f"{one} 1 server {two} 3").replace("wrr", "rr"))
    changed = adm("--diff", site, check=False).stdout
    assert f"service web: rule 'beta': {one} 9 {two} 1 -> {one} 1 {two} 3\n" in changed
    assert "service web: rule 'beta': balance wrr -> balance rr\n" in changed

    adm("--edit-rule", "-i", "web", "--rule", "beta", "use", "server", one, "1", "server", two, "3")
    assert served(port, "/", 40, **{"X-Beta": "on"}) == {names[one]: 10, names[two]: 30}
    adm("--edit-rule", "-i", "web", "--rule", "beta", "use", "respond", "204")
    adm("--edit-rule", "-i", "web", "--rule", "beta", "use", "server", two, "balance", "rr")
    assert served(port, "/", 4, **{"X-Beta": "on"}) == {names[two]: 4}
    assert adm("--drain", "-i", "web", "-r", two).stdout == ""
    adm("--edit-rule", "-i", "web", "--rule", "beta", "use", "server", one, "1", "server", two, "99")
    assert served(port, "/", 4, **{"X-Beta": "on"}) == {names[one]: 4}
    refused = adm("--edit-rule", "-i", "web", "--rule", "beta", "balance", "phttp", check=False).stderr
    assert "service web: balance phttp of a rule: it chooses per request" in refused
    refused = adm("--edit-rule", "-i", "web", "--rule", "beta", "balance", "wrx", check=False).stderr
    assert "did you mean 'wrr'?" in refused
