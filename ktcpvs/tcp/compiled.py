"""The compiled methods of whole connections, where they are installed.

`_connection.c` has the methods of `TCPClientConnection` that every connection calls. They work on the same objects and
leave what is unusual to the methods that are written in Python, which the class keeps without the extension.
"""

from __future__ import annotations

from ktcpvs.dispatch import compiled  # noqa: F401 - replaces the methods of the base class
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.service_access_log import ServiceAccessLog
from ktcpvs.dispatch.service_context import ServiceContext, no_preconnection
from ktcpvs.interfaces import CONNECTION, FIRST_REQUEST
from ktcpvs.model import connection as life
from ktcpvs.model.destination import Destination, Lease, SharedDestination
from ktcpvs.model.scheduling import Choice, Request
from ktcpvs.protocols.client_hello import Alert
from ktcpvs.protocols.http1.grammar import REQUEST_HEAD
from ktcpvs.relay.copy import CopyRelay, Direction
from ktcpvs.streams.bare_connect import BareAttempt
from ktcpvs.streams.connector import Connector
from ktcpvs.streams.lingering_close import close_gracefully
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing
from ktcpvs.system.method_forms import use_extension
from ktcpvs.tcp.connection import TCPClientConnection

forms = use_extension(
    "ktcpvs.tcp._connection",
    (TCPClientConnection,),
    {
        "connection": TCPClientConnection,
        "base": ClientConnection,
        "dispatcher": Dispatcher,
        "request": Request,
        "service": ServiceContext,
        "access_log": ServiceAccessLog,
        "stream": Stream,
        "connector": Connector,
        "choice": Choice,
        "lease": Lease,
        "destination": Destination,
        "shared_destination": SharedDestination,
        "relay": CopyRelay,
        "direction": Direction,
        "attempt": BareAttempt,
    },
    {
        "per_connection": CONNECTION,
        "first_request": FIRST_REQUEST,
        "opening": life.OPENING,
        "closed": life.CLOSED,
        "head": life.HEAD,
        "chosen": life.CHOSEN,
        "connected": life.CONNECTED,
        "finished": life.FINISHED,
        "client_gone": life.CLIENT_GONE,
        "handshake_failure": Alert.HANDSHAKE_FAILURE,
        "nothing": nothing,
        "no_preconnection": no_preconnection,
        "match_head": REQUEST_HEAD.match,
        "close_gracefully": close_gracefully,
    },
)
"""None without the extension."""
