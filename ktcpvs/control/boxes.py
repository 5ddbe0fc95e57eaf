"""Boxes of AMP without Twisted: a command as bytes, and a response from bytes.

A box is a row of keys with values, each behind its length in two bytes; an empty key ends it. `commands` describes the
same protocol for Twisted, which takes several times longer to import than tcpvsadm takes for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, BinaryIO

MAX_VALUE_BYTES = 0xFFFF
MAX_KEY_BYTES = 0xFF

MAX_BOX_KEYS = 32
"""The most keys of a response; none has as many."""

TAG, COMMAND, ANSWER, ERROR = b"_ask", b"_command", b"_answer", b"_error"
ERROR_CODE, ERROR_DESCRIPTION = b"_error_code", b"_error_description"


class BadResponse(Exception):
    """The daemon has sent something else than the response to a command; str() is the reason."""


class TooLong(Exception):
    """A value is longer than MAX_VALUE_BYTES."""


def command_box(name: str, tag: bytes, arguments: Mapping[str, Any]) -> bytes:
    """Return the box of a command.

    arguments: each value as str, bytes, int, bool, or names with their values; those that are None are left out. Raises
    TooLong.
    """
    values = {key.encode(): _encode(value) for key, value in arguments.items() if value is not None}
    return _encode_box({TAG: tag, COMMAND: name.encode(), **values})


def _encode(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        rows = ({name.encode(): text.encode() for name, text in row.items()} for row in value)
        return b"".join(map(_encode_box, rows))
    return str(value).encode()


def _encode_box(values: Mapping[bytes, bytes]) -> bytes:
    parts = []
    for key, value in sorted(values.items()):
        if len(value) > MAX_VALUE_BYTES:
            raise TooLong
        parts += [len(key).to_bytes(2, "big"), key, len(value).to_bytes(2, "big"), value]
    return b"".join([*parts, b"\0\0"])


def reading_box() -> Generator[int, bytes, dict[bytes, bytes]]:
    """Read one box, from anywhere: yields how many bytes it needs next, and gets as many. Raises BadResponse."""
    box: dict[bytes, bytes] = {}
    while size := int.from_bytes((yield 2), "big"):
        if size > MAX_KEY_BYTES or len(box) == MAX_BOX_KEYS:
            raise BadResponse("it sends something else than AMP")
        key = yield size
        length = int.from_bytes((yield 2), "big")
        box[key] = (yield length) if length else b""
    return box


def read_box(file: BinaryIO) -> dict[bytes, bytes]:
    """Read one box. Raises EOFError where the file ends before it, BadResponse, and OSError."""
    reading = reading_box()
    wanted = next(reading)
    while True:
        try:
            wanted = reading.send(_read(file, wanted))
        except StopIteration as ended:
            box: dict[bytes, bytes] = ended.value
            return box


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _read_texts(value: bytes) -> list[str]:
    """Read texts, each behind its length in two bytes."""
    texts = []
    while value:
        end = 2 + int.from_bytes(value[:2], "big")
        texts.append(value[2:end].decode())
        value = value[end:]
    return texts


_READERS: dict[bytes, Callable[[bytes], Any]] = {
    b"page": bytes,
    b"pages": int,
    b"warnings": _read_texts,
    b"number": int,
    b"entries": bytes,
    b"matched": int,
    b"dropped": int,
    b"ended": lambda value: value.decode(),
}
"""The values of responses, and how they are read."""


_REQUIRED = {
    "Read": ("page", "pages"),
    "Explain": ("page", "pages"),
    "CloseConnection": ("page", "pages"),
    "Rebalance": ("page", "pages"),
    "ReadPage": ("page",),
    "BeginTrace": ("number",),
    "ReadTrace": ("entries", "matched", "dropped", "ended"),
}
"""Command -> the values that its response must have."""


def read_response(command: str, box: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the values of the response to a command, by name. Raises BadResponse for one that cannot be read."""
    try:
        values = {key.decode(): _READERS[key](value) for key, value in box.items() if key in _READERS}
    except ValueError as error:
        raise BadResponse(f"its response to {command} cannot be read: {error}") from None
    for name in _REQUIRED.get(command, ()):
        if name not in values:
            raise BadResponse(f"its response to {command} has no '{name}'")
    return values
