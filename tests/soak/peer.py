"""A TCP connection under full control: segments of one byte, urgent data, small buffers, resets, half-closes.

The programs of the hostile soak use it on both sides of the switch. asyncio's streams hide what these programs need.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
from collections import Counter
from pathlib import Path

from servers import LOOPBACK, RESET_ON_CLOSE

LOST = OSError, TimeoutError, EOFError
"""The exceptions with which a connection to a hostile peer ends."""

MAX_HEAD_BYTES = 1 << 18

SEGMENTS_PER_TURN = 2000
"""Segments that a flood sends before the other peers of the process have their turn."""

NICENESS = 10
"""Niceness of the hostile programs: elsewhere they would run on other machines, and not use the switch's CPU."""

REPORT_INTERVAL = 0.5
"""Seconds between two reports of a program."""


class Peer:
    """One end of a connection. sent and received: bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent = 0
        self.received = 0
        self._rest = b""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    async def connect(cls, port: int, receive_buffer: int = 0) -> Peer:
        """Connect to the switch. receive_buffer: SO_RCVBUF in bytes; 0: the system's default. Raises OSError."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer = cls(sock)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (LOOPBACK, port))
        except BaseException:
            sock.close()
            raise
        return peer

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)
        self.sent += len(data)
        await asyncio.sleep(0)  # sock_sendall does not yield where the socket takes everything

    async def drip(self, data: bytes, pause: float, size: int = 1) -> None:
        """Send segments of `size` bytes, `pause` seconds apart."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(pause)

    async def flood(self, data: bytes, most: int) -> None:
        """Send segments of `data` as fast as the system takes them, until `most` bytes have been sent."""
        while self.sent < most:
            try:
                for _ in range(SEGMENTS_PER_TURN):
                    self.sent += self.sock.send(data)
            except BlockingIOError:
                await self.send(data)
            await asyncio.sleep(0)

    async def urgent(self) -> None:
        """Send one byte of urgent data, if the system takes it now."""
        with contextlib.suppress(BlockingIOError):
            self.sent += self.sock.send(b"!", socket.MSG_OOB)
        await asyncio.sleep(0)

    async def read(self, size: int = 1 << 16) -> bytes:
        """Read up to `size` bytes; b"" at the end."""
        if self._rest:
            data, self._rest = self._rest[:size], self._rest[size:]
            return data
        data = await asyncio.get_running_loop().sock_recv(self.sock, size)
        self.received += len(data)
        await asyncio.sleep(0)
        return data

    async def read_exactly(self, size: int) -> bytes:
        """Read `size` bytes. Raises EOFError when the peer ends before."""
        parts = []
        while size:
            data = await self.read(min(size, 1 << 16))
            if not data:
                raise EOFError
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    async def read_head(self) -> bytes:
        """Read up to and with the empty line. Raises EOFError when there is none."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            more = await self.read()
            data += more
            if not more or len(data) > MAX_HEAD_BYTES:
                raise EOFError
        data, self._rest = data[: end + 4], data[end + 4 :] + self._rest
        return data

    async def wait_for_end(self) -> None:
        """Read and drop all that comes, until the other side closes."""
        while await self.read():
            pass

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End the connection with a RST."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.sock.close()

    def close(self) -> None:
        """Close the socket; the system answers what comes later with a RST."""
        self.sock.close()

    async def leave(self, chance: random.Random) -> None:
        """End the connection in a random way."""
        way = chance.random()
        if way < 0.35:
            self.reset()
        elif way < 0.55:
            self.half_close()
            with contextlib.suppress(*LOST):
                async with asyncio.timeout(1):
                    await self.wait_for_end()
        self.close()


def pick(kinds: dict[str, object], only: str) -> list[str]:
    """The names of all kinds, or of those in `only`, separated by commas; those with "-" before them are left out."""
    words = only.split(",")
    wanted = [name for name in words if name in kinds]
    return wanted or [name for name in kinds if f"-{name}" not in words]


async def report(path: Path, counts: Counter[str]) -> None:
    """Write the counts of this program again and again, until its standard input ends with its parent."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    os.set_blocking(sys.stdin.fileno(), False)
    loop.add_reader(sys.stdin.fileno(), ended.set)
    while not ended.is_set():
        path.with_suffix(".new").write_text(json.dumps(counts))
        path.with_suffix(".new").replace(path)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), REPORT_INTERVAL)
