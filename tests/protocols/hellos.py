"""Builds ClientHellos, and records of them in any pieces."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

RECORDED = Path(__file__).parent / "corpus" / "hellos"
"""Hellos of real clients."""

SERVER_NAME, GROUPS, ALPN, VERSIONS, ECH = 0, 10, 16, 43, 0xFE0D


def vector(length_bytes: int, data: bytes) -> bytes:
    return len(data).to_bytes(length_bytes, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, data)


def names(*pairs: tuple[int, bytes]) -> bytes:
    """server_name with names of these types."""
    return extension(SERVER_NAME, vector(2, b"".join(bytes((kind,)) + vector(2, name) for kind, name in pairs)))


def named(name: bytes) -> bytes:
    return names((0, name))


def alpn(*protocols: bytes) -> bytes:
    return extension(ALPN, vector(2, b"".join(vector(1, protocol) for protocol in protocols)))


def versions(*numbers: int) -> bytes:
    return extension(VERSIONS, vector(1, b"".join(struct.pack("!H", number) for number in numbers)))


def body(
    extensions: bytes | None = b"",
    *,
    version: int = 0x0303,
    session: bytes = b"",
    ciphers: bytes = b"\x13\x01",
    compressions: bytes = b"\0",
) -> bytes:
    """The hello without the header. extensions: None: not even their length."""
    fields = struct.pack("!H", version) + bytes(range(32)) + vector(1, session) + vector(2, ciphers)
    return fields + vector(1, compressions) + (b"" if extensions is None else vector(2, extensions))


def message(content: bytes, kind: int = 1) -> bytes:
    return bytes((kind,)) + vector(3, content)


def record(data: bytes, version: int = 0x0301, kind: int = 22) -> bytes:
    return struct.pack("!BH", kind, version) + vector(2, data)


def hello(*extensions: bytes, **fields: object) -> bytes:
    """A hello in one record."""
    return record(message(body(b"".join(extensions), **fields)))  # type: ignore[arg-type]


def records(data: bytes, sizes: Iterable[int]) -> bytes:
    """A handshake message in records: of these sizes, and one of the rest."""
    found = b""
    for size in sizes:
        if 0 < size < len(data):
            found += record(data[:size])
            data = data[size:]
    return found + record(data)
