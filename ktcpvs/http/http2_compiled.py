"""The compiled methods of the streams of HTTP/2 clients, where they are installed.

`_http2_streams.c` has them: what each usual request and its response call. They work on the same objects and leave what
is unusual to the methods that are written in Python, which the classes keep without the extension.
"""

from __future__ import annotations

from ktcpvs.dispatch.client_connection import nothing_to_end
from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.dispatch.trusted_proxies import TrustedProxies
from ktcpvs.http import compiled  # noqa: F401 - replaces the methods of the base class
from ktcpvs.http.exchange import Exchange
from ktcpvs.http.http2_client_connection import MAX_PARKED, HTTP2ClientConnection
from ktcpvs.http.http2_response_heads import MAX_HEAD_BYTES, KnownHead, ResponseHeads
from ktcpvs.http.http2_sender import StreamSender
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.http.http2_transport import MAX_JOINED, HTTP2Transport
from ktcpvs.model import exchange as life
from ktcpvs.protocols.http2 import Request, RequestReceived
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing
from ktcpvs.system import log as levels
from ktcpvs.system.method_forms import use_extension

forms = use_extension(
    "ktcpvs.http._http2_streams",
    (HTTP2ClientConnection, HTTP2Transport),
    {
        "multiplexer": HTTP2ClientConnection,
        "transport": HTTP2Transport,
        "sender": StreamSender,
        "connection": HTTP2StreamConnection,
        "exchange": Exchange,
        "dispatcher": Dispatcher,
        "service": ServiceContext,
        "proxies": TrustedProxies,
        "stream": Stream,
        "heads": ResponseHeads,
        "known": KnownHead,
        "event": RequestReceived,
        "request": Request,
    },
    {
        "idle": life.IDLE,
        "client_gone": life.CLIENT_GONE,
        "nothing_to_end": nothing_to_end,
        "nothing": nothing,
        "max_parked": MAX_PARKED,
        "max_head": MAX_HEAD_BYTES,
        "max_joined": MAX_JOINED,
        "state_level": levels.STATE,
    },
)
"""None without the extension."""
