"""The collaborators that the client connections of one HTTP service share, those with TLS and those without."""

from __future__ import annotations

from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.head_cache import HeadCache
from ktcpvs.http.retries import Retries
from ktcpvs.http.server_connection import ServerConnections
from ktcpvs.model.settings import Settings

CHECK_INTERVAL = 5
"""Seconds between two checks of a client connection's timeouts."""


class HTTPService:
    """context: shared by all kinds of connections. connections: to the service's servers. cache: parsed heads.

    retries: decides about requests that are sent again. access_log, selector, kept: of the above, which each request
    needs. https_port: where each request is redirected to; None: it is served.
    """

    __slots__ = (
        "_checked", "_interval", "access_log", "cache", "connections", "context", "https_port", "kept", "retries",
        "selector",
    )  # fmt: skip

    def __init__(self, context: ServiceContext, connections: ServerConnections, cache: HeadCache) -> None:
        self.context = context
        self.connections = connections
        self.cache = cache
        self.retries = Retries(context)
        self.access_log = context.access_log
        self.selector = context.selector
        self.kept = connections.pool.kept
        self.https_port: int | None = None
        self._checked: Settings | None = None  # those of `_interval`
        self._interval = 0

    @property
    def check_interval(self) -> int:
        """Seconds until the next check of a client's timeouts: CHECK_INTERVAL, or the shortest timeout if that is
        less."""
        settings = self.context.settings
        if self._checked is not settings:
            self._checked = settings
            times = settings.head_timeout, settings.keepalive_timeout, settings.response_timeout
            may_be_off = settings.first_byte_timeout or CHECK_INTERVAL, settings.read_timeout or CHECK_INTERVAL
            self._interval = min(CHECK_INTERVAL, *times, *may_be_off)
        return self._interval
