"""Clients of many kinds. Each failure is kept with the facts that show whether it is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from http2_client import GRPC, Fields, HTTP2Client, HTTP2Response, NotHandled, grpc_message

LATEST = 70.0
"""Seconds that a client waits for a response: longer than the switch waits for a server."""

NAME = "localhost"
"""The server name that clients of TLS send."""

BY_TLS = " by TLS"
"""The end of the names of kinds that speak TLS."""

LOST = OSError, EOFError, asyncio.IncompleteReadError, RuntimeError
"""Exceptions of a connection that has ended; the last is uvloop's."""


@dataclass
class Failure:
    """kind: of client. when: seconds, monotonic. port: the client's own; 0: it was refused. why: in words. server: the
    one whose response had begun; "" for none. safe: the request could have been sent again: it must not fail."""

    kind: str
    when: float
    port: int
    why: str
    server: str
    safe: bool


class Answer:
    """status; server: the header X-Server; body; closes: the connection is over after it."""

    def __init__(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.server = self.fields.get("x-server", "")
        self.closes = self.fields.get("connection", "").lower() == "close"
        self.length = int(self.fields.get("content-length", 0))
        self.body = b""


@dataclass
class Clients:
    """All clients of one run. web, relayed, secure, calls: ports of four services. files: name -> SHA-256. tls: with
    which clients of `secure` speak; it serves as `web` does. http2_tls: the same for clients of HTTP/2. done: the
    number of successful conversations of each kind. races: a kept connection was closed just when the next request was
    sent, and that was sent again on another, as every client of HTTP does (RFC 9112, section 9.3.1)."""

    web: int
    relayed: int
    secure: int
    calls: int
    files: dict[str, str]
    tls: ssl.SSLContext
    http2_tls: ssl.SSLContext
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    races: int = 0
    failures: list[Failure] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    ports: dict[asyncio.StreamWriter, int] = field(default_factory=dict)
    enough: bool = False

    async def run(self, each: int) -> None:
        """Run `each` clients of every kind until `enough`."""
        kinds = (self.keeps, self.closes, self.pipelines, self.uploads, self.downloads, self.streams)
        tasks = [self.talks(random.Random(f"{self.seed}/talks/{n}")) for n in range(each)]
        tasks += [self.calls_grpc(random.Random(f"{self.seed}/calls/{n}")) for n in range(each)]
        for kind in kinds:
            for by in ("", BY_TLS):
                name = f"{kind.__name__}{by}"
                tasks += [kind(random.Random(f"{self.seed}/{name}/{n}"), name) for n in range(each)]
        await asyncio.gather(*tasks)

    # Kinds of clients. kind: the name of the kind, by which it speaks TLS or not.

    async def keeps(self, chance: random.Random, kind: str) -> None:
        """GET after GET on one connection."""
        while not self.enough:
            with contextlib.suppress(*LOST):
                reader, writer = await self._connect(kind)
                count = 0
                while not self.enough and await self._ask(kind, reader, writer, self._get(chance), count):
                    count += 1
                    await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01, 0.2)))
                await self._close(writer)

    async def closes(self, chance: random.Random, kind: str) -> None:
        """A new connection for each GET."""
        while not self.enough:
            with contextlib.suppress(*LOST):
                reader, writer = await self._connect(kind)
                await self._ask(kind, reader, writer, self._get(chance, "Connection: close"), 0)
                await self._close(writer)
                await asyncio.sleep(chance.random() * 0.02)

    async def pipelines(self, chance: random.Random, kind: str) -> None:
        """Several pipelined GETs."""
        while not self.enough:
            with contextlib.suppress(*LOST):
                reader, writer = await self._connect(kind)
                requests = [self._get(chance) for _ in range(chance.randint(2, 5))]
                writer.write(b"".join(requests))
                for count, request in enumerate(requests):
                    if not await self._ask(kind, reader, writer, request, count, sent=True):
                        break
                await self._close(writer)
                await asyncio.sleep(chance.random() * 0.05)

    async def uploads(self, chance: random.Random, kind: str) -> None:
        """POST of a body in pieces. It may fail only when its server or its process is killed."""
        while not self.enough:
            with contextlib.suppress(*LOST):
                reader, writer = await self._connect(kind)
                body = chance.randbytes(chance.randrange(200_000))
                head = f"POST /upload HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                writer.write(head)
                for start in range(0, len(body), 50_000):
                    writer.write(body[start : start + 50_000])
                    await writer.drain()
                await self._ask(kind, reader, writer, b"POST", 0, sent=True, safe=False)
                await self._close(writer)
                await asyncio.sleep(chance.random() * 0.05)

    async def downloads(self, chance: random.Random, kind: str) -> None:
        """Large responses, compared by SHA-256. A response that has begun cannot be retried."""
        while not self.enough:
            with contextlib.suppress(*LOST):
                reader, writer = await self._connect(kind)
                name = chance.choice(sorted(self.files))
                request = f"GET /files/{name} HTTP/1.1\r\nHost: soak\r\n\r\n".encode()
                await self._ask(kind, reader, writer, request, 0, digest=self.files[name])
                await self._close(writer)
                await asyncio.sleep(chance.random() * 0.05)

    async def talks(self, chance: random.Random) -> None:
        """An echo through a relayed connection, for up to some seconds."""
        while not self.enough:
            with contextlib.suppress(*LOST):
                reader, writer = await self._connect("talks")
                port = self.ports[writer]
                until = time.monotonic() + chance.random() * 5
                try:
                    while time.monotonic() < until and not self.enough:
                        block = chance.randbytes(chance.randrange(1, 20_000))
                        writer.write(block)
                        if await asyncio.wait_for(reader.readexactly(len(block)), LATEST) != block:
                            self._failed("talks", port, "the echo is another", safe=True)
                        await asyncio.sleep(chance.choice((0, 0.01, 0.1)))
                    self.done["talks"] += 1
                except LOST as error:
                    self._failed("talks", port, repr(error), safe=False)
                await self._close(writer)

    async def streams(self, chance: random.Random, kind: str) -> None:
        """HTTP/2: several requests at once on one connection, some of which are downloads and uploads."""
        is_tls = kind.endswith(BY_TLS)
        port, tls = (self.secure, self.http2_tls) if is_tls else (self.web, None)
        while not self.enough:
            until = time.monotonic() + chance.random() * 20
            await self._http2(kind, port, tls, [self._stream(chance, kind, until) for _ in range(chance.randint(1, 6))])
            await asyncio.sleep(chance.random() * 0.05)

    async def calls_grpc(self, chance: random.Random) -> None:
        """Calls of gRPC, several at once on one connection."""
        while not self.enough:
            until = time.monotonic() + chance.random() * 20
            calls = [self._call(chance, until) for _ in range(chance.randint(1, 4))]
            await self._http2("calls", self.calls, None, calls)
            await asyncio.sleep(chance.random() * 0.05)

    # Their steps.

    async def _http2(
        self, kind: str, port: int, tls: ssl.SSLContext | None, uses: list[Callable[[HTTP2Client], Awaitable[None]]]
    ) -> None:
        """Connect, and use the connection in several ways at once."""
        client = None
        try:
            client = await HTTP2Client.connect(port, tls)
        except LOST as error:
            self._failed(kind, 0, f"connecting: {error!r}", safe=True)
            await asyncio.sleep(0.1)
            return
        try:
            await asyncio.gather(*(use(client) for use in uses))
        finally:
            await client.close()

    def _stream(self, chance: random.Random, kind: str, until: float) -> Callable[[HTTP2Client], Awaitable[None]]:
        """Return what sends requests, one after the other."""

        async def run(client: HTTP2Client) -> None:
            while not self.enough and time.monotonic() < until and not client.is_retiring:
                way, digest = chance.random(), ""
                method, path, body = "GET", f"/{chance.randrange(50)}", None
                if way < 0.05:
                    name = chance.choice(sorted(self.files))
                    path, digest = f"/files/{name}", self.files[name]
                elif way < 0.1:
                    method, path, body = "POST", "/upload", chance.randbytes(chance.randrange(200_000))
                response = await self._exchange(kind, client, method, path, (), body)
                if response is None:
                    return
                if response.status != 200:
                    self._failed(kind, client.port, f"status {response.status}", response.server, body is None)
                elif digest and hashlib.sha256(response.body).hexdigest() != digest:
                    self._failed(kind, client.port, "another SHA-256", response.server, safe=True)
                else:
                    self.done[kind] += 1
                await asyncio.sleep(chance.choice((0, 0.001, 0.01, 0.2)))

        return run

    def _call(self, chance: random.Random, until: float) -> Callable[[HTTP2Client], Awaitable[None]]:
        """Return what makes calls, one after the other; each echoes its message."""

        async def run(client: HTTP2Client) -> None:
            while not self.enough and time.monotonic() < until and not client.is_retiring:
                message = grpc_message(chance.randbytes(chance.choice((0, 10, 1000, 100_000))))
                method = chance.choice(("Unary", "Bidi"))
                response = await self._exchange("calls", client, "POST", f"/test.Echo/{method}", GRPC, message)
                if response is None:
                    return
                status = response.trailers.get("grpc-status", response.fields.get("grpc-status"))
                if (response.status, status) != (200, "0") or response.body != message:
                    why = f"status {response.status}, grpc-status {status}, {len(response.body)} bytes"
                    self._failed("calls", client.port, why, "", safe=True)
                else:
                    self.done["calls"] += 1
                await asyncio.sleep(chance.choice((0, 0.001, 0.01, 0.2)))

        return run

    async def _exchange(
        self, kind: str, client: HTTP2Client, method: str, path: str, fields: Fields, body: bytes | None
    ) -> HTTP2Response | None:
        """Send a request; return its whole response. None: there is none, and the connection is of no more use."""
        began, response = time.monotonic(), HTTP2Response()
        try:
            await asyncio.wait_for(client.request(method, path, fields, body, response), LATEST)
        except NotHandled:
            self.races += 1
            return None
        except (*LOST, TimeoutError) as error:
            safe = body is None and not response.status
            self._failed(kind, client.port, f"{method} {path}: {error!r}", response.server, safe)
            return None
        self.latencies.append(time.monotonic() - began)
        return response

    def _get(self, chance: random.Random, *lines: str) -> bytes:
        return "\r\n".join((f"GET /{chance.randrange(50)} HTTP/1.1", "Host: soak", *lines, "", "")).encode()

    async def _connect(self, kind: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        is_tls = kind.endswith(BY_TLS)
        port = self.relayed if kind == "talks" else self.secure if is_tls else self.web
        sock, own = socket.socket(), 0
        sock.setblocking(False)
        tls, name = (self.tls, NAME) if is_tls else (None, None)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            own = sock.getsockname()[1]
            reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 20, ssl=tls, server_hostname=name)
        except LOST as error:
            sock.close()
            self._failed(kind, own, f"connecting: {error!r}", safe=True)
            await asyncio.sleep(0.1)
            raise
        self.ports[writer] = own  # which a broken connection does not tell any more
        return reader, writer

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*LOST):
            self.ports.pop(writer, None)
            writer.close()
            await writer.wait_closed()

    async def _ask(
        self,
        kind: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: bytes,
        count: int,
        sent: bool = False,
        safe: bool = True,
        digest: str = "",
    ) -> bool:
        """Send a request and check its response. Return True if the connection stays open. count: earlier requests on
        it."""
        port = self.ports[writer]
        answer: Answer | None = None
        began = time.monotonic()
        try:
            if not sent:
                writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LATEST)
            answer = Answer(head)
            hashed = hashlib.sha256()
            left = answer.length
            while left:
                data = await asyncio.wait_for(reader.read(min(left, 1 << 16)), LATEST)
                if not data:
                    raise EOFError("the body ends early")
                left -= len(data)
                hashed.update(data)
        except (*LOST, TimeoutError) as error:
            began_answer = answer is not None or bool(getattr(error, "partial", b""))
            if count and not began_answer and not isinstance(error, TimeoutError):
                self.races += 1
            else:
                self._failed(kind, port, repr(error), answer.server if answer else "", safe and not began_answer)
            return False
        self.latencies.append(time.monotonic() - began)
        if answer.status != 200:
            self._failed(kind, port, f"status {answer.status}", answer.server, safe)
            return not answer.closes
        if digest and hashed.hexdigest() != digest:
            self._failed(kind, port, "another SHA-256", answer.server, safe=True)
        self.done[kind] += 1
        return not answer.closes

    def _failed(self, kind: str, port: int, why: str, server: str = "", safe: bool = True) -> None:
        self.failures.append(Failure(kind, time.monotonic(), port, why, server, safe))
