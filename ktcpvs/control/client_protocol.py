"""The client's end of a control connection: its AMP protocol, and the reasons why a connection fails."""

from __future__ import annotations

from typing import Any

from twisted.protocols import amp
from twisted.python.failure import Failure


class QuietAMP(amp.AMP):
    """AMP that does not log each connection that is made or lost."""

    def makeConnection(self, transport: Any) -> None:
        amp.BinaryBoxProtocol.makeConnection(self, transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        amp.BinaryBoxProtocol.connectionLost(self, reason)


class NoAnswer(Exception):
    """No daemon answers at the control address, or it closed the connection; the text says where and why."""


class NotTrusted(NoAnswer):
    """Something answers at the control address, but one side does not trust the other, or does not speak TLS."""


class NotPermitted(NoAnswer):
    """The control connection exists, but this user may not use it."""
