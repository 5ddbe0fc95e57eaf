"""The collaborators that the client connections of one HTTP service share: those of one scheme and one version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ktcpvs.dispatch.client_limits import ClientLimits
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.dispatch.tracing import ServiceTracing
from ktcpvs.http.head_cache import HeadCache
from ktcpvs.http.message_edits import ServiceEdits
from ktcpvs.http.own_response_sender import OwnResponseSender
from ktcpvs.http.plain_path import PlainPath
from ktcpvs.http.retries import Retries
from ktcpvs.http.server_connections import ServerConnections
from ktcpvs.model.settings import Settings
from ktcpvs.model.tls_hosts import ForeignHosts
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing

CHECK_INTERVAL = 5
"""Seconds between two checks of a client connection's timeouts."""


class HTTPService:
    """The collaborators of the HTTP connections of one service. context: shared by all kinds of connections.
    connections: to the service's servers. cache: parsed heads.

    retries: decides about requests that are sent again. access_log, selector, kept: of the above, which each request
    needs. plain_path: the fast path of requests. edits: of messages. own_responses: sends those of the switch itself.
    https_port: where each request is redirected to; None: it is served. foreign_hosts: those of other TLS profiles,
    which are not served; None: there are none. begin_http2: serves a client that turns out to speak HTTP/2, given its
    stream, its address, the limits of its address and the bytes that have come.
    """

    __slots__ = (
        "_checked", "_interval", "access_log", "begin_http2", "cache", "connections", "context", "edits",
        "foreign_hosts", "https_port", "kept", "own_responses", "plain_path", "retries", "selector",
    )  # fmt: skip

    def __init__(
        self, context: ServiceContext, connections: ServerConnections, cache: HeadCache, is_http2: bool = False
    ) -> None:
        """is_http2: for the streams of clients of HTTP/2."""
        self.context = context
        self.connections = connections
        self.cache = cache
        self.begin_http2: Callable[[Stream, Any, ClientLimits | None, bytes], object] = nothing
        self.retries = Retries(context)
        self.edits = ServiceEdits(ServiceTracing(context, is_http2))
        self.own_responses = OwnResponseSender(context, self.edits)
        self.access_log = context.http2_access_log if is_http2 else context.access_log
        self.selector = context.selector
        self.kept = connections.pool.kept
        self.plain_path = PlainPath(context, connections, cache, self.edits, self.access_log)
        self.https_port: int | None = None
        self.foreign_hosts: ForeignHosts | None = None
        self._checked: Settings | None = None  # those of `_interval`
        self._interval = 0

    @property
    def check_interval(self) -> int:
        """Seconds until the next check of a client's timeouts: CHECK_INTERVAL, or the shortest timeout if that is
        less."""
        settings = self.context.settings
        if self._checked is not settings:
            self._checked = settings
            waits = settings.head_timeout, settings.body_prefix_timeout
            times = settings.keepalive_timeout, settings.response_timeout
            may_be_off = settings.first_byte_timeout, settings.read_timeout, settings.request_timeout
            self._interval = min(CHECK_INTERVAL, *waits, *times, *(seconds or CHECK_INTERVAL for seconds in may_be_off))
        return self._interval
