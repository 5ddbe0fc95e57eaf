"""The fast path of ordinary frames and whole messages in compiled code, where that is installed.

The functions do what the methods of `Connection`, `Server` and `Client` do that call them, and leave what is unusual to
these methods, before anything has changed. Without the extension, everything is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


def read_frames(connection: Any, data: bytes, position: int) -> int:
    """Read ordinary frames from `position` on; return where the first one begins that is not ordinary, or not complete.
    Raises HPACKError."""
    return position


def join_responses(client: Any, events: list[Any]) -> list[Any] | None:
    """Return the events with those of each whole response as one; None: the caller must do it."""
    return None


def respond(server: Any, stream_id: int, data: bytes, method: bytes) -> bool | None:
    """Send a whole response; return whether the windows allow that. None: the caller must do it."""
    return None


def request(client: Any, data: bytes, scheme: bytes, is_whole: bool) -> int | None:
    """Begin a request; return its stream, or 0 if the windows do not allow it. None: the caller must do it."""
    return None


IS_COMPILED = False

if not TYPE_CHECKING:
    try:
        from ktcpvs.protocols.http2._compiled import join_responses as join_responses
        from ktcpvs.protocols.http2._compiled import read_frames as read_frames
        from ktcpvs.protocols.http2._compiled import request as request
        from ktcpvs.protocols.http2._compiled import respond as respond
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        IS_COMPILED = True
