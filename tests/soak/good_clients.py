"""Well-behaved clients of the hostile soak: each response must belong to the client's own request, to the last byte."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from clients import LOST, NAME, Answer
from good_servers import body_of
from http2_client import GRPC, HTTP2Client, NotHandled, grpc_message
from servers import LOOPBACK

LATEST = 60.0
"""Seconds that a client waits for any part of a response: longer than any timeout of the switch."""

OWN_STATUSES = {400, 408, 429, 502, 503, 504}
"""Statuses of the switch's own responses, where its servers misbehave."""


class Wrong(Exception):
    """A response that no client may receive."""


FAILED = (*LOST, TimeoutError, ValueError, asyncio.LimitOverrunError, Wrong)
"""Exceptions of a failed conversation; ValueError: a malformed number in a response."""


@dataclass
class Response:
    """status; server: the field X-Server, "" where the switch itself responds; body."""

    status: int
    server: str
    ident: str
    digest: str
    body: bytes
    closes: bool


async def read_response(reader: asyncio.StreamReader, method: str) -> Response:
    """Read a response. Raises OSError, EOFError, asyncio.IncompleteReadError, TimeoutError, Wrong."""
    async with asyncio.timeout(LATEST):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 "):
                raise Wrong(f"a response begins with {head[:40]!r}")
            answer = Answer(head)
            if answer.status >= 200:
                break
        fields = answer.fields
        body = b""
        if method != "HEAD" and answer.status not in (204, 304):
            if fields.get("transfer-encoding", "").lower() == "chunked":
                while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                await reader.readuntil(b"\r\n")
            elif "content-length" in fields:
                body = await reader.readexactly(answer.length)
            else:
                body = await reader.read(-1)
    ident, digest = fields.get("x-id", ""), fields.get("x-digest", "")
    closes = answer.closes or "close" in fields.get("connection", "").lower()
    return Response(answer.status, answer.server, ident, digest, body, closes)


@dataclass
class GoodClients:
    """All well-behaved clients of one run.

    clean: the port of a service whose servers are good. mixed: of one that has hostile servers too. relay: of one that
    relays whole connections to good servers. secure: of one like `clean` that speaks TLS. passed: of one that passes
    TLS through to that. tls: with which clients of these two speak; None: there are none. calls: the port of a service
    of gRPC; None: there is none. http2_tls: with which clients of HTTP/2 speak to `secure`. done: what went well, by
    kind. wrong: responses that no client may get, and failures on clean services. failures: of requests of the mixed
    service, by reason. races: a kept connection was closed just when the next request was sent; the client sends it
    again (RFC 9112, section 9.3.1). latencies: seconds of each small request of the clean service, without TLS.
    stream_latencies: of each request of HTTP/2.
    """

    clean: int
    mixed: int
    relay: int
    seed: int
    secure: int | None = None
    passed: int | None = None
    tls: ssl.SSLContext | None = None
    calls: int | None = None
    http2_tls: ssl.SSLContext | None = None
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    races: int = 0
    latencies: list[float] = field(default_factory=list)
    stream_latencies: list[float] = field(default_factory=list)
    enough: bool = False

    async def run(self, each: int) -> None:
        """Run `each` clients of every kind until `enough`."""
        kinds = [self.keeps, self.closes, self.pipelines, self.uploads, self.downloads, self.talks, self.asks_mixed]
        kinds += [self.keeps_tls, self.closes_tls] if self.tls is not None else []
        kinds += [self.streams, self.streams_tls, self.calls_grpc] if self.calls is not None else []
        chances = (random.Random(f"{self.seed}/{kind.__name__}/{n}") for kind in kinds for n in range(each))
        await asyncio.gather(*(kind(next(chances)) for kind in kinds for _ in range(each)))

    # Clients of the clean services.

    async def keeps(self, chance: random.Random) -> None:
        """Small requests on one connection."""
        while not self.enough:
            await self._converse(
                "keeps", chance, chance.randint(1, 200), lambda: ("GET", f"?size={chance.randrange(2000)}")
            )

    async def closes(self, chance: random.Random) -> None:
        """A new connection for each small request."""
        while not self.enough:
            kind = chance.choice(("GET", "HEAD"))
            await self._converse("closes", chance, 1, lambda kind=kind: (kind, f"?chunked={chance.randrange(2)}"))
            await asyncio.sleep(chance.random() * 0.05)

    async def pipelines(self, chance: random.Random) -> None:
        """Several pipelined requests."""
        while not self.enough:
            idents = [f"p{chance.getrandbits(48):x}" for _ in range(chance.randint(2, 5))]
            writer = None
            try:
                reader, writer = await asyncio.open_connection(LOOPBACK, self.clean)
                writer.write(b"".join(_head("GET", ident, "") for ident in idents))
                closes = False
                for ident in idents:
                    if closes:
                        self.races += 1
                        break
                    response = await read_response(reader, "GET")
                    self._check(response, ident, 100)
                    closes = response.closes
                    self.done["pipelines"] += 1
            except FAILED as error:
                self.wrong.append(f"clean service, pipelines: {error!r}")
            await _close(writer)
            await asyncio.sleep(chance.random() * 0.1)

    async def uploads(self, chance: random.Random) -> None:
        """Requests with bodies; the response holds their SHA-256."""
        while not self.enough:
            ident, body = f"u{chance.getrandbits(48):x}", chance.randbytes(chance.randrange(200_000))
            writer = None
            try:
                reader, writer = await asyncio.open_connection(LOOPBACK, self.clean)
                writer.write(_head("POST", ident, "", f"Content-Length: {len(body)}"))
                for start in range(0, len(body), 50_000):
                    writer.write(body[start : start + 50_000])
                    await writer.drain()
                response = await read_response(reader, "POST")
                self._check(response, ident, 100)
                if response.digest != hashlib.sha256(body).hexdigest():
                    raise Wrong("the server has got another body")
                self.done["uploads"] += 1
            except FAILED as error:
                self.wrong.append(f"clean service, uploads: {error!r}")
            await _close(writer)
            await asyncio.sleep(chance.random() * 0.2)

    async def downloads(self, chance: random.Random) -> None:
        """Larger responses, with Content-Length or chunked, some after a delay."""
        while not self.enough:
            query = (
                f"?size={chance.randrange(500_000)}&chunked={chance.randrange(2)}&delay={chance.choice((0, 0, 700))}"
            )
            await self._converse("downloads", chance, 3, lambda query=query: ("GET", query))
            await asyncio.sleep(chance.random() * 0.2)

    async def talks(self, chance: random.Random) -> None:
        """An echo through a relayed connection, for up to some seconds."""
        while not self.enough:
            until, writer = time.monotonic() + chance.random() * 5, None
            try:
                reader, writer = await asyncio.open_connection(LOOPBACK, self.relay)
                while time.monotonic() < until and not self.enough:
                    block = chance.randbytes(chance.randrange(1, 20_000))
                    writer.write(block)
                    if await asyncio.wait_for(reader.readexactly(len(block)), LATEST) != block:
                        raise Wrong("the echo is another")
                    self.done["talks"] += 1
                    await asyncio.sleep(chance.choice((0.005, 0.02, 0.1)))
            except FAILED as error:
                self.wrong.append(f"clean relay: {error!r}")
            await _close(writer)

    async def keeps_tls(self, chance: random.Random) -> None:
        """Requests on one connection by TLS, which ends at the switch or passes through it."""
        while not self.enough:
            port = chance.choice((self.secure, self.passed))
            size = chance.choice((2000, 200_000))
            make = lambda size=size: ("GET", f"?size={chance.randrange(size)}")  # noqa: E731
            await self._converse("by TLS", chance, chance.randint(1, 50), make, port)

    async def closes_tls(self, chance: random.Random) -> None:
        """A new connection by TLS for each small request."""
        while not self.enough:
            await self._converse("by TLS, once", chance, 1, lambda: ("GET", "?size=100"), self.secure)
            await asyncio.sleep(chance.random() * 0.05)

    async def streams(self, chance: random.Random) -> None:
        """HTTP/2: several requests at once on one connection."""
        while not self.enough:
            await self._streams("streams", chance, self.clean, None)

    async def streams_tls(self, chance: random.Random) -> None:
        """The same by TLS."""
        while not self.enough:
            await self._streams("streams by TLS", chance, self.secure or 0, self.http2_tls)

    async def _streams(self, kind: str, chance: random.Random, port: int, tls: ssl.SSLContext | None) -> None:
        async def ask(client: HTTP2Client) -> None:
            for _ in range(chance.randint(1, 60)):
                if self.enough or client.is_retiring:
                    break
                ident, size = f"s{chance.getrandbits(48):x}", chance.choice((100, 2000, 200_000))
                body = None if chance.random() < 0.9 else chance.randbytes(chance.randrange(100_000))
                method, path = "GET" if body is None else "POST", f"/echo/{ident}?size={size}&chunked={size & 1}"
                began = time.monotonic()
                response = await asyncio.wait_for(client.request(method, path, (), body), LATEST)
                self.stream_latencies.append(time.monotonic() - began)
                fields = response.fields
                digest = fields.get("x-digest", "")
                self._check(
                    Response(response.status, response.server, fields.get("x-id", ""), digest, response.body, False),
                    ident,
                    size,
                )
                if body is not None and digest != hashlib.sha256(body).hexdigest():
                    raise Wrong("the server has got another body")
                self.done[kind] += 1
                await asyncio.sleep(chance.choice((0.002, 0.01, 0.05)))

        await self._http2(kind, port, tls, [ask] * chance.randint(1, 5))

    async def calls_grpc(self, chance: random.Random) -> None:
        """Calls of gRPC, several at once on one connection."""

        async def call(client: HTTP2Client) -> None:
            for _ in range(chance.randint(1, 60)):
                if self.enough or client.is_retiring:
                    break
                message = grpc_message(chance.randbytes(chance.choice((0, 10, 1000, 100_000))))
                path = f"/test.Echo/{chance.choice(('Unary', 'Bidi'))}"
                response = await asyncio.wait_for(client.request("POST", path, GRPC, message), LATEST)
                status = response.trailers.get("grpc-status", response.fields.get("grpc-status"))
                if (response.status, status) != (200, "0") or response.body != message:
                    why = response.fields.get("grpc-message", "")
                    raise Wrong(f"status {response.status}, grpc-status {status} {why}, {len(response.body)} bytes")
                self.done["calls"] += 1
                await asyncio.sleep(chance.choice((0.002, 0.01, 0.05)))

        while not self.enough:
            await self._http2("calls", self.calls or 0, None, [call] * chance.randint(1, 4))

    async def _http2(
        self, kind: str, port: int, tls: ssl.SSLContext | None, uses: list[Callable[[HTTP2Client], Awaitable[None]]]
    ) -> None:
        """Use a connection in several ways at once."""
        client = None
        try:
            client = await HTTP2Client.connect(port, tls)
            for outcome in await asyncio.gather(*(use(client) for use in uses), return_exceptions=True):
                if isinstance(outcome, NotHandled):
                    self.races += 1
                elif isinstance(outcome, BaseException):
                    raise outcome
        except FAILED as error:
            self.wrong.append(f"clean service, {kind}: {error!r}")
        if client is not None:
            await client.close()

    async def _converse(
        self, kind: str, chance: random.Random, most: int, make: object, tls_port: int | None = None
    ) -> None:
        """Send up to `most` requests on one connection to the clean service. make: returns method and query. tls_port:
        of another service, by TLS."""
        writer = None
        tls, name = (self.tls, NAME) if tls_port is not None else (None, None)
        try:
            where = self.clean if tls_port is None else tls_port
            reader, writer = await asyncio.open_connection(
                LOOPBACK, where, limit=1 << 20, ssl=tls, server_hostname=name
            )
            for count in range(most):
                if self.enough:
                    break
                method, query = make()  # type: ignore[operator]
                ident = f"{kind[0]}{chance.getrandbits(48):x}"
                began = time.monotonic()
                try:
                    writer.write(_head(method, ident, query))
                    response = await read_response(reader, method)
                except (OSError, asyncio.IncompleteReadError) as error:
                    if count and not getattr(error, "partial", b""):
                        self.races += 1
                        break
                    raise
                if kind != "downloads" and tls is None:
                    self.latencies.append(time.monotonic() - began)
                sizes = dict(word.split("=") for word in query[1:].split("&") if word)
                self._check(response, ident, int(sizes.get("size", 100)) if method != "HEAD" else 0)
                self.done[kind] += 1
                if response.closes:
                    break
                await asyncio.sleep(chance.choice((0.002, 0.01, 0.05)))
        except FAILED as error:
            self.wrong.append(f"clean service, {kind}: {error!r}")
        await _close(writer)

    def _check(self, response: Response, ident: str, size: int) -> None:
        """Raise Wrong unless it is the response of a good server to this request."""
        if response.status != 200 or response.server != "good":
            raise Wrong(f"status {response.status} from {response.server or 'the switch'} {response.body[:80]!r}")
        if response.ident != ident or response.body != body_of(ident, size):
            raise Wrong(f"the response to {response.ident} came for {ident}, with {len(response.body)} of {size} bytes")

    # Clients of a service that has hostile servers too.

    async def asks_mixed(self, chance: random.Random) -> None:
        """Requests that may fail, but must never get the response to another request."""
        while not self.enough:
            writer = None
            try:
                reader, writer = await asyncio.open_connection(LOOPBACK, self.mixed, limit=1 << 20)
                for _ in range(chance.randint(1, 20)):
                    ident = f"m{chance.getrandbits(48):x}"
                    writer.write(_head("GET", ident, "?size=500"))
                    response = await read_response(reader, "GET")
                    self._judge(response, ident)
                    if response.closes or self.enough:
                        break
                    await asyncio.sleep(chance.choice((0.005, 0.05)))
            except Wrong as error:
                self.wrong.append(f"mixed service: {error!r}")
            except FAILED as error:
                self.failures[type(error).__name__] += 1
                if isinstance(error, TimeoutError):
                    self.wrong.append(f"mixed service: no response within {LATEST:.0f} s")
            await _close(writer)
            await asyncio.sleep(chance.random() * 0.05)

    def _judge(self, response: Response, ident: str) -> None:
        """Count a response of the mixed service. Raises Wrong when no client may receive it."""
        if response.server == "good":
            self._check(response, ident, 500)
            self.done["mixed, by good servers"] += 1
        elif not response.server and not response.ident:
            if response.status not in OWN_STATUSES:
                raise Wrong(f"status {response.status} {response.body[:80]!r}")
            self.failures[f"status {response.status}"] += 1
        elif response.ident == "late":
            self.failures["a late response that the switch cannot know"] += 1
        elif response.ident == ident:
            self.done["mixed, by hostile servers"] += 1
        else:
            raise Wrong(f"the response to {response.ident} came for {ident}")


def _head(method: str, ident: str, query: str, *fields: str) -> bytes:
    return "\r\n".join((f"{method} /echo/{ident}{query} HTTP/1.1", "Host: soak", *fields, "", "")).encode()


async def _close(writer: asyncio.StreamWriter | None) -> None:
    if writer is None:
        return
    with contextlib.suppress(*LOST):
        writer.close()
        await writer.wait_closed()
