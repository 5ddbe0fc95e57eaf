"""The compiled methods with which HTTP client connections begin and end, where they are installed.

`_fast_path.c` has them, beside the fast path that `fast_path.py` uses. They work on the same objects and leave what is
unusual to the methods that are written in Python, which the classes keep without the extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.dispatch import compiled  # noqa: F401 - replaces the methods of the base class
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.client_connection import HTTPClientConnection
from ktcpvs.http.exchange import Exchange
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.http.service import HTTPService
from ktcpvs.model import exchange as life
from ktcpvs.system.method_forms import MethodForms

forms: MethodForms | None = None
"""None without the extension."""

if not TYPE_CHECKING:
    try:
        from ktcpvs.http._fast_path import configure_connections
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        forms = MethodForms(
            (HTTPClientConnection, Exchange),
            configure_connections(
                {
                    "connection": HTTPClientConnection,
                    "stream_connection": HTTP2StreamConnection,
                    "base": ClientConnection,
                    "exchange": Exchange,
                    "http": HTTPService,
                    "service": ServiceContext,
                },
                life.CLOSED,
                life.FINISHED,
                life.CLIENT_GONE,
            ),
        )
        forms.use_compiled()
