"""The contract of what notes the facts about a request while it is served: an access log entry, or a traced request."""

from __future__ import annotations

from typing import Protocol

from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, OwnResponse


class RequestNotes(Protocol):
    """Notes about one request, or about one connection that is relayed as a whole."""

    def head_complete(self, method: bytes, target: bytes, minor: int, lines: bytes) -> None:
        """Note the request. minor: 1 for HTTP/1.1, 0 for HTTP/1.0. lines: its header lines."""

    def trace_begun(self, trace_id: bytes, span_id: bytes) -> None:
        """Note the IDs of the request's trace and of its span, as hexadecimal digits."""

    def queued(self) -> None:
        """The request begins to wait for a server that has room."""

    def server_chosen(self, choice: Choice) -> None:
        """Note the server that the request is sent to."""

    def client_found(self, client: str) -> None:
        """Note the address of the client, if it is not that of the connection."""

    def response_chosen(self, response: OwnResponse) -> None:
        """Note that a rule responds in place of a server."""

    def connected(self, is_reused: bool) -> None:
        """Note that there is a server connection, and whether it is a kept one."""

    def retried(self) -> None:
        """Note that a server failed and the request is sent again."""

    def server_failed(self, destination: Destination, reason: str) -> None:
        """Note why a server has failed the request. reason: in words."""

    def response_begun(self, status: int, head_size: int) -> None:
        """Note the response's first byte. head_size: bytes."""

    def response_ended(self, head: bytes, trailers: bytes) -> None:
        """Note the end of a response. head, trailers: of the response."""

    def decided(self, why: str) -> None:
        """Note why the request is refused or answered by the switch itself, in words of `model/why.py`."""

    def refused(self, status: int, response: bytes) -> None:
        """Note a response of the switch itself, whose bytes are in no other count."""

    def end(self, moved: tuple[int, int], ending: str) -> None:
        """The request is over. moved: bytes from and to the client until now. ending: the reason of the end."""
