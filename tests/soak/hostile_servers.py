"""Real servers that misbehave at every stage, as a program: hostile_servers.py OPTIONS, a JSON object.

Options: `seed`; `http`: ports of servers that read requests; `raw`: ports of servers that do not; `full`: a port whose
backlog is full; `only`: names of kinds, separated by commas, "": all; `report`: the file for the counts.
What a server does is drawn for each connection, and for HTTP again for each request.

Each response names the request that it belongs to, in `X-Id`. A response that no request asked for says `X-Id: stray`
where the switch can know that it is one, and `X-Id: late` where it cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import resource
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from peer import LOST, NICENESS, Peer, pick, report
from servers import LOOPBACK

BLOCK = random.Random(1).randbytes(1 << 16)

MAX_TIME = 20.0
"""Seconds after which a server leaves, whatever it does."""

MAX_CONNECTIONS = 1500
"""Connections at once; further ones are reset."""

MAX_INTERIM_BYTES = 4 << 20
MAX_BODY_BYTES = 8 << 20

_id = re.compile(rb"/echo/([\w-]+)")
_length = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


@dataclass
class Asked:
    """One request. ident: from its path; from the last path where an unread body comes before. length: of its body, in
    bytes; 0 when the request does not declare it."""

    head: bytes
    ident: bytes
    length: int

    @classmethod
    def read(cls, head: bytes) -> Asked:
        idents, length = _id.findall(head), _length.search(head)
        return cls(head, idents[-1] if idents else b"none", int(length[1]) if length else 0)

    def response(self, body: bytes = b"ok", status: str = "200 OK", *fields: str, length: int | None = None) -> bytes:
        """A response to this request. length: its Content-Length; None: the true length."""
        size = len(body) if length is None else length
        lines = [f"HTTP/1.1 {status}", "X-Server: hostile", *fields, f"Content-Length: {size}"]
        head = "\r\n".join(lines).encode() + b"\r\nX-Id: " + self.ident + b"\r\n\r\n"
        return head if self.head.startswith(b"HEAD ") else head + body


def _unasked(ident: bytes) -> bytes:
    return Asked(b"", ident, 0).response(b"nobody asked for this")


Serve = Callable[[Peer, Asked, random.Random], Awaitable[bool]]
"""Serves one request; returns True if the connection stays open."""

# Servers that read a request.


async def responds(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    if asked.length:
        await peer.read_exactly(min(asked.length, MAX_BODY_BYTES))
    await peer.send(asked.response(BLOCK[: chance.choice((0, 2, 1000, 60_000))]))
    return True


async def says_nothing(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.wait_for_end()
    return False


async def resets_instead(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await asyncio.sleep(chance.choice((0, 0.01, 0.5)))
    peer.reset()
    return False


async def resets_in_head(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    whole = asked.response()
    await peer.send(whole[: chance.randrange(1, 40)])
    await asyncio.sleep(chance.choice((0, 0.05)))
    peer.reset()
    return False


async def resets_in_body(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(asked.response(BLOCK[: chance.randrange(1, 60_000)], length=1 << 20))
    await asyncio.sleep(chance.choice((0, 0.05)))
    peer.reset()
    return False


async def ends_in_body(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(asked.response(BLOCK[: chance.randrange(1, 60_000)], length=1 << 20))
    return False


async def refuses_early(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    """Respond 413 and close, with the request's body unread: the kernel sends a RST for the rest."""
    await peer.send(asked.response(b"too large", "413 Content Too Large", "Connection: close"))
    await asyncio.sleep(chance.choice((0, 0.01, 0.3)))
    peer.close()
    return False


async def never_reads(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    """Respond early, never read the body, and keep the connection."""
    await peer.send(asked.response(b"early", "200 OK", *chance.choice(((), ("Connection: close",)))))
    await asyncio.sleep(MAX_TIME)
    return False


async def never_ends_interim(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    pause, interim = chance.choice((0, 0.001, 0.2)), b"HTTP/1.1 102 Processing\r\n\r\n" * chance.choice((1, 100))
    while peer.sent < MAX_INTERIM_BYTES:
        await peer.send(interim)
        await asyncio.sleep(pause)
    return False


async def drips_head(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    whole = asked.response(b"", "200 OK", "X-Long: " + "x" * 2000)
    await peer.drip(whole, chance.choice((0.001, 0.05, 0.5)))
    return True


async def never_ends_head(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(b"HTTP/1.1 200 OK\r\n")
    pause = chance.choice((0, 0.01))
    while peer.sent < MAX_INTERIM_BYTES:
        await peer.send(b"X-More: %b\r\n" % (b"m" * 500))
        await asyncio.sleep(pause)
    return False


UNREADABLE = (
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: nothing\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
)


async def is_unreadable(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(chance.choice((*UNREADABLE, chance.randbytes(300))))
    await asyncio.sleep(chance.choice((0, 0.3)))
    return False


async def frames_twice(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    """Content-Length beside Transfer-Encoding: the latter counts, and the connection is used for nothing else."""
    await peer.send(asked.response(b"2\r\nab\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked"))
    await asyncio.sleep(chance.choice((0, 0.3)))
    return True


async def frames_wrongly(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    """Respond with a malformed chunked body."""
    head = b"HTTP/1.1 200 OK\r\nX-Server: hostile\r\nX-Id: %b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    wrong = (
        b"zz\r\n",
        b"5\r\nhellox",
        b"-1\r\n",
        b"f" * 40 + b"\r\n",
        b"5;" + b"e" * 20_000,
        b"0\r\nbad trailer\r\n\r\n",
    )
    await peer.send(head % asked.ident + chance.choice(wrong))
    await asyncio.sleep(chance.choice((0, 0.5)))
    return False


async def says_too_much(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    """Send more than Content-Length, in the same segment: the switch must detect it."""
    await peer.send(asked.response() + _unasked(b"stray"))
    return True


async def says_more_later(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    """Send an unrequested response on a kept connection. The next request may already be on its way, so the switch
    cannot know that this is not its response. The server disconnects then: otherwise each response would be taken for
    that of the next request, which no check could distinguish from a fault of the switch."""
    await peer.send(asked.response())
    await asyncio.sleep(chance.uniform(0, 0.1))
    await peer.send(_unasked(b"late"))
    return False


async def ends_after_response(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    """Send a FIN right after a response without `Connection: close`."""
    await peer.send(asked.response())
    await asyncio.sleep(chance.choice((0, 0, 0.005)))
    peer.half_close()
    await peer.wait_for_end()
    return False


async def has_body_where_none_belongs(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(asked.response(b"body", chance.choice(("204 No Content", "304 Not Modified"))))
    return True


async def stalls_in_body(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(asked.response(b"begin", length=5000))
    await peer.wait_for_end()
    return False


async def drips_body(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(asked.response(b"", length=300))
    await peer.drip(BLOCK[:300], chance.choice((0.01, 0.3)), chance.choice((1, 20)))
    return True


async def never_ends_body(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    """Respond with a body that only the end of the connection would end."""
    await peer.send(b"HTTP/1.1 200 OK\r\nX-Server: hostile\r\nX-Id: %b\r\n\r\n" % asked.ident)
    while peer.sent < MAX_BODY_BYTES:
        await peer.send(BLOCK)
    return False


async def has_huge_head(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(
        asked.response(b"", "200 OK", *(f"X-{n}: {'h' * 1000}" for n in range(chance.choice((20, 60, 200)))))
    )
    return True


async def upgrades_unasked(peer: Peer, asked: Asked, chance: random.Random) -> bool:
    await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    with contextlib.suppress(*LOST):
        while peer.sent < MAX_BODY_BYTES:
            await peer.send(BLOCK)
    return False


HTTP: dict[str, Serve] = {
    kind.__name__: kind
    for kind in (
        responds, says_nothing, resets_instead, resets_in_head, resets_in_body, ends_in_body, refuses_early,
        never_reads, never_ends_interim, drips_head, never_ends_head, is_unreadable, frames_twice, frames_wrongly,
        says_too_much, says_more_later, ends_after_response, has_body_where_none_belongs, stalls_in_body, drips_body,
        never_ends_body, has_huge_head, upgrades_unasked,
    )
}  # fmt: skip

# Servers that read no request.


async def accepts_only(peer: Peer, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0, MAX_TIME))


async def resets_at_once(peer: Peer, chance: random.Random) -> None:
    await asyncio.sleep(chance.choice((0, 0, 0.02)))
    peer.reset()


async def echoes(peer: Peer, chance: random.Random) -> None:
    until = chance.choice((1000, 100_000, 1 << 30))
    while peer.received < until and (data := await peer.read()):
        await peer.send(data)
        if chance.random() < 0.05:
            await peer.urgent()


async def sends_unread(peer: Peer, chance: random.Random) -> None:
    """Send without end and read nothing."""
    size, most = chance.choice(((1, 400_000), (100, 8 << 20), (1448, 16 << 20), (65536, 32 << 20)))
    await peer.flood(BLOCK[:size], most)
    await asyncio.sleep(MAX_TIME)


async def reads_only(peer: Peer, chance: random.Random) -> None:
    pause = chance.choice((0, 0.01, 0.2))
    while await peer.read(chance.choice((100, 65536))):
        await asyncio.sleep(pause)


async def ends_first(peer: Peer, chance: random.Random) -> None:
    """Send a FIN at once or after some bytes; then read on."""
    await peer.send(BLOCK[: chance.choice((0, 1, 5000))])
    peer.half_close()
    await peer.wait_for_end()


async def sends_urgent(peer: Peer, chance: random.Random) -> None:
    for _ in range(chance.randrange(100)):
        await peer.urgent()
        await peer.send(BLOCK[: chance.choice((0, 1, 3000))])
        await asyncio.sleep(chance.choice((0, 0.01)))
    await asyncio.sleep(chance.uniform(0, 5))


RAW: dict[str, Callable[[Peer, random.Random], Awaitable[None]]] = {
    kind.__name__: kind
    for kind in (accepts_only, resets_at_once, echoes, sends_unread, reads_only, ends_first, sends_urgent)
}


class Servers:
    """All servers of the program."""

    def __init__(self, seed: int, only: str) -> None:
        self.seed = seed
        self.http = pick(dict(HTTP), only)
        self.raw = pick(dict(RAW), only)
        self.counts: Counter[str] = Counter()
        self.living: set[asyncio.Task[None]] = set()

    async def listen(self, port: int, is_http: bool) -> None:
        """Accept for ever; now and then refuse connections for a while. Never reads much: SO_RCVBUF is small."""
        chance = random.Random(f"{self.seed}/{port}")
        loop = asyncio.get_running_loop()
        while True:
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                listener.setblocking(False)
                listener.bind((LOOPBACK, port))
                listener.listen(256)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.uniform(5, 20)):
                        while True:
                            sock, _ = await loop.sock_accept(listener)
                            self._accepted(Peer(sock), f"{port}/{self.counts['connections']}", is_http)
            self.counts["refuses"] += 1
            await asyncio.sleep(chance.uniform(0, 1.5))

    def _accepted(self, peer: Peer, name: str, is_http: bool) -> None:
        self.counts["connections"] += 1
        if len(self.living) >= MAX_CONNECTIONS:
            peer.reset()
            return
        task = asyncio.ensure_future(self._serve(peer, random.Random(f"{self.seed}/{name}"), is_http))
        self.living.add(task)
        task.add_done_callback(self.living.discard)

    async def _serve(self, peer: Peer, chance: random.Random, is_http: bool) -> None:
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(MAX_TIME):
                if is_http and chance.random() > 0.1:
                    goes_on = True
                    while goes_on:
                        asked = Asked.read(await peer.read_head())
                        name = chance.choice(self.http)
                        self.counts[name] += 1
                        goes_on = await HTTP[name](peer, asked, chance)
                else:
                    name = chance.choice(self.raw)
                    self.counts[name] += 1
                    await RAW[name](peer, chance)
        if peer.sock.fileno() >= 0:
            await peer.leave(chance)


async def main(options: dict[str, object]) -> None:
    os.nice(NICENESS)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    servers = Servers(int(str(options["seed"])), str(options["only"]))
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind((LOOPBACK, int(str(options["full"]))))
        full.listen(0)
        for _ in range(2):  # what fills its backlog
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(full.getsockname())
        listening = [asyncio.ensure_future(servers.listen(port, True)) for port in options["http"]]  # type: ignore[attr-defined]
        listening += [asyncio.ensure_future(servers.listen(port, False)) for port in options["raw"]]  # type: ignore[attr-defined]
        reporting = asyncio.ensure_future(report(Path(str(options["report"])), servers.counts))
        await asyncio.wait([reporting, *listening], return_when=asyncio.FIRST_COMPLETED)
        for task in listening:
            if task.done():
                task.result()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
