"""Many concurrent connections through a switch, with random sizes, pieces, pauses and ends; both sides check the data.

The seed, the side and the number of a connection determine all that a side does, so a failure can be repeated. Each
side sends its number first: the other side then knows every byte that must follow, and compares the SHA-256.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import uvloop

BLOB = random.Random(5).randbytes(4 << 20)
NUMBER = struct.Struct("!Q")
LARGE = 3 << 20
USUAL = 18
"""Most contents have at most 2**USUAL bytes."""

PATIENCE = 0.3
"""Seconds for which one side waits for the other's end before it ends itself."""

LATEST = 60.0
"""Seconds after which a connection has failed."""


class Half:
    """The script of one side of a connection.

    content: all that it sends, with its number; may be b"". rests: seconds that it pauses in the middle of the content,
    so that the connection lives longer.
    """

    def __init__(self, seed: int, side: str, number: int, lives: float) -> None:
        chance = random.Random(f"{seed}/{side}/{number}")
        self.chance = chance
        kind = chance.random()
        size = 0 if kind < 0.08 else int(2 ** (chance.random() * USUAL))
        if kind > 0.995:
            size = chance.randrange(LARGE)
        start = chance.randrange(len(BLOB) - size)
        self.content = b"" if kind < 0.04 else NUMBER.pack(number) + BLOB[start : start + size]
        self.digest = hashlib.sha256(self.content).hexdigest()
        self.pieces = chance.choice(((1 << 22, 1 << 22), (1, 200), (1000, 1500), (1, 1 << 16)))
        self.pauses = chance.choice((0.0, 0.0, 0.1, 0.5))
        self.begins = chance.choice((0.0, 0.0, 0.0, 0.005, 0.05))
        self.rests = chance.random() * lives
        self.reads_late = chance.choice((0.0,) * 18 + (0.05, 0.3))
        self.reads_slowly = chance.random() < 0.05
        self.ends = chance.choice(("at once", "at once", "later", "after the other"))

    async def speak(self, writer: asyncio.StreamWriter, heard: asyncio.Event) -> None:
        """Send the content, then a FIN. heard: is set when the other side has ended."""
        chance, content = self.chance, self.content
        await asyncio.sleep(self.begins)
        done = 0
        half = len(content) // 2
        rests = self.rests
        for turn in range(1 << 30):
            if rests and done >= half:
                await asyncio.sleep(rests)
                rests = 0.0
            if done >= len(content):
                break
            size = chance.randint(*self.pieces) if turn < 100 else len(content)
            writer.write(content[done : done + size])
            done += size
            await writer.drain()
            if chance.random() < self.pauses:
                await asyncio.sleep(chance.random() * 0.005)
        if self.ends == "later":
            await asyncio.sleep(chance.random() * 0.05)
        elif self.ends == "after the other":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), PATIENCE)
        writer.write_eof()

    async def hear(self, reader: asyncio.StreamReader, heard: asyncio.Event) -> tuple[int | None, str, int]:
        """Read to the end; return (the other side's number or None, the SHA-256 and the size of what it sent)."""
        await asyncio.sleep(self.reads_late)
        digest, size, first = hashlib.sha256(), 0, b""
        for turn in range(1 << 30):
            data = await reader.read(1 << 16)
            if not data:
                break
            digest.update(data)
            size += len(data)
            if len(first) < NUMBER.size:
                first += data[: NUMBER.size]
            if self.reads_slowly and turn < 30:
                await asyncio.sleep(self.chance.random() * 0.01)
        heard.set()
        number = NUMBER.unpack_from(first)[0] if len(first) >= NUMBER.size else None
        return number, digest.hexdigest(), size


@dataclass
class Storm:
    """Makes `count` connections to `port`, `at_once` of them at a time. serve_at: the port of the switch's server.

    lives: the most seconds that a side pauses. failures: a line each. bytes_in, bytes_out: what clients and the server
    have sent. told: is called with the number of finished connections.
    """

    port: int
    serve_at: int
    count: int
    seed: int
    at_once: int = 100
    lives: float = 0.0
    told: Callable[[int], object] = lambda done: None
    failures: list[str] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0
    done: int = 0
    _said: Counter[str] = field(default_factory=Counter)
    _heard: Counter[str] = field(default_factory=Counter)
    _accepted: int = 0
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    def run(self) -> None:
        """Make all connections, and wait for their end."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.serve_at, backlog=4096)
        numbers = iter(range(self.count))
        try:
            await asyncio.gather(*(self._clients(numbers) for _ in range(self.at_once)))
            while self._serving:
                await asyncio.wait(self._serving)
        finally:
            server.close()
        if self._said != self._heard:
            self.failures.append(f"{(self._said - self._heard).total()} directions did not arrive as they were sent")

    async def _clients(self, numbers: object) -> None:
        for number in numbers:  # type: ignore[attr-defined]
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError as error:
                self.failures.append(f"client {number}: {error}")
                continue
            said = await self._converse("client", "server", number, reader, writer)
            self.bytes_in += said
            self.done += 1
            self.told(self.done)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        number, self._accepted = self._accepted, self._accepted + 1
        said = await self._converse("server", "client", number, reader, writer)
        self.bytes_out += said
        self._serving.discard(task)

    async def _converse(
        self, side: str, other: str, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int:
        """Run one side of one connection; return how many bytes it has sent."""
        half, heard = Half(self.seed, side, number, self.lives), asyncio.Event()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._said[half.digest] += 1
        try:
            both = asyncio.gather(half.speak(writer, heard), half.hear(reader, heard))
            _, (its, digest, size) = await asyncio.wait_for(both, LATEST)
        except (OSError, TimeoutError) as error:
            self.failures.append(f"{side} {number}: {error!r}")
            writer.transport.abort()
            return len(half.content)
        self._heard[digest] += 1
        expected = Half(self.seed, other, its, self.lives).content if its is not None else b""
        if hashlib.sha256(expected).hexdigest() != digest:
            wanted = f"{len(expected)} bytes of {other} {its}"
            self.failures.append(f"{side} {number}: {wanted} are not the {size} that came")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return len(half.content)
