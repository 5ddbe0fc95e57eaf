"""The settings that the peer has sent (RFC 9113, section 6.5.2), and their valid ranges."""

from __future__ import annotations

from ktcpvs.protocols.http2.constants import (
    DEFAULT_TABLE_SIZE,
    DEFAULT_WINDOW,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    FLOW_CONTROL_ERROR,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_FRAME_SIZE_ALLOWED,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    MIN_FRAME_SIZE,
    NO_RFC7540_PRIORITIES,
    PROTOCOL_ERROR,
)
from ktcpvs.protocols.http2.errors import HTTP2ConnectionError

_RANGES = {
    ENABLE_PUSH: (0, 1, "SETTINGS_ENABLE_PUSH"),
    MAX_FRAME_SIZE: (MIN_FRAME_SIZE, MAX_FRAME_SIZE_ALLOWED, "SETTINGS_MAX_FRAME_SIZE"),
    ENABLE_CONNECT_PROTOCOL: (0, 1, "SETTINGS_ENABLE_CONNECT_PROTOCOL"),
    NO_RFC7540_PRIORITIES: (0, 1, "SETTINGS_NO_RFC7540_PRIORITIES"),
}


class PeerSettings:
    """The peer's settings; before its first SETTINGS frame, their initial values.

    max_list_size: bytes of a header list that it accepts; None: it does not say. allows_connect: it accepts extended
    CONNECT (RFC 8441).
    """

    __slots__ = (
        "allows_connect", "initial_window", "max_concurrent_streams", "max_frame_size", "max_list_size", "table_size",
    )  # fmt: skip

    def __init__(self) -> None:
        self.table_size = DEFAULT_TABLE_SIZE
        self.max_concurrent_streams = MAX_STREAM_ID
        self.initial_window = DEFAULT_WINDOW
        self.max_frame_size = MIN_FRAME_SIZE
        self.max_list_size: int | None = None
        self.allows_connect = False

    def apply(self, identifier: int, value: int, is_server: bool) -> None:
        """Apply one setting; unknown ones are ignored. is_server: it is a server's. Raises HTTP2ConnectionError."""
        allowed = _RANGES.get(identifier)
        if allowed is not None and not allowed[0] <= value <= allowed[1]:
            raise HTTP2ConnectionError(
                PROTOCOL_ERROR, f"{allowed[2]} is {value}; it must be {allowed[0]} to {allowed[1]}"
            )
        if identifier == INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise HTTP2ConnectionError(FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is above {MAX_WINDOW}")
            self.initial_window = value
        elif identifier == HEADER_TABLE_SIZE:
            self.table_size = value
        elif identifier == MAX_CONCURRENT_STREAMS:
            self.max_concurrent_streams = value
        elif identifier == MAX_FRAME_SIZE:
            self.max_frame_size = value
        elif identifier == MAX_HEADER_LIST_SIZE:
            self.max_list_size = value
        elif is_server:
            self._apply_from_server(identifier, value)

    def _apply_from_server(self, identifier: int, value: int) -> None:
        if identifier == ENABLE_PUSH and value:
            raise HTTP2ConnectionError(PROTOCOL_ERROR, "a server must not enable push")
        if identifier == ENABLE_CONNECT_PROTOCOL:
            if self.allows_connect and not value:
                raise HTTP2ConnectionError(PROTOCOL_ERROR, "SETTINGS_ENABLE_CONNECT_PROTOCOL goes back from 1 to 0")
            self.allows_connect = bool(value)
