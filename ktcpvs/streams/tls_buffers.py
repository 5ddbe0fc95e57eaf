"""The memory BIOs through which OpenSSL reads and writes for TLS connections, and its errors in words.

All TLS connections of one reactor use one pair of memory BIOs in turn: OpenSSL takes whatever is in the incoming one
before it asks for more, and what it has written is sent at once. So a connection has no buffers but those of OpenSSL
itself, which frees them while the connection is idle.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

_ALERT = "_ALERT_"


class TLSBuffers:
    """The memory BIOs that all TLS connections of one reactor use in turn, never from two threads.

    Both are empty between two operations. call_soon: calls its argument in the reactor's next turn.
    """

    __slots__ = ("__weakref__", "call_soon", "incoming", "outgoing")

    def __init__(self, call_soon: Callable[[Callable[[], object]], object]) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.call_soon = call_soon


_buffers: WeakKeyDictionary[Any, TLSBuffers] = WeakKeyDictionary()


def buffers_of(reactor: Any) -> TLSBuffers:
    """The buffers of this reactor, for which it needs an IReactorTime or a uvloop (`reactor.uv`)."""
    found = _buffers.get(reactor)
    if found is None:
        loop = getattr(reactor, "uv", None)
        # A lambda that holds the reactor would keep it in the dictionary for ever.
        soon = loop.call_soon if loop is not None else _Soon(reactor)
        found = _buffers[reactor] = TLSBuffers(soon)
    return found


class _Soon:
    """Calls a function in the next turn of a reactor of Twisted's."""

    def __init__(self, reactor: Any) -> None:
        self._later = reactor.callLater

    def __call__(self, call: Callable[[], object]) -> None:
        self._later(0, call)


def failure_reason(error: ssl.SSLError) -> str:
    """Explain an error of OpenSSL's: `certificate has expired`, `the peer sent an alert: unknown ca`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message = str(error.verify_message).rstrip(".")
        return message if message[1:2].isupper() else message[:1].lower() + message[1:]  # not of `IP address mismatch`
    reason = error.reason or str(error)
    _, is_alert, alert = reason.partition(_ALERT)
    words = (alert if is_alert else reason).replace("_", " ").lower()
    return f"the peer sent an alert: {words}" if is_alert else words
