"""Well-behaved servers, as a program: good_servers.py OPTIONS, a JSON object.

Options: `http`: ports of HTTP servers; `raw`: ports of servers that send back what comes; `report`: the file for the
counts. The response to GET /echo/IDENT?size=N&delay=MS&chunked=1 has `X-Id: IDENT` and the body that `body_of` makes,
so that a client sees whether a response is its own; the response to a POST has `X-Digest`, the SHA-256 of the
request's body. An upgrade is accepted, and what comes then is sent back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import uvloop
from peer import report
from servers import LOOPBACK

MAX_SIZE = 4 << 20
CHUNK_SIZE = 10_000

_target = re.compile(rb"^([A-Z]+) \S*/echo/([\w-]+)(\?\S*)? HTTP/1\.([01])\r\n")
_field = re.compile(rb"(?i)\r\n(content-length|transfer-encoding|expect|upgrade): *([^\r]*)")
_parameter = re.compile(rb"(size|delay|chunked)=(\d+)")

LOST = OSError, EOFError, RuntimeError, ValueError, asyncio.LimitOverrunError
"""Exceptions of a connection that ends; RuntimeError is uvloop's, the last two come from malformed requests."""


def body_of(ident: str, size: int) -> bytes:
    """The body of a response: `size` bytes that name the request."""
    block = f"{ident};".encode()
    return (block * (size // len(block) + 1))[:size]


async def serve_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(*LOST):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = {name.lower(): value for name, value in _field.findall(head)}
            target = _target.match(head)
            method, ident, query, minor = target.groups() if target else (head.split(b" ")[0], b"none", b"", b"1")
            asked = {name: int(number) for name, number in _parameter.findall(query or b"")}
            if b"upgrade" in fields:
                await _upgrade(reader, writer, fields[b"upgrade"])
                break
            if b"expect" in fields:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            lines = [b"HTTP/1.1 200 OK", b"X-Server: good", b"X-Id: " + ident]
            if b"content-length" in fields or b"transfer-encoding" in fields:
                lines.append(b"X-Digest: " + await _digest(reader, fields))
            await asyncio.sleep(min(asked.get(b"delay", 0), 5000) / 1000)
            body = body_of(ident.decode(), min(asked.get(b"size", 100), MAX_SIZE))
            chunked = asked.get(b"chunked") and minor == b"1"
            lines += [b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body), b"", b""]
            writer.write(b"\r\n".join(lines))
            if method != b"HEAD":
                if chunked:
                    for start in range(0, len(body), CHUNK_SIZE):
                        chunk = body[start : start + CHUNK_SIZE]
                        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                        await writer.drain()
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(body)
            await writer.drain()
    writer.close()


async def _digest(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> bytes:
    """The SHA-256 of the request's body, in hexadecimal."""
    digest = hashlib.sha256()
    if b"content-length" in fields:
        left = int(fields[b"content-length"])
        while left:
            data = await reader.read(min(left, 1 << 16))
            if not data:
                raise EOFError
            digest.update(data)
            left -= len(data)
    else:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            digest.update(await reader.readexactly(size))
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    return digest.hexdigest().encode()


async def _upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: bytes) -> None:
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n")
    await echo(reader, writer)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back all that the client sends."""
    with contextlib.suppress(*LOST):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(options: dict[str, object]) -> None:
    counts: Counter[str] = Counter()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts["connections"] += 1
        await serve_http(reader, writer)

    for port in options["http"]:  # type: ignore[attr-defined]
        await asyncio.start_server(accepted, LOOPBACK, port, backlog=1024, limit=1 << 20)
    for port in options["raw"]:  # type: ignore[attr-defined]
        await asyncio.start_server(echo, LOOPBACK, port, backlog=1024)
    await report(Path(str(options["report"])), counts)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
