"""Frames as they are written (RFC 9113, sections 4 and 6)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from ktcpvs.protocols.http2.constants import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)

unpack_header = struct.Struct(">BHBBL").unpack_from
"""Read a frame header: length >> 16, length & 0xffff, type, flags, stream with its reserved bit."""

_pack = struct.Struct(">BHBBL").pack
_pack_with_number = struct.Struct(">BHBBLL").pack
_pack_setting = struct.Struct(">HL").pack
iter_settings = struct.Struct(">HL").iter_unpack
number_of = struct.Struct(">L").unpack_from

MAX_DEBUG_BYTES = 256
"""The most bytes of the reason in a GOAWAY."""


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The header of a frame. length: of its payload, in bytes."""
    return _pack(length >> 16, length & 0xFFFF, kind, flags, stream_id)


def data_header(length: int, stream_id: int, end_stream: bool) -> bytes:
    """The header of a DATA frame without padding."""
    return _pack(length >> 16, length & 0xFFFF, DATA, END_STREAM if end_stream else 0, stream_id)


def header_frames(block: bytes, stream_id: int, end_stream: bool, max_size: int) -> bytes:
    """A field block as HEADERS and as many CONTINUATION frames as it needs. max_size: of a payload, in bytes."""
    flags = END_STREAM if end_stream else 0
    size = len(block)
    if size <= max_size:
        return _pack(size >> 16, size & 0xFFFF, HEADERS, flags | END_HEADERS, stream_id) + block
    out = [frame_header(max_size, HEADERS, flags, stream_id), block[:max_size]]
    for begin in range(max_size, size, max_size):
        piece = block[begin : begin + max_size]
        flags = END_HEADERS if begin + max_size >= size else 0
        out += (frame_header(len(piece), CONTINUATION, flags, stream_id), piece)
    return b"".join(out)


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame of (identifier, value)."""
    payload = b"".join([_pack_setting(*setting) for setting in settings])
    return frame_header(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK = frame_header(0, SETTINGS, ACK, 0)


def reset_frame(stream_id: int, code: int) -> bytes:
    return _pack_with_number(0, 4, RST_STREAM, 0, stream_id, code)


def window_update_frame(stream_id: int, increment: int) -> bytes:
    return _pack_with_number(0, 4, WINDOW_UPDATE, 0, stream_id, increment)


def ping_frame(payload: bytes, is_ack: bool) -> bytes:
    """Return a PING frame. payload: eight bytes."""
    return frame_header(8, PING, ACK if is_ack else 0, 0) + payload


def goaway_frame(last_stream_id: int, code: int, reason: str) -> bytes:
    debug = reason.encode("utf-8")[:MAX_DEBUG_BYTES]
    return frame_header(8 + len(debug), GOAWAY, 0, 0) + struct.pack(">LL", last_stream_id, code) + debug
