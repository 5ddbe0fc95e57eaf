"""Exceptions of scheduler plugins, which may be any: their text, and whether a user interrupts the program instead."""

from __future__ import annotations

import signal

from twisted.python.reflect import safe_repr

from ktcpvs.errors import shorten

MAX_TEXT_LENGTH = 800
"""The most characters of an exception's text in a message."""


def describe(error: BaseException | None) -> str:
    """Return an exception as text of one line for a message. Its repr() may raise, or be long."""
    return shorten(safe_repr(error), MAX_TEXT_LENGTH)


def raise_interrupt(error: BaseException) -> None:
    """Raise a KeyboardInterrupt again that Ctrl-C has caused, as in a simulation. Where Python itself does not handle
    SIGINT, as in a daemon that runs, a plugin has raised it: then return, as for any other exception."""
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        raise error
