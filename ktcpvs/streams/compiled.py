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
from ktcpvs.system.method_forms import MethodForms

accept_descriptor: Callable[[Any, int], tuple[int, Any] | None] = sockets.accept_descriptor

IS_COMPILED = False

forms: MethodForms | None = None
"""None without the extension."""

if not TYPE_CHECKING:
    try:
        from ktcpvs.streams._bare import accept_descriptor as accept_descriptor
        from ktcpvs.streams._bare import configure
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        IS_COMPILED = True
        classes = BareTransport, Stream, poller.SocketPoller, BareAttempt
        forms = MethodForms(
            classes,
            configure(
                *classes,
                Inet,
                (nothing, sockets.accept_descriptor),
                vars(poller),
                (READ_SIZE, BULK_READ_SIZE, BULK_SIZE, MAX_UNDIVIDED),
                (READ_EVENTS, ALL_EVENTS),
            ),
        )
        forms.use_compiled()
