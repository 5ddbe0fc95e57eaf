"""Notes about a request while it is served: their contract, and the base of those that tell others everything too."""

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


class ChainedNotes:
    """Notes that tell everything to the next ones, such as an access log entry. Its subclasses note something
    themselves."""

    __slots__ = ("_entry",)

    def __init__(self, entry: RequestNotes | None) -> None:
        """entry: the next ones; None: there are none."""
        self._entry = entry

    def head_complete(self, method: bytes, target: bytes, minor: int, lines: bytes) -> None:
        if self._entry is not None:
            self._entry.head_complete(method, target, minor, lines)

    def trace_begun(self, trace_id: bytes, span_id: bytes) -> None:
        if self._entry is not None:
            self._entry.trace_begun(trace_id, span_id)

    def queued(self) -> None:
        if self._entry is not None:
            self._entry.queued()

    def server_chosen(self, choice: Choice) -> None:
        if self._entry is not None:
            self._entry.server_chosen(choice)

    def client_found(self, client: str) -> None:
        if self._entry is not None:
            self._entry.client_found(client)

    def response_chosen(self, response: OwnResponse) -> None:
        if self._entry is not None:
            self._entry.response_chosen(response)

    def connected(self, is_reused: bool) -> None:
        if self._entry is not None:
            self._entry.connected(is_reused)

    def retried(self) -> None:
        if self._entry is not None:
            self._entry.retried()

    def server_failed(self, destination: Destination, reason: str) -> None:
        if self._entry is not None:
            self._entry.server_failed(destination, reason)

    def response_begun(self, status: int, head_size: int) -> None:
        if self._entry is not None:
            self._entry.response_begun(status, head_size)

    def response_ended(self, head: bytes, trailers: bytes) -> None:
        if self._entry is not None:
            self._entry.response_ended(head, trailers)

    def decided(self, why: str) -> None:
        if self._entry is not None:
            self._entry.decided(why)

    def refused(self, status: int, response: bytes) -> None:
        if self._entry is not None:
            self._entry.refused(status, response)

    def end(self, moved: tuple[int, int], ending: str) -> None:
        if self._entry is not None:
            self._entry.end(moved, ending)
