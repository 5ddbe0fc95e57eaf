"""Errors of connections in words, for the log and for listings, each said once.

Twisted's own texts say the same twice: "Connection was refused by other side: 111: Connection refused."
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.error import ConnectError, ConnectionLost
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str


def network_reason(why: Failure | BaseException) -> str:
    """Return an error in words, without a period at its end: in those of the operating system if it has given a number,
    else in those of whoever has raised it."""
    error: Any = why.value if isinstance(why, Failure) else why
    number = getattr(error, "osError", None)
    if isinstance(number, int) and number > 0:  # a name that is not found has a negative one, of the resolver
        return os.strerror(number)
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    if error.args and (type(error) is ConnectError or isinstance(error, ConnectionLost)):
        own = " ".join(safe_str(one) for one in error.args).strip()
        if own:
            return own.removesuffix(".")
    return safe_str(error).removesuffix(".") or type(error).__name__
