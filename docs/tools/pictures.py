"""Take the screenshots of the status page in docs/pictures, with daemons, servers, clients and Chromium.

Needs the same packages as the tests, and etcd. Takes a minute, since the plots must fill.

--services N adds services, --folder DIR writes the pictures there, at more sizes, and --measure searches among the
services while the page is updated, and prints how long the browser was busy at a stretch.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from authority import SERVER, Authority  # noqa: E402
from browser import Browser  # noqa: E402
from servers import LOOPBACK, SocketServer, answers, chunks, echo, free_port, wait_for  # noqa: E402

FILL_TIME = 125
"""Seconds until the screenshots are taken: the time that the plots show."""

BIN = Path(sys.executable).parent

FOLDER = Path(tempfile.gettempdir()) / "ktcpvs-pictures"
"""For files of the switches, whose names are in the pictures."""

CONFIGURATION = """
global {{
    acme_directory = https://127.0.0.1:{dead}/directory
}}
Virtual shop {{
    listen = 127.0.0.1:{shop} on lb1
    listen = 127.0.0.1:{shop_tls} tls on lb1
    certificate = {certificate}
    scheduler = chttp
    check = tcp
    check_interval = 2
    server = {one} 2
    server = {two}
    server = 127.0.0.1:{dead}
    server = {three} 0
    redirect = {three}
    rule = pattern "/images/.*" use server {one}
    rule = pattern ".*" use server {one}
    rule = pattern ".*" use server {two}
    rule = pattern ".*" use server 127.0.0.1:{dead}
}}
Virtual reports {{
    listen = 127.0.0.1:{reports} on lb1
    listen = 127.0.0.1:{reports_tls} tls on lb1
    certificate = acme reports.example.org
    scheduler = phttp
    server = {slow} maxconn 2
    server = {broken}
    queue_timeout = 5
    rule = path / use server {slow} server {broken}
}}
Virtual mail {{
    listen = 127.0.0.1:{mail} on lb1
    scheduler = wlc
    server = {four}
}}
Virtual backup {{
    listen = 127.0.0.1:{backup} on lb1
    scheduler = wlc
    check = tcp
    check_interval = 2
    server = 127.0.0.1:{dead}
}}
Virtual archive {{
    listen = 127.0.0.1:{archive} on lb2
    scheduler = wlc
    server = {four}
}}
"""

FURTHER = """
Virtual site-{number:03} {{
    listen = 127.0.0.1:{port} on lb1
    scheduler = {scheduler}
    {servers}
}}
"""

SIZES = {"telephone": (390, 844), "laptop": (1280, 900), "wide": (2560, 1440)}

BUSY = """
window.longTasks = [];
new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((one) => one.duration)))
  .observe({ type: "longtask" });
"""

TYPE = """
(async () => {
  const query = document.getElementById("query");
  for (const text of %s) {
    for (let end = 1; end <= text.length; end++) {
      query.value = text.slice(0, end);
      query.dispatchEvent(new Event("input"));
      await new Promise((done) => setTimeout(done, 60));
    }
    await new Promise((done) => setTimeout(done, 400));
  }
  query.value = "";
  query.dispatchEvent(new Event("input"));
})()
"""


def web(sock: socket.socket) -> None:
    """Respond after a few milliseconds, sometimes with an error."""
    for _ in chunks(sock):
        time.sleep(random.expovariate(200) + (0.08 if random.random() < 0.02 else 0))
        status = random.choices(("200 OK", "404 Not Found", "500 Internal Server Error"), (955, 40, 5))[0]
        sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 900\r\n\r\n".encode() + b"x" * 900)


def slow(sock: socket.socket) -> None:
    """Respond after half a second."""
    for _ in chunks(sock):
        time.sleep(random.uniform(0.3, 0.7))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def broken(sock: socket.socket) -> None:
    """Respond with errors, mostly."""
    for _ in chunks(sock):
        time.sleep(0.02)
        status = random.choice(("200 OK", "500 Internal Server Error", "500 Internal Server Error"))
        sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode())


def browse(port: int, ended: threading.Event, pause: float = 0.025) -> None:
    """A client that sends requests now and then. pause: seconds between two, on average."""
    while not ended.is_set():
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
            for _ in range(50):
                connection.request("GET", random.choice(("/", "/images/a", "/cart")))
                connection.getresponse().read()
                ended.wait(random.expovariate(1 / pause))
            connection.close()
        ended.wait(0.02)


def browse_tls(port: int, ended: threading.Event) -> None:
    """A client over TLS, with a connection for each request."""
    context = ssl._create_unverified_context()
    while not ended.wait(0.3):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPSConnection(LOOPBACK, port, timeout=5, context=context)
            connection.request("GET", "/cart")
            connection.getresponse().read()
            connection.close()


def talk(port: int, ended: threading.Event) -> None:
    """A client that sends bytes now and then."""
    while not ended.is_set():
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=5) as sock:
            for _ in range(20):
                sock.sendall(b"x" * random.randrange(100, 30000))
                sock.recv(65536)
                if ended.wait(random.expovariate(5)):
                    return


class Scene:
    """Two switches of a cluster of three, with services that have all kinds of trouble, and clients.

    status: the port of the first switch's status. further: the number of further services.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack, further: int = 0) -> None:
        self._folder = folder
        self._stack = stack
        self.status = free_port()
        self._start_etcd()
        self._control = folder / "lb1.sock"
        self._secret = folder / "secret"
        self._secret.write_text("ab" * 32)
        self._secret.chmod(0o600)
        self._start_switch("lb1", "--workers", "2", "--status", f"tcp:{self.status}")
        others = [self._start_switch(name) for name in ("lb2", "lb3")]
        self._load(further)
        others[1].kill()  # it is gone, as the others notice
        others[1].wait()
        self.adm("-f", str(folder / "new.conf"), "--confirm", "600")
        self._start_clients()

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with open(self._folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        self._stack.callback(_end, process)
        return process

    def _start_etcd(self) -> None:
        self._etcd, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        command = ["etcd", "--data-dir", str(self._folder / "etcd"), "--initial-cluster", f"default={peer}"]
        command += ["--listen-client-urls", self._etcd, "--advertise-client-urls", self._etcd]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        self._run("etcd", *command)
        wait_for(lambda: answers(int(self._etcd.rpartition(":")[2])), timeout=30)

    def _start_switch(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        state = str(self._folder / f"{name}.state")
        command = [str(BIN / "ktcpvs"), "--cluster", f"etcd:{self._etcd}/demo", "--node", name, "--state", state]
        command += ["--cluster-secret", str(self._secret), "--control", f"unix:{self._folder}/{name}.sock"]
        process = self._run(name, *command, *options)
        log = self._folder / f"{name}.log"
        wait_for(lambda: f"node {name} follows" in log.read_text(), lambda: log.read_text(), timeout=30)
        return process

    def adm(self, *arguments: str) -> None:
        command = [str(BIN / "tcpvsadm"), "--control", f"unix:{self._control}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")

    def _load(self, further: int) -> None:
        servers = [SocketServer(serve) for serve in (web, web, web, echo, slow, broken)]
        for server in servers:
            self._stack.callback(server.stop)
        names = ("one", "two", "three", "four", "slow", "broken")
        at = dict(zip(names, (f"{LOOPBACK}:{server.port}" for server in servers), strict=True))
        services = ("shop", "shop_tls", "reports", "reports_tls", "mail", "backup", "archive", "dead")
        self.ports = {name: free_port() for name in services}
        certificate = Authority(self._folder).issue("shop", "shop.example.org", purposes=(SERVER,), begins=-85, ends=5)
        text = CONFIGURATION.format(**self.ports, **at, certificate=certificate)
        for number in range(further):
            web_servers = [at["one"], at["two"], f"127.0.0.1:{self.ports['dead']}"]
            used = web_servers[: 2 + (number % 10 == 0)]
            lines = [f"server = {one}" for one in used]
            if number % 2 == 0:
                lines.append(f"rule = path / use {' '.join(f'server {one}' for one in used)}")
            form = {"number": number, "port": free_port(), "scheduler": ("chttp", "wlc")[number % 2]}
            form["servers"] = "\n    ".join(lines)
            text += FURTHER.format(**form)
        file = self._folder / "web.conf"
        file.write_text(text)
        self.adm("-f", str(file), "--start")
        (self._folder / "new.conf").write_text(text.replace(f"server = {at['one']} 2", f"server = {at['one']} 3"))
        self._site_ports = [int(line.split(":")[1].split()[0]) for line in text.split("\n") if "listen" in line][7:]

    def _start_clients(self) -> None:
        ended = threading.Event()
        clients = [threading.Thread(target=browse, args=(self.ports["shop"], ended)) for _ in range(3)]
        clients += [threading.Thread(target=browse, args=(self.ports["reports"], ended, 0.2)) for _ in range(6)]
        clients += [threading.Thread(target=browse_tls, args=(self.ports["shop_tls"], ended))]
        clients += [threading.Thread(target=talk, args=(self.ports["mail"], ended)) for _ in range(3)]
        clients += [threading.Thread(target=browse, args=(port, ended, 0.3)) for port in self._site_ports[:20:2]]
        for client in clients:
            client.start()

        def end() -> None:
            ended.set()
            for client in clients:
                client.join()

        self._stack.callback(end)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def variants(all_sizes: bool) -> Iterator[tuple[str, int, int, bool]]:
    """The name, width, height and scheme of each picture; of those in the documents, or of all."""
    if not all_sizes:
        yield from (("light", 1280, 1000, False), ("dark", 1280, 1000, True), ("telephone", 390, 844, False))
        return
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            yield f"{size}-{scheme}", width, height, scheme == "dark"


def measure(browser: Browser, address: str, services: int) -> None:
    """Print the stretches for which the page kept the browser busy, while it was updated and searched."""
    browser.before_each_page(BUSY)
    browser.open(address, 1280, 900)
    wait_for(lambda: browser.ask("document.querySelectorAll('.card').length") >= min(services, 200), timeout=60)
    time.sleep(5)
    browser.say("Performance.enable")
    print(f"building the page: tasks of {browser.ask('window.longTasks')} ms")
    browser.ask("window.longTasks = []")
    words = ["site-1", "site-199", "down", "shop", "127.0.0.1"]
    browser.ask(TYPE % words)
    time.sleep(10)
    print(f"ten seconds and {sum(map(len, words))} keys: tasks of more than 50 ms: {browser.ask('window.longTasks')}")
    metrics = {one["name"]: one["value"] for one in browser.say("Performance.getMetrics")["metrics"]}
    print({name: round(metrics[name], 2) for name in ("TaskDuration", "ScriptDuration", "LayoutDuration", "Nodes")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--services", type=int, default=0, metavar="N", help="further services")
    parser.add_argument("--folder", type=Path, help="where the pictures go, at all sizes (default: docs/pictures)")
    parser.add_argument("--seconds", type=int, default=FILL_TIME, help="until the screenshots are taken")
    parser.add_argument("--measure", action="store_true", help="measure instead of taking pictures")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        FOLDER.mkdir()
        stack.callback(shutil.rmtree, FOLDER)
        folder = FOLDER
        scene = Scene(folder, stack, given.services)
        address = f"http://{LOOPBACK}:{scene.status}/"
        if given.measure:
            measure(stack.enter_context(Browser(folder / "browser")), address, given.services)
            return
        pictures = given.folder or ROOT / "docs" / "pictures"
        pictures.mkdir(exist_ok=True)
        browsers = []
        for variant, width, height, dark in variants(given.folder is not None):
            browser = stack.enter_context(Browser(folder / variant))
            browser.open(address, width, height, dark)
            browsers.append((variant, width, browser))
        time.sleep(given.seconds)
        for variant, width, browser in browsers:
            if browser.complaints:
                print(variant, browser.complaints)
            if given.folder is not None:  # the whole page
                browser.resize(width, browser.ask("document.documentElement.scrollHeight"))
                browser.resize(width, browser.ask("document.documentElement.scrollHeight"))
                time.sleep(1.5)
            browser.picture(pictures / f"status-{variant}.png")
            print(pictures / f"status-{variant}.png")


if __name__ == "__main__":
    main()
