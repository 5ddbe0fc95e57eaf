"""The collaborators that the client connections of one HTTP service share."""

from __future__ import annotations

from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.head_cache import HeadCache
from ktcpvs.http.server_connection import ServerConnections


class HTTPService:
    """context: shared by all kinds of connections. connections: to the service's servers. cache: parsed heads."""

    __slots__ = ("cache", "connections", "context")

    def __init__(self, context: ServiceContext, connections: ServerConnections, cache: HeadCache) -> None:
        self.context = context
        self.connections = connections
        self.cache = cache
