"""The compiled methods of streams on bare sockets, where they are installed.

`_bare.c` has the methods that nearly every connection calls: of `BareTransport`, `BareAttempt`, `Stream` and
`SocketPoller`. They work on the same objects and leave what is unusual to the other methods of these classes. Without
the extension, the classes keep the methods that are written in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ktcpvs.model.address import Inet
from ktcpvs.streams import poller
from ktcpvs.streams.bare_connect import BareAttempt
from ktcpvs.streams.bare_transport import (
    ALL_EVENTS,
    BULK_READ_SIZE,
    BULK_SIZE,
    MAX_UNDIVIDED,
    READ_EVENTS,
    READ_SIZE,
    BareTransport,
)
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing
from ktcpvs.system import sockets
from ktcpvs.system.method_forms import use_extension

classes = BareTransport, Stream, poller.SocketPoller, BareAttempt

forms = use_extension(
    "ktcpvs.streams._bare",
    classes,
    *classes,
    Inet,
    (nothing, sockets.accept_descriptor),
    vars(poller),
    (READ_SIZE, BULK_READ_SIZE, BULK_SIZE, MAX_UNDIVIDED),
    (READ_EVENTS, ALL_EVENTS),
)
"""None without the extension."""

accept_descriptor: Callable[[Any, int], tuple[int, Any] | None] = sockets.accept_descriptor

IS_COMPILED = forms is not None

if not TYPE_CHECKING and IS_COMPILED:
    from ktcpvs.streams._bare import accept_descriptor as accept_descriptor
