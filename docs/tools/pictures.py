"""Take the screenshots of the status page in docs/pictures, with a daemon, servers, clients and Chromium.

Needs the same packages as the tests. Takes a minute, since the plots must fill.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from browser import Browser  # noqa: E402
from servers import LOOPBACK, SocketServer, answers, chunks, echo, free_port, wait_for  # noqa: E402

FILL_TIME = 45
"""Seconds until the screenshots are taken."""

CONFIGURATION = """
Virtual shop {{
    listen = 127.0.0.1:{shop}
    scheduler = chttp
    check = tcp
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
Virtual mail {{
    listen = 127.0.0.1:{mail}
    scheduler = wlc
    server = {four}
}}
"""


def web(sock: socket.socket) -> None:
    """Respond after a few milliseconds, sometimes with an error."""
    for _ in chunks(sock):
        time.sleep(random.expovariate(200) + (0.08 if random.random() < 0.02 else 0))
        status = random.choices(("200 OK", "404 Not Found", "500 Internal Server Error"), (95, 4, 1))[0]
        sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 900\r\n\r\n".encode() + b"x" * 900)


def browse(port: int, ended: threading.Event) -> None:
    """A client that sends requests now and then."""
    while not ended.is_set():
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
            for _ in range(50):
                connection.request("GET", random.choice(("/", "/images/a", "/cart")))
                connection.getresponse().read()
                ended.wait(random.expovariate(40))
            connection.close()


def talk(port: int, ended: threading.Event) -> None:
    """A client that sends bytes now and then."""
    with socket.create_connection((LOOPBACK, port)) as sock:
        while not ended.wait(random.expovariate(10)):
            sock.sendall(b"x" * random.randrange(100, 30000))
            sock.recv(65536)


def main() -> None:
    servers = [SocketServer(serve) for serve in (web, web, web, echo)]
    shop, mail, dead, status = (free_port() for _ in range(4))
    names = dict(zip(("one", "two", "three", "four"), (f"{LOOPBACK}:{one.port}" for one in servers), strict=True))
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "shop.conf"
        config.write_text(CONFIGURATION.format(shop=shop, mail=mail, dead=dead, **names))
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile="]
        command += ["--reactor=uvloop", "ktcpvs", "--workers", "2", "--config", str(config)]
        command += ["--control", f"unix:{folder}/control.sock", "--status", f"tcp:{status}"]
        with open(folder / "log", "w") as log:
            daemon = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            try:
                wait_for(lambda: answers(shop) and answers(status), timeout=30)
            except AssertionError:
                raise SystemExit((folder / "log").read_text()) from None
            clients = [threading.Thread(target=browse, args=(shop, ended)) for _ in range(6)]
            clients += [threading.Thread(target=talk, args=(mail, ended)) for _ in range(3)]
            for client in clients:
                client.start()
            pictures = ROOT / "docs" / "pictures"
            address = f"http://{LOOPBACK}:{status}/"
            with contextlib.ExitStack() as stack:
                variants = (("light", 1100, 1000, False), ("dark", 1100, 1000, True), ("telephone", 390, 844, False))
                browsers = []
                for variant, width, height, dark in variants:
                    browser = stack.enter_context(Browser(folder / variant))
                    browser.open(address, width, height, dark)
                    browsers.append((variant, browser))
                time.sleep(FILL_TIME)
                for variant, browser in browsers:
                    browser.picture(pictures / f"status-{variant}.png")
                    print(f"docs/pictures/status-{variant}.png")
        finally:
            ended.set()
            daemon.terminate()
            daemon.wait(30)
            for server in servers:
                server.stop()


if __name__ == "__main__":
    main()
