"""The waiting that a command of tcpvsadm does: done by blocking calls, or by an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import frozen

from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm.invocation import Invocation


@frozen
class SessionIO:
    """The calls of a command that wait. connect: connects to the daemon. sleep: waits for that many seconds. show_top:
    runs --top; None: it cannot."""

    connect: Callable[[], Awaitable[SwitchBase]]
    sleep: Callable[[float], Awaitable[object]]
    show_top: Callable[[SwitchBase, Invocation], Awaitable[None]] | None = None
