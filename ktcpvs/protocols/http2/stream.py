"""The state of one HTTP/2 stream."""

from __future__ import annotations


class StreamState:
    """One stream that is open, or half closed (RFC 9113, section 5.1); a closed one has no object.

    has_ended: the peer has sent END_STREAM. is_ended: we have. send_window: bytes of DATA that we may send; negative
    after the peer has made its initial window smaller. receive_window: those that the peer may send. credit: bytes that
    the owner has passed on and the peer was not told about. held: bytes that the owner has not passed on. length: of
    the body that we receive, as its Content-Length says; None: unknown. received: bytes of it that have come.
    is_blocked: the owner waits until more can be sent. method: of the request, on a client's side. has_response: the
    final response has begun, on a client's side.
    """

    __slots__ = (
        "credit", "has_ended", "has_response", "held", "is_blocked", "is_ended", "length", "method", "receive_window",
        "received", "send_window", "stream_id",
    )  # fmt: skip

    def __init__(self, stream_id: int, send_window: int, receive_window: int) -> None:
        self.stream_id = stream_id
        self.send_window = send_window
        self.receive_window = receive_window
        self.has_ended = self.is_ended = self.is_blocked = self.has_response = False
        self.credit = self.held = self.received = 0
        self.length: int | None = None
        self.method = b""

    def __repr__(self) -> str:
        state = ("open", "half closed (remote)", "half closed (local)", "closed")[self.has_ended + 2 * self.is_ended]
        return f"<StreamState {self.stream_id} {state}, may send {self.send_window}>"
