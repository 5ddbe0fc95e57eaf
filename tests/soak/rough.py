"""Clients and servers that misbehave, each in its own process, which can be killed.

rough.py serve PORT SEED: accept clients, and misbehave in a random way. rough.py call SEED PORT...: connect, and do so.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys

import uvloop
from servers import RESET_ON_CLOSE

BLOCK = random.Random(1).randbytes(1 << 18)

OVER = OSError, TimeoutError, RuntimeError
"""Exceptions of a connection that has ended; the last is uvloop's."""


async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random) -> None:
    """Send and receive for a moment, then leave in a random way."""

    async def speak() -> None:
        for _ in range(chance.randrange(20)):
            writer.write(BLOCK[: int(2 ** (chance.random() * 18))])
            await writer.drain()
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.05, 0.2)))

    async def listen() -> None:
        while await reader.read(1 << 16):
            await asyncio.sleep(chance.choice((0, 0, 0, 0.01)))

    doing = [asyncio.ensure_future(speak())]
    if chance.random() < 0.8:
        doing.append(asyncio.ensure_future(listen()))
    with contextlib.suppress(*OVER):
        await asyncio.wait_for(asyncio.gather(*doing), chance.choice((0.01, 0.1, 0.5, 2.0)))
    way = chance.random()
    with contextlib.suppress(*OVER):
        if way < 0.3 and not writer.transport.is_closing():
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()
        elif way < 0.6:
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 0.5)
        elif way < 0.7:
            await asyncio.sleep(1)
    writer.close()


async def serve(port: int, seed: int) -> None:
    chance = random.Random(seed)

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*OVER):
            await treat(reader, writer, chance)

    server = await asyncio.start_server(accepted, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


async def call(seed: int, ports: list[int]) -> None:
    chance = random.Random(seed)

    async def one_after_another() -> None:
        while True:
            with contextlib.suppress(*OVER):
                await treat(*await asyncio.open_connection("127.0.0.1", chance.choice(ports)), chance)

    await asyncio.gather(*(one_after_another() for _ in range(60)))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[2:]]
    uvloop.run(serve(*numbers) if sys.argv[1] == "serve" else call(numbers[0], numbers[1:]))
