"""Kinds of hostile clients that speak HTTP/2: floods, bombs, stalls and windows that never open."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from typing import Protocol

from hostile_tls import HTTP2_CONTEXTS, Secure
from http2_frames import PREFACE, SETTINGS_ACK, Pairs, block, data, frame, headers, number, settings, string
from peer import Peer

from ktcpvs.protocols.http2 import constants as h2

STAY = 12.0
"""Seconds for which a client stays that does nothing more."""

SMALL_BUFFER = 4096
"""SO_RCVBUF in bytes of a client that does not read."""

MAX_STREAMS = 100
MAX_SENT = 4 << 20
"""The most bytes of one client."""

INITIAL_WINDOW = 4
"""The setting INITIAL_WINDOW_SIZE."""

TINY_STREAMS = 20
"""The streams of a client that send bodies in frames of one byte."""

WITHOUT_TLS_SHARE = 0.6


class Attacker(Protocol):
    """The part of a client that these kinds use."""

    chance: random.Random
    http: list[int]
    tls: list[int]
    counts: Counter[str]

    async def connect(self, ports: list[int], receive_buffer: int = 0) -> Peer:
        """Connect to one of these ports."""


class Connection:
    """An HTTP/2 connection, by TLS or not. next: the number of its next stream."""

    def __init__(self, attacker: Attacker, peer: Peer, secure: Secure | None) -> None:
        self._attacker = attacker
        self._peer = peer
        self._secure = secure
        self.sent = 0
        self.next = 1

    async def send(self, said: bytes) -> None:
        self.sent += len(said)
        if self._secure is None:
            await self._peer.send(said)
        else:
            await self._secure.write(said)

    async def read(self) -> bytes:
        return await (self._peer.read() if self._secure is None else self._secure.read())

    async def wait_for_end(self) -> None:
        """Read and drop all that comes."""
        while await self.read():
            pass

    async def flood(self, make: Callable[[], bytes], most: int = MAX_SENT) -> None:
        """Send what `make` returns, again and again, and read now and then."""
        reading = asyncio.ensure_future(self.wait_for_end()) if self._attacker.chance.random() < 0.7 else None
        try:
            while self.sent < most and not (reading is not None and reading.done()):
                await self.send(b"".join(make() for _ in range(50)))
                await asyncio.sleep(0)
        finally:
            if reading is not None:
                reading.cancel()

    def request(self, query: str = "", method: bytes = b"GET", end: bool = True, *fields: tuple[bytes, bytes]) -> bytes:
        """The head of a request on a new stream."""
        self._attacker.counts["requests"] += 1
        stream, self.next = self.next, self.next + 2
        target = f"/echo/h{self._attacker.chance.getrandbits(32):x}{query}".encode()
        pseudo: Pairs = [(b":method", method), (b":scheme", b"http"), (b":authority", b"soak"), (b":path", target)]
        return headers(stream, [*pseudo, *fields], end)


async def _begin(attacker: Attacker, *values: tuple[int, int], buffer: int = 0) -> Connection:
    """A connection that has begun. values: its settings. buffer: SO_RCVBUF."""
    secure = None
    if attacker.chance.random() < WITHOUT_TLS_SHARE:
        peer = await attacker.connect(attacker.http, buffer)
    else:
        peer = await attacker.connect(attacker.tls, buffer)
        version = attacker.chance.choice([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
        secure = Secure(peer, version, contexts=HTTP2_CONTEXTS)
        await secure.handshake()
    connection = Connection(attacker, peer, secure)
    await connection.send(PREFACE + settings(*values) + SETTINGS_ACK)
    attacker.counts["HTTP/2 connections"] += 1
    return connection


async def resets_streams(attacker: Attacker) -> None:
    """Rapid reset: requests, each of which is reset at once."""
    connection = await _begin(attacker)
    await connection.flood(lambda: connection.request() + number(h2.RST_STREAM, connection.next - 2, h2.CANCEL))


async def provokes_resets(attacker: Attacker) -> None:
    """Have the switch reset each stream, by what is sent on it."""
    connection = await _begin(attacker)
    wrong: tuple[Callable[[], bytes], ...] = (
        lambda: number(h2.WINDOW_UPDATE, connection.next - 2, 0),
        lambda: data(connection.next - 2, b"x"),
        lambda: number(h2.WINDOW_UPDATE, connection.next - 2, (1 << 31) - 1) * 2,
        lambda: headers(connection.next - 2, [(b":path", b"/")]),
    )
    provoke = attacker.chance.choice(wrong)
    await connection.flood(lambda: connection.request() + provoke())


async def floods_by_http2(attacker: Attacker) -> None:
    """Frames that ask for nothing."""
    connection = await _begin(attacker)
    await connection.send(connection.request("", b"POST", False))
    kinds = (
        frame(h2.PING, payload=bytes(8)), settings(), settings((INITIAL_WINDOW, 1)), data(1, b""),
        frame(h2.PRIORITY, 0, 1, b"\0\0\0\3\1"), frame(h2.PRIORITY, 0, 99, b"\0\0\0\3\1"),
        number(h2.WINDOW_UPDATE, 0, 1), number(h2.WINDOW_UPDATE, 1, 1), frame(0xFA, 0, 0, b"x"),
        frame(h2.PRIORITY_UPDATE, 0, 0, b"\0\0\0\1u=1"), frame(h2.DATA, h2.PADDED, 1, b"\xff" + bytes(255)),
        SETTINGS_ACK, data(1, b"x"),
    )  # fmt: skip
    kind = attacker.chance.choice(kinds)
    await connection.flood(lambda: kind)
    await asyncio.sleep(STAY)


async def continues_for_ever(attacker: Attacker) -> None:
    """A header block without an end, in CONTINUATION frames of any size."""
    connection = await _begin(attacker)
    await connection.send(frame(h2.HEADERS, h2.END_STREAM, 1, block([(b":method", b"GET")])))
    piece = attacker.chance.choice((b"", b"\0", block([(b"x", b"y" * 1000)])))
    await connection.flood(lambda: frame(h2.CONTINUATION, 0, 1, piece))


async def sends_header_bombs(attacker: Attacker) -> None:
    """A large field in the dynamic table, and thousands of references to it; many cookies; many empty fields."""
    connection = await _begin(attacker)
    begin = block([(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"soak"), (b":path", b"/echo/h")])
    bombs = (
        b"\x40" + string(b"x") + string(b"y" * 4000) + b"\xbe" * 8000,
        b"\xa0" * 16_000,
        block([(b"cookie", b"a")]) * 1500,
        (b"\x40" + string(b"a") + string(b"")) * 2000,
    )
    bomb = attacker.chance.choice(bombs)
    pieces = [bomb[at : at + 16_000] for at in range(0, len(bomb), 16_000)]
    for _ in range(attacker.chance.choice((1, 20, 100))):
        stream, connection.next = connection.next, connection.next + 2
        said = frame(h2.HEADERS, h2.END_STREAM, stream, begin)
        said += b"".join(frame(h2.CONTINUATION, 0, stream, piece) for piece in pieces[:-1])
        await connection.send(said + frame(h2.CONTINUATION, h2.END_HEADERS, stream, pieces[-1]))
        await asyncio.sleep(0)
    await connection.wait_for_end()


async def never_opens_windows(attacker: Attacker) -> None:
    """Large responses for which there is no window, or one of a few bytes."""
    connection = await _begin(attacker, (INITIAL_WINDOW, attacker.chance.choice((0, 1, 100))))
    for _ in range(MAX_STREAMS):
        await connection.send(connection.request("?size=1000000"))
    opening = attacker.chance.choice((0, 1, 10))
    for _ in range(int(STAY / 0.05)):
        if opening:
            await connection.send(number(h2.WINDOW_UPDATE, attacker.chance.randrange(1, 2 * MAX_STREAMS, 2), opening))
        await asyncio.sleep(0.05)


async def never_reads_by_http2(attacker: Attacker) -> None:
    """Large windows and large responses, and nothing is read."""
    connection = await _begin(attacker, (INITIAL_WINDOW, (1 << 31) - 1), buffer=SMALL_BUFFER)
    await connection.send(number(h2.WINDOW_UPDATE, 0, (1 << 31) - 1 - 65535))
    for _ in range(MAX_STREAMS):
        await connection.send(connection.request("?size=1000000"))
    for _ in range(attacker.chance.choice((0, 2000))):
        await connection.send(frame(h2.PING, payload=bytes(8)))
    await asyncio.sleep(STAY)


async def leaves_streams_idle(attacker: Attacker) -> None:
    """Uploads on all streams that begin and do not go on; more streams than are allowed."""
    connection = await _begin(attacker)
    for _ in range(attacker.chance.choice((MAX_STREAMS, 3 * MAX_STREAMS))):
        await connection.send(connection.request("", b"POST", False))
        await connection.send(data(connection.next - 2, b"x" * attacker.chance.choice((0, 1, 600))))
    await connection.wait_for_end()


async def sends_tiny_frames(attacker: Attacker) -> None:
    """Bodies in frames of one byte, of several streams in turn."""
    connection = await _begin(attacker)
    for _ in range(TINY_STREAMS):
        await connection.send(connection.request("", b"POST", False))
    streams = cycle(range(1, 2 * TINY_STREAMS, 2))
    await connection.flood(lambda: data(next(streams), b"x"), 1 << 20)


async def stalls_in_a_frame(attacker: Attacker) -> None:
    connection = await _begin(attacker)
    said = connection.request("", b"POST", False) + data(1, b"x" * 1000)
    await connection.send(said[: attacker.chance.randrange(len(said))])
    await connection.wait_for_end()


async def changes_frames(attacker: Attacker) -> None:
    """Requests and their bodies with some bytes changed, and frames of any kind."""
    connection = await _begin(attacker)
    said = bytearray(connection.request("", b"POST", False) + data(1, b"x" * 100, True) + connection.request())
    for _ in range(attacker.chance.randint(1, 3)):
        said[attacker.chance.randrange(len(said))] = attacker.chance.randrange(256)
    chance = attacker.chance
    any_frames = [
        frame(chance.randrange(12), chance.randrange(64), chance.randrange(6), chance.randbytes(chance.randrange(20)))
        for _ in range(chance.randrange(5))
    ]
    await connection.send(bytes(said) + b"".join(any_frames))
    await connection.wait_for_end()


async def abandons_streams(attacker: Attacker) -> None:
    """Requests whose responses take long; the connection is left meanwhile."""
    connection = await _begin(attacker)
    for _ in range(attacker.chance.randrange(MAX_STREAMS)):
        await connection.send(connection.request("?delay=3000"))
    await asyncio.sleep(attacker.chance.uniform(0, 2))


HTTP2_KINDS = (
    resets_streams, provokes_resets, floods_by_http2, continues_for_ever, sends_header_bombs, never_opens_windows,
    never_reads_by_http2, leaves_streams_idle, sends_tiny_frames, stalls_in_a_frame, changes_frames, abandons_streams,
)  # fmt: skip
"""Each is called with the client that does it. Errors of TLS are OSErrors, as those of sockets are."""
