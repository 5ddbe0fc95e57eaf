"""Load of HTTP/2: h2load without a pause, and long bodies in both directions, with peers that are slow."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path

from http2_client import HTTP2Client, NotHandled
from servers import SocketServer, program, read_exactly

BLOCK = random.Random(8).randbytes(1 << 20)

H2LOAD_TIMEOUT = 120.0
"""Seconds that one run of h2load may take."""

REQUEST_TIMEOUT = 30.0
"""Seconds that one request may take."""

_COUNTS = re.compile(
    r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout"
)


class H2Load:
    """h2load, which runs again and again. requests: those that got a response. problems: a line for each run in which
    one did not. changes: how often a takeover has begun or ended: a client of h2load that gets a GOAWAY counts all that
    it would have sent as errors, so of such a run only statuses and timeouts are known."""

    def __init__(self, url: str, requests: int = 400, rate: int = 100) -> None:
        """url: what it asks for. requests: of one run. rate: requests of each of its four clients in a second."""
        options = ["-n", str(requests), "-c", "4", "-m", "10", "--rps", str(rate)]
        self._command = [program("h2load"), *options, url]
        self._enough = threading.Event()
        self.requests = self.changes = 0
        self.problems: list[str] = []
        self._running = threading.Thread(target=self._run)
        self._running.start()

    def _run(self) -> None:
        while not self._enough.is_set():
            changes = self.changes
            done = subprocess.run(self._command, capture_output=True, text=True, timeout=H2LOAD_TIMEOUT, check=False)
            counts = _COUNTS.search(done.stdout)
            if counts is None:
                self.problems.append(f"h2load: {done.stdout}{done.stderr}")
                return
            total, _, _, succeeded, failed, errored, late = map(int, counts.groups())
            self.requests += succeeded
            if late or failed != errored or (succeeded != total and changes == self.changes and not changes & 1):
                self.problems.append(f"{counts[0]}: {done.stdout}{done.stderr}")

    def stop(self) -> None:
        self._enough.set()
        self._running.join()


class StreamLoad:
    """Clients of HTTP/2 that send a request again only if the switch has said that it was not handled. requests: those
    that got a response. problems: a line for each other outcome. repeated: how many were sent again."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, path: str = "/hello", clients: int = 4) -> None:
        """tls: None: by prior knowledge. clients: connections, each with five requests at once."""
        self._where = port, tls
        self._path = path
        self._clients = clients
        self._enough = threading.Event()
        self.requests = self.repeated = 0
        self.problems: list[str] = []
        self._running = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._running.start()

    async def _run(self) -> None:
        await asyncio.gather(*(self._connection() for _ in range(self._clients)))

    async def _connection(self) -> None:
        while not self._enough.is_set() and len(self.problems) < 20:
            try:
                client = await HTTP2Client.connect(*self._where)
            except OSError as error:
                self.problems.append(f"connecting: {error!r}")
                await asyncio.sleep(0.1)
                continue
            await asyncio.gather(*(self._ask(client) for _ in range(5)))
            await client.close()

    async def _ask(self, client: HTTP2Client) -> None:
        while not self._enough.is_set() and not client.is_retiring:
            try:
                response = await asyncio.wait_for(client.request("GET", self._path), REQUEST_TIMEOUT)
            except NotHandled:
                self.repeated += 1
                return
            except (OSError, EOFError, TimeoutError) as error:
                self.problems.append(repr(error))
                return
            if response.status != 200:
                self.problems.append(f"status {response.status}: {response.body[:100]!r}")
            self.requests += 1
            await asyncio.sleep(0.005)

    def stop(self) -> None:
        self._enough.set()
        self._running.join()


def body(size: int) -> str:
    """The SHA-256 of `size` bytes: the block, repeated."""
    digest = hashlib.sha256()
    while size:
        piece = BLOCK[:size]
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


class BulkServer:
    """A server of HTTP/1: `GET /SIZE` responds with so many bytes, and a POST with a length with the SHA-256 of its
    body, which it reads slowly."""

    def __init__(self, pause: float = 0.0) -> None:
        """pause: seconds after each MiB that it reads."""
        self._pause = threading.Event(), pause
        self._server = SocketServer(self._serve)
        self.address = self._server.address

    def stop(self) -> None:
        self._pause[0].set()
        self._server.stop()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    more = sock.recv(1)
                    if not more:
                        return
                    head += more
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                if head.startswith(b"POST "):
                    self._receive(sock, int(length[1]) if length is not None else 0)
                else:
                    self._send(sock, int(head.split(b" ")[1][1:]))

    def _send(self, sock: socket.socket, size: int) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while size:
            piece = BLOCK[:size]
            sock.sendall(piece)
            size -= len(piece)

    def _receive(self, sock: socket.socket, size: int) -> None:
        digest = hashlib.sha256()
        stopped, pause = self._pause
        while size:
            piece = read_exactly(sock, min(size, len(BLOCK)))
            digest.update(piece)
            size -= len(piece)
            stopped.wait(pause)
        said = digest.hexdigest().encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


def curl(url: str, ca: Path | None, *options: str) -> subprocess.Popen[bytes]:
    """Start a curl that speaks HTTP/2. ca: a file; None: without TLS."""
    words = ["--http2-prior-knowledge"] if ca is None else ["--http2", "--cacert", str(ca)]
    command = [program("curl"), "-s", "-S", "--fail", *words, *options, url]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def download(url: str, ca: Path | None, rate: int) -> str:
    """Read a body at so many bytes a second. Return its SHA-256."""
    with curl(url, ca, "--limit-rate", str(rate)) as process:
        digest = hashlib.sha256()
        assert process.stdout is not None
        while piece := process.stdout.read(1 << 16):
            digest.update(piece)
    assert process.returncode == 0, process.returncode
    return digest.hexdigest()


def upload(url: str, ca: Path | None, size: int) -> str:
    """Send a body of so many bytes as fast as it is taken. Return what the server responds with."""
    options = "-X", "POST", "-T", "-", "-H", f"Content-Length: {size}", "-H", "Expect:"
    with curl(url, ca, *options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while size:
            piece = BLOCK[:size]
            process.stdin.write(piece)
            size -= len(piece)
        process.stdin.close()
        said = process.stdout.read().decode()
    assert process.returncode == 0, process.returncode
    return said
