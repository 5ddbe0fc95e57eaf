"""The compiled methods of client connections, where they are installed.

`_connection.c` has the methods that every connection or every message calls: of `ClientConnection`, `Dispatcher`,
`Lease`, `CopyRelay` and `Direction`. They work on the same objects and leave what is unusual to the methods that are
written in Python, which the classes keep without the extension.
"""

from __future__ import annotations

from ktcpvs.dispatch.client_connection import CLOSED, ClientConnection, nothing_to_end
from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.selection import Selector
from ktcpvs.dispatch.service_context import RelayChoice, ServiceContext
from ktcpvs.model.destination import Destination, Lease, SharedDestination
from ktcpvs.model.scheduling import NONE, Choice, Request
from ktcpvs.model.service import COPY
from ktcpvs.relay.copy import CopyRelay, Direction
from ktcpvs.streams.stream import Stream
from ktcpvs.system import log as levels
from ktcpvs.system.method_forms import use_extension
from ktcpvs.system.timer_wheel import Timer, TimerWheel

forms = use_extension(
    "ktcpvs.dispatch._connection",
    (ClientConnection, Dispatcher, Lease, CopyRelay, Direction),
    {
        "connection": ClientConnection,
        "dispatcher": Dispatcher,
        "request": Request,
        "service": ServiceContext,
        "selector": Selector,
        "choice": Choice,
        "lease": Lease,
        "destination": Destination,
        "shared_destination": SharedDestination,
        "timer": Timer,
        "wheel": TimerWheel,
        "relay": CopyRelay,
        "relay_choice": RelayChoice,
        "direction": Direction,
        "stream": Stream,
    },
    {
        "none": NONE,
        "nothing_to_end": nothing_to_end,
        "closed": CLOSED,
        "copy": COPY,
        "state_level": levels.STATE,
        "scheduling_level": levels.SCHEDULING,
    },
)
"""None without the extension."""
