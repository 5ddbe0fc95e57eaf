"""The clock of a reactor's timers: one that nobody sets, as people, NTP and virtual machines set the system's time."""

from __future__ import annotations

import time
from typing import Any


def use_steady_clock(reactor: Any) -> None:
    """Let this reactor's timers go by the monotonic clock. To be called before any of them is started.

    Twisted's reactors read the system's time: when that is set back by an hour, no timer is due for an hour, so that no
    connection times out and no server is checked.
    """
    reactor.seconds = time.monotonic
