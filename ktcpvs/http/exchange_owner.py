"""The contract between an exchange and the client connection that owns it."""

from __future__ import annotations

from typing import Protocol

from ktcpvs.dispatch.client_limits import ClientLimits
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import Frame, OwnMessage
from ktcpvs.streams.origin import Origin
from ktcpvs.streams.stream import Stream

SERVER_IS_FULL, PENDING_IS_FULL, CONNECTING, TURN_IS_OVER = 1, 2, 4, 8
"""Reasons not to read the client, as bits: the server's buffer is full, enough requests are pending, there is no server
connection yet, the received data takes more than one turn to process."""


class ExchangeOwner(Protocol):
    """The part of a client connection that its exchange uses.

    body: the framing of the request's body until its end has come. closes_after: the client wants the connection to end
    with this response. has_ended: the client has sent a FIN. held: reasons not to read the client. is_full: the client
    does not read. is_last: the connection ends with this response. last_activity: the tick at which bytes last came.
    pending: bytes of pipelined requests.
    """

    body: Frame | None
    client: Stream
    client_name: str
    closes_after: bool
    ending: str
    has_ended: bool
    held: int
    is_full: bool
    is_last: bool
    last_activity: int
    limits: ClientLimits | None
    pending: bytes
    state: str

    @property
    def request_size(self) -> int:
        """The bytes of the current request that have come, as its client has sent it."""

    @property
    def is_denied(self) -> bool:
        """Whether `deny` names the client that a trusted proxy has told for the current request."""

    def transition(self, event: str) -> None:
        """Change the state."""

    def body_received(self, size: int) -> None:
        """The whole body of the current request has come with its head. size: its bytes."""

    def hold(self, reason: int, held: bool) -> None:
        """Add or remove a reason not to read the client."""

    def exchange_finished(self) -> None:
        """The response has been written: handle the next request, or close."""

    def refused(self) -> None:
        """The switch has responded itself, and the connection stays open."""

    def send_last(self, response: OwnMessage, reason: str, why: str) -> None:
        """Send a response of the switch itself, and close the connection. reason: for the log. why: the same as words
        of `model/why.py`."""

    def retry_after(self, status: int, seconds: int) -> int:
        """The value of Retry-After; 0: none."""

    def begin_entry(self) -> None:
        """Begin an access log entry, where there is a log and none has begun."""

    def switch_protocols(self, response: http1.Response, protocols: bytes, rest: bytes) -> None:
        """The server has accepted an upgrade to `protocols`. rest: the bytes after its response."""

    def origin(self) -> Origin:
        """Return who the client is, for servers that are told so."""

    def moved(self) -> tuple[int, int]:
        """Bytes from the client and to it, so far."""

    def break_off(self) -> None:
        """Close a connection whose client has received only a part of a response."""

    def end_if_over(self) -> None:
        """End the connection if both sides are closed."""
