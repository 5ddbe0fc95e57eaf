"""The fast path of plain requests in compiled code, where that is installed.

`client_receiver` and `server_receiver` make what a stream calls with received data. The compiled receivers do what
`HTTPClientConnection.receive`, `ServerConnection.receive` and the exchange do for plain messages, and call these for
everything else. Without the extension the receivers are these methods themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.selection import Selector
from ktcpvs.dispatch.service_access_log import ServiceAccessLog
from ktcpvs.http.head_cache import CLOSE, MAX_CACHED_REQUEST, MAX_REQUESTS, CachedResponse, HeadCache
from ktcpvs.http.message_edits import ServiceEdits
from ktcpvs.http.whole_messages import (
    MAX_WHOLE_REQUEST,
    MAX_WHOLE_RESPONSE,
    RequestHead,
    WholeRequests,
    WholeResponses,
)
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Destination, Lease, SharedDestination
from ktcpvs.model.latency import BUCKETS, Latencies
from ktcpvs.model.modifiers import Modifiers
from ktcpvs.model.outcome import OK, Outcome
from ktcpvs.model.recent import DECAY, ErrorRate, Latency
from ktcpvs.model.scheduling import Choice, ModifiedChoice, Request, by_chooser
from ktcpvs.protocols.http1.body import MAX_COST_PER_CALL
from ktcpvs.protocols.http1.plain import PlainRequest
from ktcpvs.streams.stream import Stream

Receive = Callable[[bytes], object]
"""Takes what a stream has received."""

SENT = life.TABLE[life.IDLE][life.SENT]
WHOLE = life.TABLE[life.WAITING][life.WHOLE]


def _receive(owner: Any, wheel: Any) -> Receive:
    receive: Receive = owner.receive
    return receive


client_receiver: Callable[[Any, Any], Receive] = _receive
"""Called with a client connection and the timer wheel."""

server_receiver: Callable[[Any, Any], Receive] = _receive
"""Called with a server connection and the timer wheel."""

IS_COMPILED = False

if not TYPE_CHECKING:
    try:
        from ktcpvs.http._fast_path import client_receiver as client_receiver
        from ktcpvs.http._fast_path import configure
        from ktcpvs.http._fast_path import server_receiver as server_receiver
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        IS_COMPILED = True
        configure(
            {
                "dispatcher": Dispatcher,
                "request": Request,
                "selector": Selector,
                "cache": HeadCache,
                "choice": Choice,
                "lease": Lease,
                "destination": Destination,
                "shared_destination": SharedDestination,
                "latencies": Latencies,
                "latency": Latency,
                "error_rate": ErrorRate,
                "outcome": Outcome,
                "response": CachedResponse,
                "stream": Stream,
                "access_log": ServiceAccessLog,
                "log_writer": AccessLogWriter,
                "plain": PlainRequest,
                "service_edits": ServiceEdits,
                "modified_choice": ModifiedChoice,
                "modifiers": Modifiers,
                "whole_requests": WholeRequests,
                "request_head": RequestHead,
                "whole_responses": WholeResponses,
            },
            (life.IDLE, SENT, WHOLE),
            BUCKETS,
            CLOSE,
            OK,
            by_chooser,
            DECAY,
            (MAX_REQUESTS, MAX_CACHED_REQUEST, MAX_WHOLE_REQUEST, MAX_WHOLE_RESPONSE, MAX_COST_PER_CALL),
        )
