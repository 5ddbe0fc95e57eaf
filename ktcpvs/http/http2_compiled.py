"""The compiled methods of the streams of HTTP/2 clients, where they are installed.

`_http2_streams.c` has them: what each usual request and its response call. They work on the same objects and leave what
is unusual to the methods that are written in Python, which the classes keep without the extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from ktcpvs.system.method_forms import MethodForms

forms: MethodForms | None = None
"""None without the extension."""

if not TYPE_CHECKING:
    try:
        from ktcpvs.http._http2_streams import configure
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        forms = MethodForms(
            (HTTP2ClientConnection, HTTP2Transport),
            configure(
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
                (life.IDLE, life.CLIENT_GONE, nothing_to_end, nothing),
                (MAX_PARKED, MAX_HEAD_BYTES, MAX_JOINED, levels.STATE),
            ),
        )
        forms.use_compiled()
