"""The limits of an HTTP/2 connection: what a peer may send, and how often."""

from __future__ import annotations

from attrs import frozen

from ktcpvs.protocols.http2.constants import MIN_FRAME_SIZE


@frozen
class Limits:
    """Limits on the peer of one connection. Each holds for one connection.

    Sizes and numbers:

    max_concurrent_streams: streams that the peer may have open; one more is refused (REFUSED_STREAM).
    stream_window, connection_window: bytes of DATA that the peer may send before the owner has passed them on, on one
    stream and in all. max_frame_size: bytes of a frame's payload. max_block_size: bytes of a compressed field block,
    over all its frames. max_continuations: CONTINUATION frames of one block. max_list_size: bytes of a header list,
    32 added for each field (RFC 9113, section 6.5.2). max_fields: fields of a header list. max_crumbs: Cookie fields
    of a message. A request that exceeds one of the last three gets 431.

    Frequencies: how many of a kind the peer may send in `interval` seconds; beyond it, the connection ends with
    ENHANCE_YOUR_CALM.

    max_resets: streams that the peer resets before their response has ended (rapid reset, CVE-2023-44487).
    max_stream_errors: streams that the peer has us reset by what it sends (MadeYouReset, CVE-2025-8671), and streams
    that are refused since it has too many. max_settings: SETTINGS frames (CVE-2019-9515). max_pings: PING frames, one
    more for each message or piece of a body that we have sent (CVE-2019-9512). max_priorities: PRIORITY and
    PRIORITY_UPDATE frames, two more for each stream (CVE-2019-9513). max_window_updates: WINDOW_UPDATE frames, two more
    for each piece of a body that we have sent. max_empty_frames: DATA without content, and HEADERS and CONTINUATION
    without a byte, that do not end a stream (CVE-2019-9518). max_small_windows: pieces of bodies that are smaller than
    MIN_WINDOWED_PIECE because the peer's window is (CVE-2019-9511). max_unknown_frames: frames of unknown types.
    max_glitches: all of these together, but for those that others allow.
    """

    max_concurrent_streams: int = 100
    stream_window: int = 65536
    connection_window: int = 262144
    max_frame_size: int = MIN_FRAME_SIZE
    max_block_size: int = 65536
    max_continuations: int = 8
    max_list_size: int = 65536
    max_fields: int = 512
    max_crumbs: int = 256
    interval: int = 10
    max_resets: int = 500
    max_stream_errors: int = 100
    max_settings: int = 50
    max_pings: int = 100
    max_priorities: int = 400
    max_window_updates: int = 1000
    max_empty_frames: int = 100
    max_small_windows: int = 1000
    max_unknown_frames: int = 100
    max_glitches: int = 1000
