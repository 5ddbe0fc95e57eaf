"""The collaborators that the client connections of one HTTP service share, those with TLS and those without."""

from __future__ import annotations

from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.head_cache import HeadCache
from ktcpvs.http.retries import Retries
from ktcpvs.http.server_connection import ServerConnections


class HTTPService:
    """context: shared by all kinds of connections. connections: to the service's servers. cache: parsed heads.

    retries: decides about requests that are sent again. access_log, selector, kept: of the above, which each request
    needs. https_port: where each request is redirected to; None: it is served.
    """

    __slots__ = ("access_log", "cache", "connections", "context", "https_port", "kept", "retries", "selector")

    def __init__(self, context: ServiceContext, connections: ServerConnections, cache: HeadCache) -> None:
        self.context = context
        self.connections = connections
        self.cache = cache
        self.retries = Retries(context)
        self.access_log = context.access_log
        self.selector = context.selector
        self.kept = connections.pool.kept
        self.https_port: int | None = None
