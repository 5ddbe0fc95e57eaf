"""A body of bytes and quiet connections, for clients on Twisted's HTTP client: those of etcd and of collectors."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.web.client import HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer


@implementer(IBodyProducer)
class BytesBody:
    """The body of a request, sent at once. treq would send bytes piece by piece, by the reactor that is installed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class _QuietFactory(_HTTP11ClientFactory):
    noisy = False  # no line of the log for each connection


class QuietPool(HTTPConnectionPool):
    """A pool of connections that logs nothing of them."""

    _factory = _QuietFactory

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)  # type: ignore[no-untyped-call]
        self._open: WeakSet[Any] = WeakSet()

    def _newConnection(self, key: Any, endpoint: Any) -> Any:
        connected = super()._newConnection(key, endpoint)
        return connected.addCallback(self._connected)

    def _connected(self, connection: Any) -> Any:
        self._open.add(connection)
        return connection

    def abort(self) -> None:
        """Close all connections at once. The transport that Twisted gives to the reader of a body can only close them
        once all is sent, which never happens if the server does not read."""
        for connection in list(self._open):
            connection.transport.abortConnection()
