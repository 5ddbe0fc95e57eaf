"""Frames of HTTP/2 for tests: written by hand, and read back from an output."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import hpack

from ktcpvs.protocols.http2 import Client, Limits, Server
from ktcpvs.protocols.http2 import constants as h2

PREFACE = h2.PREFACE
Pairs = list[tuple[bytes, bytes]]

GET: Pairs = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/")]
POST: Pairs = [(b":method", b"POST"), *GET[1:]]
OK: Pairs = [(b":status", b"200")]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of an RST_STREAM or a GOAWAY."""
        begin = 4 if self.kind == h2.GOAWAY else 0
        return int(struct.unpack_from(">L", self.payload, begin)[0])

    @property
    def number(self) -> int:
        return int(struct.unpack_from(">L", self.payload)[0])


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def read(data: bytes) -> list[Frame]:
    """The frames of an output; a preface is left out."""
    data = data.removeprefix(PREFACE)
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + size, "an output ends within a frame"
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def block(pairs: Pairs) -> bytes:
    """A header block of literals that do not change the table."""
    return b"".join(b"\x00" + string(name) + string(value) for name, value in pairs)


def string(text: bytes) -> bytes:
    encoded: bytes = bytes(hpack.hpack.encode_integer(len(text), 7))
    return encoded + text


def headers(stream_id: int, pairs: Pairs, end_stream: bool = True) -> bytes:
    return frame(h2.HEADERS, h2.END_HEADERS | (h2.END_STREAM if end_stream else 0), stream_id, block(pairs))


def data(stream_id: int, content: bytes, end_stream: bool = False) -> bytes:
    return frame(h2.DATA, h2.END_STREAM if end_stream else 0, stream_id, content)


def settings(*values: tuple[int, int]) -> bytes:
    return frame(h2.SETTINGS, payload=b"".join(struct.pack(">HL", *value) for value in values))


SETTINGS_ACK = frame(h2.SETTINGS, h2.ACK)


def number(kind: int, stream_id: int, value: int) -> bytes:
    """A RST_STREAM or a WINDOW_UPDATE."""
    return frame(kind, 0, stream_id, value.to_bytes(4, "big"))


class Talk:
    """A connection and what its peer does, with a clock that the test moves. end: a Server, or a Client."""

    def __init__(self, end: Any = None, **limits: int) -> None:
        self.end = end or Server(Limits(**limits))
        self.now = 0
        self.opening = self.sent()
        self.says((PREFACE if isinstance(self.end, Server) else b"") + settings() + SETTINGS_ACK)
        self.sent()

    def says(self, *pieces: bytes) -> list[Any]:
        """The peer sends these bytes; return the events."""
        return [event for piece in pieces for event in self.end.receive(piece, self.now)]

    def sent(self) -> list[Frame]:
        return read(b"".join(self.end.take_output()))

    def codes(self) -> list[tuple[int, int, int]]:
        """(type, stream, error code) of each RST_STREAM and GOAWAY that was sent."""
        return [(one.kind, one.stream_id, one.code) for one in self.sent() if one.kind in (h2.RST_STREAM, h2.GOAWAY)]


def client_talk(**limits: int) -> Talk:
    return Talk(Client(Limits(**limits)))
