"""Clients that misbehave at every stage, as a program: hostile_clients.py OPTIONS, a JSON object.

Options: `seed`; `http`: ports of services that read requests; `raw`: ports of services that do not; `tls`: ports of
services that speak TLS or pass it through; `control`: the path of the control socket; `status`: the port of the status
page; `actors`: how many clients at once; `only`: names of kinds, separated by commas, "": all; `report`: the file for
the counts. Each actor draws what it does from its own generator, so a seed gives the same acts again; their order in
time is the machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from hostile_http2 import HTTP2_KINDS
from hostile_tls import TLS_KINDS
from peer import LOST, NICENESS, Peer, pick, report

BLOCK = random.Random(2).randbytes(1 << 16)

MAX_TIME = 12.0
"""Seconds that one act may take."""

MAX_UPLOAD_BYTES = 4 << 20
MAX_PIPELINED_BYTES = 1 << 20
MAX_READ_BYTES = 8 << 20

SILENT_CONNECTIONS = 150
"""The silent connections that one act opens."""

SMALL_BUFFER = 4096
"""SO_RCVBUF in bytes of a client that does not read."""


class Attacker:
    """One client that misbehaves repeatedly."""

    def __init__(self, options: dict[str, object], number: int, counts: Counter[str]) -> None:
        self.chance = random.Random(f"{options['seed']}/{number}")
        self.http: list[int] = options["http"]  # type: ignore[assignment]
        self.raw: list[int] = options["raw"]  # type: ignore[assignment]
        self.tls: list[int] = options["tls"]  # type: ignore[assignment]
        self.control = str(options["control"])
        self.status = int(str(options["status"]))
        self.counts = counts
        self.peers: list[Peer] = []
        self.kinds = pick(dict(KINDS), str(options["only"]))

    async def run(self) -> None:
        """Act for ever."""
        while True:
            name = self.chance.choice(self.kinds)
            self.counts[name] += 1
            with contextlib.suppress(*LOST):
                async with asyncio.timeout(self.chance.uniform(0.5, MAX_TIME)):
                    await KINDS[name](self)
            for peer in self.peers:
                if peer.sock.fileno() >= 0:
                    await peer.leave(self.chance)
            self.peers.clear()
            await asyncio.sleep(self.chance.random() * 0.3)

    async def connect(self, ports: list[int], receive_buffer: int = 0) -> Peer:
        """Connect to one of these ports; the connection is left when the act is over."""
        peer = await Peer.connect(self.chance.choice(ports), receive_buffer)
        self.peers.append(peer)
        self.counts["connections"] += 1
        return peer

    def request(self, method: str = "GET", query: str = "", version: str = "1.1", *fields: str) -> bytes:
        """The head of a request."""
        self.counts["requests"] += 1
        target = f"/echo/h{self.chance.getrandbits(32):x}{query}"
        return "\r\n".join((f"{method} {target} HTTP/{version}", "Host: soak", *fields, "", "")).encode()

    def any_request(self, is_quick: bool = False) -> bytes:
        """A whole request of some kind. is_quick: the server need not wait before it responds."""
        chance = self.chance
        way = chance.randrange(3 if is_quick else 4)
        if way == 0:
            body = BLOCK[: chance.randrange(1, 3000)]
            return self.request("POST", "", "1.1", f"Content-Length: {len(body)}") + body
        if way == 1:
            return self.request("HEAD")
        if way == 2:
            return self.request("GET", f"?size={chance.choice((0, 10_000, 1_000_000))}")
        return self.request("GET", f"?delay={chance.choice((0, 100, 2000))}")

    # Kinds of clients that speak HTTP.

    async def pipelines_unread(self) -> None:
        """Pipeline requests without end, and read no response."""
        peer = await self.connect(self.http, SMALL_BUFFER)
        requests = self.any_request(is_quick=True) * self.chance.choice((1, 50, 500))
        while peer.sent < MAX_PIPELINED_BYTES:
            await peer.send(requests)
        await asyncio.sleep(MAX_TIME)

    async def pipelines_bad_requests(self) -> None:
        """Pipeline requests that the switch refuses, and read no response."""
        peer = await self.connect(self.http, self.chance.choice((0, SMALL_BUFFER)))
        kinds = ("OPTIONS * HTTP/1.1", "CONNECT a:1 HTTP/1.1", "GET / HTTP/2.0", "GET / HTTP/1.2", "PRI * HTTP/2.0")
        while peer.sent < MAX_PIPELINED_BYTES:
            await peer.send(f"{self.chance.choice(kinds)}\r\nHost: soak\r\n\r\n".encode() * 200)
            self.counts["requests"] += 200
        await asyncio.sleep(MAX_TIME)

    async def never_reads(self) -> None:
        """Request a large response, and read little or nothing of it."""
        peer = await self.connect(self.http, SMALL_BUFFER)
        await peer.send(self.request("GET", "?size=4000000", self.chance.choice(("1.0", "1.1"))))
        if self.chance.random() < 0.5:
            await peer.read(100)
        await asyncio.sleep(MAX_TIME)

    async def never_reads_the_end(self) -> None:
        """Read all of a response but its last bytes."""
        peer = await self.connect(self.http, SMALL_BUFFER)
        await peer.send(self.request("GET", "?size=3000000"))
        while peer.received < 2_900_000 and await peer.read():
            pass
        await asyncio.sleep(MAX_TIME)

    async def reads_slowly(self) -> None:
        peer = await self.connect(self.http, SMALL_BUFFER)
        await peer.send(self.request("GET", "?size=1000000") * 3)
        while await peer.read(self.chance.choice((1, 100, 2000))):
            await asyncio.sleep(0.02)

    async def half_closes(self) -> None:
        """Send a FIN at any byte of a request or after it; then read or do not read."""
        peer = await self.connect(self.http)
        request = self.any_request()
        await peer.send(request[: self.chance.randrange(len(request) + 1)])
        await asyncio.sleep(self.chance.choice((0, 0.01, 0.3)))
        peer.half_close()
        if self.chance.random() < 0.7:
            await peer.wait_for_end()
        await asyncio.sleep(MAX_TIME)

    async def resets(self) -> None:
        """Send a RST at any byte of a request, or while the response is on its way."""
        peer = await self.connect(self.http)
        request = self.any_request()
        await peer.send(request[: self.chance.randrange(len(request) + 1)] if self.chance.random() < 0.5 else request)
        await asyncio.sleep(self.chance.choice((0, 0.001, 0.01, 0.1)))
        peer.reset()

    async def abandons(self) -> None:
        """Leave while the request waits for a server, or in a queue."""
        peer = await self.connect(self.http)
        await peer.send(self.request("GET", "?delay=3000") * self.chance.choice((1, 1, 5)))
        await asyncio.sleep(self.chance.uniform(0, 2))

    async def drips(self) -> None:
        """Send a request in segments of one byte."""
        peer = await self.connect(self.http)
        while True:
            await peer.drip(self.any_request()[:2000], self.chance.choice((0, 0.001, 0.1)))
            await peer.read()

    async def never_ends_head(self) -> None:
        peer = await self.connect(self.http)
        await peer.send(b"GET /echo/h HTTP/1.1\r\nHost: soak\r\n")
        pause, line = (
            self.chance.choice((0, 0.01, 0.5)),
            self.chance.choice((b"X: y\r\n", b"X: " + b"y" * 800 + b"\r\n")),
        )
        while peer.sent < MAX_UPLOAD_BYTES:
            await peer.send(line)
            await asyncio.sleep(pause)

    async def sends_garbage(self) -> None:
        peer = await self.connect(self.http)
        while peer.sent < MAX_PIPELINED_BYTES:
            await peer.send(self.chance.randbytes(self.chance.choice((1, 50, 5000))))
            await asyncio.sleep(self.chance.choice((0, 0.1)))

    async def changes_a_byte(self) -> None:
        """Send a request with some bytes changed."""
        peer = await self.connect(self.http)
        data = bytearray(self.any_request() + self.any_request())
        for _ in range(self.chance.randint(1, 3)):
            data[self.chance.randrange(min(len(data), 200))] = self.chance.choice((0, 9, 10, 13, 32, 58, 255))
        await peer.send(bytes(data))
        await peer.wait_for_end()

    async def has_huge_head(self) -> None:
        peer = await self.connect(self.http)
        size = self.chance.choice((8_000, 60_000, 70_000, 500_000))
        if self.chance.random() < 0.5:
            await peer.send(b"GET /echo/h" + b"u" * size + b" HTTP/1.1\r\nHost: soak\r\n\r\n")
        else:
            await peer.send(self.request("GET", "", "1.1", *(f"X-{n}: {'v' * 500}" for n in range(size // 500))))
        await peer.wait_for_end()

    async def frames_wrongly(self) -> None:
        """Send a malformed chunked body, or a head that two readers could understand in two ways."""
        peer = await self.connect(self.http)
        head = self.request("POST", "", "1.1", "Transfer-Encoding: chunked")
        smuggled = self.request("GET")
        wrong = (
            head + b"5\r\nhello\r\nzz\r\n" + smuggled,
            head + b"5\r\nhellox\r\n0\r\n\r\n" + smuggled,
            head + b"-5\r\nhello\r\n0\r\n\r\n",
            head + b"5;" + b"e" * 30_000 + b"\r\nhello\r\n0\r\n\r\n",
            head + b"0\r\nX\r\n\r\n",
            head + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n",
            self.request("POST", "", "1.1", "Content-Length: 5", "Transfer-Encoding: chunked")
            + b"0\r\n\r\n"
            + smuggled,
            self.request("POST", "", "1.1", "Content-Length: 5", "Content-Length: 6") + b"hello" + smuggled,
            self.request("POST", "", "1.1", "Content-Length: +5") + b"hello" + smuggled,
            self.request("POST", "", "1.0", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + smuggled,
            self.request("POST", "", "1.1", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n" + smuggled,
        )
        await peer.send(self.chance.choice(wrong))
        await peer.wait_for_end()

    async def stalls_in_body(self) -> None:
        peer = await self.connect(self.http)
        await peer.send(
            self.request("POST", "", "1.1", self.chance.choice(("Content-Length: 9999", "Transfer-Encoding: chunked")))
        )
        await peer.send(self.chance.choice((b"", b"5\r\nhel")))
        await asyncio.sleep(MAX_TIME)

    async def expects_and_never_sends(self) -> None:
        peer = await self.connect(self.http)
        await peer.send(self.request("PUT", "", "1.1", "Content-Length: 1000000", "Expect: 100-continue"))
        await peer.wait_for_end()

    async def uploads(self) -> None:
        """Send a large body to servers that may respond early; read the response at the end, or never."""
        peer = await self.connect(self.http)
        await peer.send(self.request("POST", "", "1.1", f"Content-Length: {MAX_UPLOAD_BYTES}"))
        for _ in range(MAX_UPLOAD_BYTES >> 16):
            await peer.send(BLOCK)
            await asyncio.sleep(self.chance.choice((0, 0, 0.01)))
        if self.chance.random() < 0.5:
            await peer.wait_for_end()
        await asyncio.sleep(MAX_TIME)

    async def upgrades_unread(self) -> None:
        """Upgrade to WebSocket; then send bytes, and do not read."""
        peer = await self.connect(self.http, SMALL_BUFFER)
        fields = (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: c29hayBzb2FrIHNvYWsgIQ==",
        )
        await peer.send(self.request("GET", "", "1.1", *fields))
        await peer.read(64)
        size = self.chance.choice((1, 1000, 65536))
        while peer.sent < MAX_UPLOAD_BYTES:
            await peer.send(BLOCK[:size])
            await asyncio.sleep(0)
        await asyncio.sleep(MAX_TIME)

    async def is_old(self) -> None:
        """Send HTTP/1.0, with and without keep-alive, with GET, HEAD and POST."""
        peer = await self.connect(self.http)
        for _ in range(self.chance.randint(1, 5)):
            fields = self.chance.choice(((), ("Connection: keep-alive",)))
            method = self.chance.choice(("GET", "HEAD", "POST"))
            body = BLOCK[:100] if method == "POST" else b""
            await peer.send(
                self.request(method, "", "1.0", *fields, *([f"Content-Length: {len(body)}"] if body else [])) + body
            )
            await peer.read_head()
        await peer.wait_for_end()

    # Kinds of clients that speak to any service.

    async def says_nothing(self) -> None:
        """Open many connections and send nothing."""
        port = [self.chance.choice(self.http + self.raw)]
        for _ in range(self.chance.choice((1, 20, SILENT_CONNECTIONS))):
            await self.connect(port)
        await asyncio.sleep(MAX_TIME)

    async def comes_and_goes(self) -> None:
        """Open connections and close or reset them at once."""
        for _ in range(50):
            peer = await self.connect(self.http + self.raw)
            if self.chance.random() < 0.5:
                peer.reset()
            else:
                peer.close()

    async def sends_urgent(self) -> None:
        """Send urgent data between bytes, and an urgent byte at the end."""
        peer = await self.connect(self.http + self.raw)
        await peer.send(self.request())
        for _ in range(self.chance.randrange(50)):
            await peer.urgent()
            await peer.send(BLOCK[: self.chance.choice((0, 1, 3000))])
            await asyncio.sleep(self.chance.choice((0, 0.01)))
        await peer.urgent()
        await asyncio.sleep(MAX_TIME)

    async def talks(self) -> None:
        """Send and receive for a while."""
        peer = await self.connect(self.raw)
        for _ in range(self.chance.randrange(200)):
            await peer.send(BLOCK[: int(2 ** (self.chance.random() * 16))])
            if self.chance.random() < 0.7:
                await peer.read()
        if self.chance.random() < 0.5:
            peer.half_close()
            await peer.wait_for_end()

    async def floods_unread(self) -> None:
        """Send segments of one size and do not read: the memory of the switch and the kernel must stay bounded."""
        peer = await self.connect(self.raw, SMALL_BUFFER)
        size, most = self.chance.choice(
            ((1, 400_000), (1, 400_000), (100, 8 << 20), (1448, 16 << 20), (65536, 32 << 20))
        )
        await peer.flood(BLOCK[:size], most)
        await asyncio.sleep(MAX_TIME)

    async def drips_unread(self) -> None:
        peer = await self.connect(self.raw, SMALL_BUFFER)
        await peer.drip(BLOCK, 0.002)

    # Kinds of visitors of the status page and the control socket.

    async def visits_status(self) -> None:
        """Request the status page, and read the response or do not."""
        peer = await self.connect([self.status], SMALL_BUFFER)
        path = self.chance.choice(("/metrics", "/", "/status.json", "/nothing"))
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.status}\r\n\r\n".encode()
        await peer.send(request[: self.chance.choice((10, len(request)))] * self.chance.choice((1, 1, 20)))
        if self.chance.random() < 0.3:
            await peer.wait_for_end()
        await asyncio.sleep(MAX_TIME / 4)

    async def visits_control(self) -> None:
        """Send garbage or nothing on the control connection, and do not read."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, self.control)
            data = self.chance.choice((b"", BLOCK[:100], BLOCK, b"\0\4_ask\0\0011\0\10_command\0\4View\0\0"))
            await loop.sock_sendall(sock, data * self.chance.choice((1, 10)))
            await asyncio.sleep(self.chance.uniform(0, 1))


KINDS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    kind.__name__: kind
    for kind in (
        Attacker.pipelines_unread, Attacker.pipelines_bad_requests, Attacker.never_reads, Attacker.never_reads_the_end,
        Attacker.reads_slowly, Attacker.half_closes, Attacker.resets, Attacker.abandons, Attacker.drips,
        Attacker.never_ends_head, Attacker.sends_garbage, Attacker.changes_a_byte, Attacker.has_huge_head,
        Attacker.frames_wrongly, Attacker.stalls_in_body, Attacker.expects_and_never_sends, Attacker.uploads,
        Attacker.upgrades_unread, Attacker.is_old, Attacker.says_nothing, Attacker.comes_and_goes,
        Attacker.sends_urgent, Attacker.talks, Attacker.floods_unread, Attacker.drips_unread, Attacker.visits_status,
        Attacker.visits_control, *TLS_KINDS, *HTTP2_KINDS,
    )
}  # fmt: skip


async def main(options: dict[str, object]) -> None:
    os.nice(NICENESS)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    counts: Counter[str] = Counter()
    acting = [asyncio.ensure_future(Attacker(options, n, counts).run()) for n in range(int(str(options["actors"])))]
    reporting = asyncio.ensure_future(report(Path(str(options["report"])), counts))
    await asyncio.wait([reporting, *acting], return_when=asyncio.FIRST_COMPLETED)
    for task in acting:
        if task.done():
            task.result()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
