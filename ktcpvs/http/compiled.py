"""The compiled methods with which HTTP client connections begin and end, where they are installed.

`_fast_path.c` has them, beside the fast path that `fast_path.py` uses. They work on the same objects and leave what is
unusual to the methods that are written in Python, which the classes keep without the extension.
"""

from __future__ import annotations

from ktcpvs.dispatch import compiled  # noqa: F401 - replaces the methods of the base class
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.client_connection import HTTPClientConnection
from ktcpvs.http.exchange import Exchange
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.http.service import HTTPService
from ktcpvs.model import exchange as life
from ktcpvs.system.method_forms import use_extension

forms = use_extension(
    "ktcpvs.http._fast_path",
    (HTTPClientConnection, Exchange),
    {
        "connection": HTTPClientConnection,
        "stream_connection": HTTP2StreamConnection,
        "base": ClientConnection,
        "exchange": Exchange,
        "http": HTTPService,
        "service": ServiceContext,
    },
    {
        "closed": life.CLOSED,
        "finished": life.FINISHED,
        "client_gone": life.CLIENT_GONE,
    },
    function="configure_connections",
)
"""None without the extension."""
