"""Limits of one client address, as they apply to one of its connections (RFC 6585, section 4)."""

from __future__ import annotations

import math

from ktcpvs.dispatch.admission import Admission
from ktcpvs.model.clients import NOWHERE
from ktcpvs.model.scheduling import Request

TOO_MANY_REQUESTS = "too many requests from this client address"
TOO_MUCH_HEAD = "too many bytes of incomplete request heads from this client address"

_HEAD_OVERHEAD = len(b"  HTTP/1.1\r\n\r\n")
"""Bytes of a request's head besides its method, target and header lines."""


def _head_size(request: Request) -> int:
    return len(request.method or b"") + len(request.target or b"") + len(request.lines) + _HEAD_OVERHEAD


class ClientLimits:
    """The limits for one client connection; connections of services without limits have none."""

    __slots__ = ("_admission", "_held", "_is_stream", "_slot")

    def __init__(self, admission: Admission, slot: int, is_stream: bool = False) -> None:
        """slot: where the client address counts, from `Admission.enter`. is_stream: of one stream of a connection that
        is counted itself."""
        self._admission = admission
        self._slot = slot
        self._is_stream = is_stream
        self._held = 0

    def of_stream(self) -> ClientLimits:
        """The limits for one stream of this connection."""
        return ClientLimits(self._admission, self._slot, is_stream=True)

    def allows(self, head_size: int) -> bool:
        """Count a request with a head of `head_size` bytes. Return False, without counting it, if it comes too
        early."""
        return not self._admission.wait_time(self._slot, head_size)

    def wait_time(self, request: Request) -> int:
        """Count a request. Return 0, or the seconds until the client may send it; then it is not counted."""
        return math.ceil(self._admission.wait_time(self._slot, _head_size(request)))

    def hold_head(self, size: int) -> bool:
        """Set the size of the connection's unfinished head; 0: there is none. Return False if that exceeds the
        limit."""
        more, self._held = size - self._held, size
        return not (more and self._admission.hold(self._slot, more) and size)

    def release(self) -> None:
        """Stop counting the connection, which is over."""
        if not self._is_stream:
            self._admission.leave(self._slot, self._held)
        elif self._held:
            self._admission.hold(self._slot, -self._held)


class ProxiedClientLimits(ClientLimits):
    """The limits for one connection of a trusted proxy: each request counts for the client that the proxy tells."""

    __slots__ = ()

    def __init__(self, admission: Admission) -> None:
        super().__init__(admission, NOWHERE)

    def of_stream(self) -> ClientLimits:
        return self

    def allows(self, head_size: int) -> bool:
        return False  # its client is found in the general way

    def wait_time(self, request: Request) -> int:
        slot = self._admission.slot_of(request.client)
        return 0 if slot == NOWHERE else math.ceil(self._admission.wait_time(slot, _head_size(request)))

    def hold_head(self, size: int) -> bool:
        return True  # an unfinished head does not tell whose it is

    def release(self) -> None:
        pass
