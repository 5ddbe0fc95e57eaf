"""WebSocket frames (RFC 6455): where they begin and end, and the Close frame of an intermediary."""

from __future__ import annotations

WEBSOCKET = b"websocket"
"""The name of the protocol in an Upgrade field."""

SERVICE_RESTART = 1012
"""The status code of a Close frame of a service that restarts: clients connect again (the registry of RFC 6455, section
11.7)."""

MAX_SHORT_HEADER = 6
"""The bytes of a header with a length of seven bits and a mask."""

_CLOSE = 0x8
_FIN = 0x80
_MASK = 0x80
_EXTENDED = {126: 2, 127: 8}  # a length of seven bits -> bytes of the length that follows it


class FrameFollower:
    """Follows the frames of one direction, of which it reads the headers alone.

    has_close: a Close frame has begun, after which no other frame comes (section 5.5.1).
    """

    __slots__ = ("_header", "_left", "has_close")

    def __init__(self) -> None:
        self.has_close = False
        self._left = 0  # bytes of the current frame's payload that are still to come
        self._header = b""  # the beginning of a header that came in pieces

    @property
    def is_at_boundary(self) -> bool:
        """Whether another frame may be sent now."""
        return not self._left and not self._header

    def advance(self, data: bytes, stops: bool = False) -> int:
        """Follow `data`. Return its length; with `stops`, the number of bytes up to the first boundary in it, and
        follow no further than that."""
        at, end, header = self._left, len(data), self._header
        if at > end:
            self._left = at - end
            return end
        is_inside = bool(at or header)
        self._left, self._header = 0, b""
        while at < end:
            if header:  # it has come in pieces
                piece = data[at : at + _header_size(header) - len(header)]
                header += piece
                at += len(piece)
                if len(header) < _header_size(header):
                    continue
                frame, header = header, b""
            else:
                if stops and (at or not is_inside):
                    return at
                at = self._pass_short(data, at)
                if at >= end:
                    break
                size = _header_size(data, at)
                if end - at < size:
                    header = data[at:]
                    break
                frame = data[at : at + size]
                at += size
            if frame[0] & 0xF == _CLOSE:
                self.has_close = True
            at += _payload_size(frame)
        self._header = header
        self._left = max(at - end, 0)
        return end

    def _pass_short(self, data: bytes, at: int) -> int:
        """Follow the frames with a length of seven bits from `at` on, as far as their headers are whole. Return the end
        of the last, which may be behind that of `data`. Thousands of empty frames fit into one read, and all clients
        wait for these."""
        last = len(data) - MAX_SHORT_HEADER
        while at <= last:
            second = data[at + 1]
            size = second & 0x7F
            if size in _EXTENDED:
                break
            if data[at] & 0xF == _CLOSE:
                self.has_close = True
            at += size + (MAX_SHORT_HEADER if second & _MASK else 2)
        return at


def _header_size(data: bytes, at: int = 0) -> int:
    """Return the length of the header that begins there, as far as what has come of it tells (section 5.2)."""
    if len(data) - at < 2:
        return 2
    second = data[at + 1]
    extended = _EXTENDED.get(second & 0x7F, 0)
    return 2 + extended + (4 if second & _MASK else 0)


def _payload_size(header: bytes) -> int:
    size = header[1] & 0x7F
    extended = _EXTENDED.get(size, 0)
    return int.from_bytes(header[2 : 2 + extended], "big") if extended else size


def close_frame(code: int, key: bytes = b"") -> bytes:
    """Return a Close frame with that status code and no reason. key: the four bytes that mask it for a server (section
    5.3), which must not be predictable; empty: it is for a client."""
    payload = code.to_bytes(2, "big")
    if not key:
        return bytes((_FIN | _CLOSE, len(payload))) + payload
    hidden = bytes(one ^ key[place] for place, one in enumerate(payload))
    return bytes((_FIN | _CLOSE, _MASK | len(payload))) + key + hidden
