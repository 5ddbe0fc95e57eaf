"""The waiting that a command of tcpvsadm does: done by blocking calls, or by an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from attrs import frozen

from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm.invocation import Invocation


class TimeIsUp(Exception):
    """Work has not ended in its time. It is no TimeoutError, which is an error of a socket too."""


@frozen
class SessionIO:
    """The calls of a command that wait. connect: connects to the daemon. sleep: waits for that many seconds. within:
    does a piece of work, and raises TimeIsUp when it has not ended after that many seconds. show_top: runs --top; None:
    it cannot."""

    connect: Callable[[], Awaitable[SwitchBase]]
    sleep: Callable[[float], Awaitable[object]]
    within: Callable[[float, Coroutine[Any, Any, None]], Awaitable[None]]
    show_top: Callable[[SwitchBase, Invocation], Awaitable[None]] | None = None
