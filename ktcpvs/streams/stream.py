"""One side of a connection as a Twisted protocol that tells its owner what happens, and nothing more.

The owner sets `dataReceived`, `ended` and `lost`, and sets them anew when the connection's state changes: what
a packet means is decided when the state changes, not when the packet comes.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.system.sockets import RESET_ON_CLOSE, has_fin, has_input, is_over, unsent
from ktcpvs.system.timer_wheel import Timer


def nothing(*_: Any) -> None:
    """What an owner sets who does not want to hear of something."""


@implementer(IHalfCloseableProtocol)
class Stream(Protocol):
    """made(): connected. dataReceived(data). ended(): the peer will send no more. lost(clean): it is over;
    clean: False after a reset or another error. much(): the peer sends a lot; told once at most, and by uvloop's only.

    resting: its owner has what it wants of the peer, and need not be told should that go away. timer: of its close;
    cancelled when the connection is gone."""

    transport: Any
    timer: Timer | None = None
    dataReceived: Callable[[bytes], object]  # type: ignore[assignment]

    def __init__(self, made: Callable[[], object] = nothing) -> None:
        self.made = made
        self.ended: Callable[[], object] = nothing
        self.lost: Callable[[bool], object] = nothing
        self.much: Callable[[], object] = nothing
        self.is_open = False
        self.resting = False

    def connectionMade(self) -> None:
        self.is_open = True
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            with contextlib.suppress(OSError):  # the peer has gone already: reading will tell
                set_no_delay(True)
        self.made()

    def readConnectionLost(self) -> None:
        self.ended()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.over(reason.check(ConnectionDone) is not None)

    def over(self, clean: bool) -> None:
        """The connection is gone. clean: both sides have ended it in order."""
        self.is_open = False
        if self.timer is not None:
            self.timer.cancel()
        lost, self.lost, self.ended = self.lost, nothing, nothing
        self.dataReceived = nothing
        lost(clean)
        # Nothing of a connection may hold on to the rest of it: memory comes back now, not when cycles are sought.
        self.transport = None
        self.made = self.much = nothing

    def unsent(self) -> int:
        """Bytes that the peer has not taken yet, here and in the system; 0 when it is over."""
        if not self.is_open:
            return 0
        buffered = getattr(self.transport, "buffered", None)  # Twisted's transports do not tell
        return unsent(self.transport.getHandle()) + (buffered() if buffered is not None else 0)

    def is_gone(self) -> bool:
        """True when the peer has reset the connection, though it may not be read of yet."""
        return not self.is_open or is_over(self.transport.getHandle())

    def has_input(self) -> bool:
        """True when the peer has said something, or has ended or reset the connection, and that was not read yet."""
        return not self.is_open or has_input(self.transport.getHandle())

    def has_ended(self) -> bool:
        """True when the peer has sent its FIN, though it may not be read of yet."""
        return self.is_open and has_fin(self.transport.getHandle())

    # What an owner does with it.

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self.is_open:
            self.transport.pauseProducing()

    def resume(self) -> None:
        if self.is_open:
            self.transport.resumeProducing()

    def end(self) -> None:
        """Send what is buffered, then a FIN; reading goes on."""
        if self.is_open:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def close(self) -> bool:
        """Send what is buffered, then close. True: nothing is buffered, so the peer cannot delay it."""
        if self.is_open:
            self.transport.unregisterProducer()
            return self.transport.loseConnection() is True
        return True

    def reset(self) -> None:
        """Close at once and tell the peer by a reset."""
        if self.is_open:
            self.transport.abortConnection()

    def close_with_reset(self) -> bool:
        """As `close`, but with a reset: the other side was reset after it had said something."""
        if self.is_open:
            handle = self.transport.getHandle()
            if handle.family != socket.AF_UNIX:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                self.transport._shouldShutdown = False  # a FIN before the reset would look like a proper end
        return self.close()
