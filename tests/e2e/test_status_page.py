"""The status page in Chromium: services, rates, trouble, search, telephones, and barriers for its readers."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import SERVER, Authority
from browser import Browser
from servers import LOOPBACK, SocketServer, chunks, dial, free_port, read_all, wait_for

from .harness import ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together, pytest.mark.programs]

NAME = "<b>wéb'&</b>"

AXE = Path(sys.prefix) / "axe-core.js"

NOTHING = "\N{EN DASH}"
"""The text of the page where there is nothing to show."""

CARDS = "[...document.querySelectorAll('.card:not([hidden]) h3')].map((one) => one.textContent)"

TROUBLE = "[...document.querySelectorAll('#trouble li')].map((one) => one.textContent)"

COLOURS = "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"

CARD = "[...document.querySelectorAll('.card')].find((one) => one.querySelector('h3').textContent === {})"

OTHER_TROUBLE = """
const fetched = window.fetch;
window.fetch = async (...given) => {
  const response = await fetched(...given);
  const data = await response.json();
  const since = data.started;
  const states = ["ok", "behind", "refused", "leaving", "draining", "drained", "gone", "unknown"];
  const nodes = states.map((state) => ({
    node: state, state, drain: state === "draining" ? "draining" : null, revision: 6, version: "1", connections: 3,
    since,
    errors: state === "refused" ? ["web: cannot listen at 10.0.0.1:80: Address already in use"] : [],
  }));
  data.cluster = { node: "ok", connected: false, problem: "etcd does not respond", revision: 7, applied: 6, nodes };
  data.workers = { configured: 4, ready: 3, restarts: 7, since_restart: 12 };
  data.trial = 300;
  const row = (kind, severity, text) => ({ kind, severity, text, service: null, server: null, node: null, since });
  data.trouble.push(
    row("trial", "warning", ""), row("cluster", "critical", "this node does not follow the cluster"),
    row("workers", "warning", "3 of 4 workers serve"),
    ...states.map((state) => row("node", "warning", `node ${state}`)));
  for (const service of data.services.slice(0, 1)) {
    for (const state of ["down", "ejected", "draining", "standby", "maintenance", "unresolved"]) {
      service.servers.push({ ...service.servers[0], address: state, health: { state, since, reason: "why" } });
    }
  }
  return { ok: true, json: async () => data };
};
"""
"""Adds trouble that takes a whole cluster to what the daemon tells."""


ONE_UPDATE = """
const fetched = window.fetch;
let count = 0;
window.fetch = (...given) => (count++ ? new Promise(() => {}) : fetched(...given));
"""
"""The page gets no second update."""

ORDERS = """
const fetched = window.fetch;
window.fetch = async (...given) => {
  const data = await (await fetched(...given)).json();
  const next = new Date(2030, 1, 23, 0, 41, 34).getTime() / 1000;
  const known = { ...data.certificates[0], warning: "", error: "", not_after: next };
  const order = (state, next, error = "", failures = 0) => ({ ...known, acme: { state, next, error, failures } });
  data.certificates = [
    order("ordering", next), order("waiting", null), { ...order("failed", next, "no order"), issuer: known.subject },
    order("valid", next),
  ];
  return { ok: true, json: async () => data };
};
"""
"""Certificates that the switch obtains, in each state, in place of those of the daemon."""


def answers(sock: socket.socket) -> None:
    """A server: it responds 500 to /wrong, and 200 to all else."""
    for data in chunks(sock):
        status = b"500 Internal Server Error" if b" /wrong " in data else b"200 OK"
        sock.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")


class Page:
    """A daemon, and its status page in a browser. server: the address of a real server. web: the port of the service
    NAME, which switches requests."""

    def __init__(self, daemon: Daemon, status: int, browser: Browser, server: str) -> None:
        self.daemon = daemon
        self.browser = browser
        self.server = server
        self.web = free_port()
        self._address = f"http://{LOOPBACK}:{status}/"
        self.status = status

    def open(self, width: int = 1280, height: int = 900, dark: bool = False, path: str = "") -> None:
        """Open the page, and wait until it shows the services."""
        self.browser.open("about:blank")
        self.browser.open(self._address + path, width, height, dark)
        self.wait("document.querySelectorAll('.card').length > 0")

    def wait(self, condition: str, shown: str = "document.body.innerText") -> None:
        """Wait until a condition holds in the page. shown: what the failure tells."""
        wait_for(lambda: self.browser.ask(condition), lambda: str(self.browser.ask(shown)), timeout=20)

    def search(self, text: str) -> Any:
        """Type into the search. Return the names of the services that are found."""
        typed = f"one.value = {json.dumps(text)}; one.dispatchEvent(new Event('input'));"
        self.browser.ask(f"((one) => {{ {typed} }})(document.getElementById('query'))")
        return self.browser.ask(CARDS)

    def request(self, path: str = "/") -> int:
        connection = http.client.HTTPConnection(LOOPBACK, self.web, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status


@pytest.fixture(scope="module")
def page(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    status, folder = free_port(), tmp_path_factory.mktemp("status-page")
    daemon = Daemon(control_thread, folder, "--status", f"tcp:{status}", tls=True, preloaded=True)
    certificate = Authority(folder).issue("shop", "shop.example.org", purposes=(SERVER,), begins=-85, ends=5)
    dead = f"{LOOPBACK}:{free_port()}"
    with contextlib.ExitStack() as stack:
        server = SocketServer(answers)
        stack.callback(server.stop)
        stack.callback(daemon.finish)
        daemon.start()
        browser = stack.enter_context(Browser(folder / "browser"))
        made = Page(daemon, status, browser, f"{LOOPBACK}:{server.port}")
        web = ((".*<i>", made.server), (".*", made.server))
        daemon.service(NAME, made.web, made.server, (dead, 0), scheduler="chttp", rules=web)
        daemon.service("mail", free_port(), made.server, scheduler="wlc")
        text = f"""Virtual shop {{
            listen = {LOOPBACK}:{free_port()} tls
            certificate = {certificate}
            scheduler = wlc
            check = tcp
            check_fall = 1
            server = {dead}
        }}
        Virtual stopped {{
            listen = {LOOPBACK}:{free_port()}
            scheduler = wlc
            server = {made.server}
        }}"""
        file = folder / "more.conf"
        file.write_text(daemon.adm("--list").stdout + text)
        daemon.adm("-f", file)
        daemon.call("start", "shop")
        yield made
        assert browser.complaints == []


def test_services_servers_and_rates(page: Page) -> None:
    page.open(dark=True)
    ask = page.browser.ask
    card = CARD.format(json.dumps(NAME))
    assert ask(CARDS) == [NAME, "mail", "shop", "stopped"]
    assert ask(f"{card}.querySelector('h3 button').children.length") == 0
    rows = f"[...{card}.querySelectorAll('.body > .scroll tbody tr')]"
    states = f"{rows}.map((row) => row.querySelector('.state').className).join()"
    assert ask(states) == "state up,state draining"
    assert ask(f"{card}.querySelectorAll('details tbody tr')[0].textContent").count(".*<i>") == 1

    def rate() -> str:
        assert page.request() == 200
        return str(ask(f"{rows}[0].querySelector('td[data-label=\"Requests/s\"]').textContent"))

    wait_for(lambda: rate() not in ("0", NOTHING), pause=0.1)
    assert " ms" in ask(f"{rows}[0].querySelector('td[data-label=\"99 %\"]').textContent")
    page.wait(f"{card}.querySelector('svg').getAttribute('aria-label').startsWith('Requests per second: ')")
    assert ask(f"{card}.querySelectorAll('svg path').length") == 7
    labels = ask(
        f"[...{card}.querySelectorAll('figure')].map((one) => one.querySelector('.marks').children[2].textContent)"
    )
    assert labels == ["0"] * 6, "each plot has an axis of its own, from 0"


def test_services_of_connections_have_no_empty_plots(page: Page) -> None:
    page.open()
    card = CARD.format("'mail'")
    texts = "[...{}.querySelectorAll('figcaption')].map((one) => one.firstChild.textContent)"
    captions = page.browser.ask(texts.format(card))
    assert captions == [
        "Connections per second",
        "Errors per second",
        "Clients connected",
        "Bytes in per second",
        "Bytes out per second",
    ]
    heads = page.browser.ask(f"[...{card}.querySelectorAll('.body > .scroll thead th')].map((one) => one.textContent)")
    assert "Connections/s" in heads
    assert "99 %" not in heads
    assert page.browser.ask(f"{CARD.format(repr('stopped'))}.querySelectorAll('figure').length") == 0


def test_what_rules_do(page: Page) -> None:
    port = free_port()
    page.daemon.service("rules", port, page.server, scheduler="phttp")
    page.daemon.adm("-e", "-i", "rules", "-r", page.server, "label", "zone=a", "label", "new")
    modifiers = ("balance", "wrr", "request_header", "X-A", "<b>")
    page.daemon.adm("--add-rule", "-i", "rules", "path", "/a", *modifiers, "-r", page.server, "-w", "7")
    page.daemon.adm("--add-rule", "-i", "rules", "--name", "closed", "path", "/b", "use", "respond", "503")
    long = "/c" * 80
    page.daemon.adm("--add-rule", "-i", "rules", "path", long, "use", "redirect", "https")

    def ask_for(path: str, status: int) -> None:
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
            assert read_all(client).startswith(b"HTTP/1.1 %d " % status)

    for _ in range(3):
        ask_for("/b", 503)
    ask_for(long, 302)
    page.open(path="#service=rules")  # only what is in sight is brought up to date
    card = CARD.format(repr("rules"))
    rows = f"[...{card}.querySelectorAll('details tbody tr')]"
    cells = f"{rows}.map((row) => [...row.children].map((one) => one.textContent))"
    expected = [
        [NOTHING, "path /a", f"{page.server} 7", 'balance wrr request_header X-A "<b>"', "0", NOTHING, "0", NOTHING],
        ["closed", "path /b", "respond 503", NOTHING, "0", NOTHING, "3", "503: 3"],
        [NOTHING, f"path {long}", "redirect 302 https", NOTHING, "0", NOTHING, "1", "302: 1"],
    ]
    wait_for(lambda: page.browser.ask(cells) == expected, lambda: str(page.browser.ask(cells)), timeout=20)

    def shares() -> list[str]:
        ask_for("/a", 200)
        return [row[5] for row in page.browser.ask(cells)]

    wait_for(lambda: shares() == ["100 %", "0 %", "0 %"], lambda: str(page.browser.ask(cells)), pause=0.1)
    assert page.browser.ask(f"{card}.querySelector('tbody th').textContent") == f"{page.server} new, zone=a"
    assert page.search("ZONE=A") == ["rules"], "by the label of a server"
    page.search("")
    page.daemon.call("stop", "rules")
    page.daemon.call("delete_service", "rules")
    page.wait(f"{CARDS}.length === 4")


def test_the_first_update_shows_no_rates(page: Page) -> None:
    script = page.browser.before_each_page(ONE_UPDATE)
    try:
        page.open()
    finally:
        page.browser.before_no_page(script)
    labels = ("Requests/s", "Errors/s", "50 %", "99 %", "In/s", "Out/s", "Share", "Connections/s", "CPU")
    selector = ", ".join(f'td[data-label="{label}"]' for label in labels)
    cells = page.browser.ask(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)")
    assert set(cells) == {NOTHING}
    assert len(cells) > 20
    rates = ("Requests", "TCP connections", "Connections", "Errors", "In", "Out")
    figures = page.browser.ask(
        "[...document.querySelectorAll('dt')].map((one) => [one.textContent, one.nextSibling.textContent])"
    )
    found = [text for label, text in figures if label in rates]
    assert set(found) == {NOTHING}
    assert len(found) > 20


def test_certificates_say_what_is_due(page: Page) -> None:
    script = page.browser.before_each_page(ORDERS)
    try:
        page.open()
    finally:
        page.browser.before_no_page(script)
    notes = page.browser.ask(
        "[...document.querySelectorAll('#certificates td[data-label=State]')].map((one) => one.textContent)"
    )
    assert notes[:4] == [
        "ordering",
        "waiting to be ordered now",
        "not obtained no order; next attempt at 2030-02-23 00:41:34",
        "valid to be renewed at 2030-02-23 00:41:34",
    ]


def test_trouble_stands_on_top_with_its_reasons(page: Page) -> None:
    page.open()
    page.wait(f"{TROUBLE}.some((one) => one.includes('is down: check: '))", TROUBLE)
    shown = page.browser.ask(TROUBLE)
    assert shown[0] == "criticalshop has no server that can be used ", "the gravest first"
    assert any("the certificate of shop expires on " in one for one in shown)
    for _ in range(25):
        assert page.request("/wrong") == 500
    page.wait(f"{TROUBLE}.some((one) => one.includes('of the requests of the last'))", TROUBLE)
    assert page.browser.ask("document.title").endswith(") ktcpvs")
    heading = page.browser.ask("document.getElementById('trouble-title').textContent")
    assert heading.startswith("Trouble: 2 critical, ")

    tables = page.daemon.adm("--list").stdout
    file = page.daemon.folder / "trial.conf"
    file.write_text(tables)
    page.daemon.adm("-f", file, "--confirm", "600")
    page.wait(f"{TROUBLE}[0].includes('the table is on trial: it is undone in ')", TROUBLE)
    assert metric(page.status, "ktcpvs_trial_pending") == 1
    assert 0 < metric(page.status, "ktcpvs_trial_seconds_left") <= 600
    page.daemon.adm("--confirm")
    page.wait(f"!{TROUBLE}[0].includes('trial')", TROUBLE)
    assert metric(page.status, "ktcpvs_trial_pending") == 0

    link = "document.querySelector('#trouble a[href=\"#service=shop\"]')"
    page.browser.ask(f"{CARD.format(repr('shop'))}.querySelector('button').click()")
    page.browser.ask(f"{link}.click()")
    page.wait(f"document.activeElement === {CARD.format(repr('shop'))}.querySelector('button')")
    assert page.browser.ask("document.activeElement.getAttribute('aria-expanded')") == "true"


def metric(port: int, name: str) -> float:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def test_search(page: Page) -> None:
    page.open()
    search = page.search
    assert search("MAIL") == ["mail"]
    assert page.browser.ask("document.getElementById('found').textContent") == "1 of 4"
    assert search("no such") == []
    assert search("down") == ["shop"], "by the state of a server"
    assert search(" stopped  wlc ") == ["stopped"], "each word must be found"
    assert search("") == [NAME, "mail", "shop", "stopped"]
    page.browser.ask("document.getElementById('only-trouble').click()")
    assert "shop" in page.browser.ask(CARDS)
    assert "mail" not in page.browser.ask(CARDS)
    page.open(path="#service=mail")
    page.wait("document.activeElement.textContent === 'mail'")


def test_an_update_writes_only_what_has_changed(page: Page) -> None:
    page.open(height=4000)  # only what is in sight is drawn
    updates = "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('status')).length"
    page.wait(f"{updates} >= 8")  # rates and plots are still after the window of their measurement
    page.browser.ask(
        f"""(() => {{
          window.writes = 0;
          const watcher = new MutationObserver((records) => {{ window.writes += records.length; }});
          const all = {{ subtree: true, childList: true, attributes: true, characterData: true }};
          watcher.observe({CARD.format("'stopped'")}, all);
        }})()"""
    )
    before = page.browser.ask(updates)
    page.wait(f"{updates} >= {before + 3}")
    assert page.browser.ask("window.writes") == 0
    page.daemon.call("start", "stopped")
    page.wait("window.writes > 0")
    page.daemon.call("stop", "stopped")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_barriers(page: Page, width: int, dark: bool) -> None:
    assert AXE.exists(), "missing axe-core; make test TESTS=tests/e2e/test_status_page.py downloads it"
    script = page.browser.before_each_page(OTHER_TROUBLE)
    try:
        page.open(width, dark=dark)
    finally:
        page.browser.before_no_page(script)
    page.browser.ask("document.getElementById('open-all').click()")
    page.browser.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.wait("document.querySelectorAll('.card svg').length >= 11")
    assert page.browser.ask("document.documentElement.scrollWidth") == width
    page.browser.ask(AXE.read_text())
    found = page.browser.ask(
        "axe.run({ resultTypes: ['violations'] }).then((result) => result.violations.map((one) => "
        "[one.id, one.help, one.nodes.length, one.nodes[0].html, one.nodes[0].failureSummary]))"
    )
    assert found == []


def test_the_keyboard_reaches_the_services(page: Page) -> None:
    page.open()
    page.browser.press("Tab")
    assert page.browser.ask("document.activeElement.textContent") == "Skip to the services"
    page.browser.press("Enter")
    page.wait("location.hash === '#services'")
    page.browser.press("Tab")
    assert page.browser.ask("document.activeElement.id") == "query"


def test_a_telephone_and_a_daemon_that_ends(page: Page, make_daemon: Callable[..., Daemon]) -> None:
    page.open(dark=True)
    dark = page.browser.ask(COLOURS)
    status = free_port()
    daemon = make_daemon("--status", f"tcp:{status}")
    daemon.start()
    daemon.service("web", free_port(), page.server)
    ask = page.browser.ask
    page.browser.open(f"http://{LOOPBACK}:{status}/", width=390, height=800)
    page.wait(f"{CARDS}.length === 1")
    assert ask(COLOURS) != dark
    assert ask("document.documentElement.scrollWidth") == 390
    assert ask("document.getElementById('alert').hidden")
    assert ask("document.getElementById('trouble-title').textContent") == "No trouble"
    daemon.kill()
    page.wait("!document.getElementById('alert').hidden")
    assert ask("document.getElementById('alert').textContent").startswith("The daemon does not respond")
    daemon.start()
    page.wait("document.getElementById('alert').hidden")
    page.browser.complaints.clear()  # Chromium's own about the daemon that did not respond
