"""The collaborators that the client connections of one HTTP service share."""

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
    needs.
    """

    __slots__ = (
        "_checked", "_interval", "access_log", "cache", "connections", "context", "kept", "retries", "selector",
    )  # fmt: skip

    def __init__(self, context: ServiceContext, connections: ServerConnections, cache: HeadCache) -> None:
        self.context = context
        self.connections = connections
        self.cache = cache
        self.retries = Retries(context)
        self.access_log = context.access_log
        self.selector = context.selector
        self.kept = connections.pool.kept
        self._checked: tuple[Settings, int] | None = None  # the settings, and the service's own, of `_interval`
        self._interval = 0

    @property
    def check_interval(self) -> int:
        """Seconds until the next check of a client's timeouts: CHECK_INTERVAL, or the shortest timeout if that is
        less."""
        settings, first_byte, checked = self.context.context.settings, self.context.first_byte_timeout, self._checked
        if checked is None or checked[0] is not settings or checked[1] != first_byte:
            self._checked = settings, first_byte
            times = settings.head_timeout, settings.keepalive_timeout, settings.response_timeout
            may_be_off = first_byte or CHECK_INTERVAL, settings.read_timeout or CHECK_INTERVAL
            self._interval = min(CHECK_INTERVAL, *times, *may_be_off)
        return self._interval
