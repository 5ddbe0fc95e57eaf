"""The end of the reactor, for which several events may ask."""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.internet.error import ReactorNotRunning


def stop_reactor(reactor: Any) -> None:
    """Stop the reactor, unless it stops already: a signal may come while the daemon hands over, or the other way
    round."""
    with contextlib.suppress(ReactorNotRunning):
        reactor.stop()
